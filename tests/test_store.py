"""What is written in ``.qup``: whole or not at all, by one at a time, and read by anybody."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qup import files, locks, store
from qup.errors import HostError, QupError, StateError
from qup.model.state import Launch, State
from qup.paths import MachineFolder, Project, index_root, undo_root
from tests.conftest import ROOT

STATE = State(
    id="0123456789ab",
    uuid="01234567-89ab-4cde-8f01-23456789abcd",
    name="web",
    project="/p",
    created="2026-01-01T00:00:00+00:00",
    box="tiny",
    box_digest="d" * 64,
    user="qup",
)
LAUNCH = Launch("boot", "2026-01-01T00:00:00+00:00", "p" * 64, "/run/x", "127.0.0.1", 4000, True)


@pytest.fixture
def folder(tmp_path: Path) -> MachineFolder:
    return store.create_folders(Project(tmp_path), "web")


# --- state --------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was(folder: MachineFolder) -> None:
    assert store.read_state(folder) is None
    for state in (STATE, STATE.with_launch(LAUNCH), replace(STATE, provisioned=("a", "b"))):
        store.write_state(folder, state)
        assert store.read_state(folder) == state
    assert folder.state.stat().st_mode & 0o777 == 0o600
    assert json.loads(folder.state.read_text())["schema"] == 1


WRITER = """
import sys
from pathlib import Path
from qup import store
from qup.paths import MachineFolder
from tests.test_store import STATE
from dataclasses import replace
folder = MachineFolder(Path(sys.argv[1]))
number = 0
while True:
    store.write_state(folder, replace(STATE, provisioned=tuple(str(number) * 500)))
    number += 1
"""


def test_a_writer_that_is_killed_never_leaves_half_a_state(folder: MachineFolder) -> None:
    store.write_state(folder, STATE)
    chance = random.Random(7)
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder.root)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as writer:
            until = time.monotonic() + 0.25 + chance.random() * 0.15
            while time.monotonic() < until:
                assert store.read_state(folder) is not None
            writer.kill()
        assert store.read_state(folder) is not None
    left = [path.name for path in folder.root.iterdir() if path.name.startswith(".")]
    assert len(left) <= 12  # aside, and never taken for the state


def test_a_write_that_fails_keeps_the_old(
    folder: MachineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_state(folder, STATE)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(HostError, match="No space left") as caught:
        store.write_state(folder, STATE.with_launch(LAUNCH))
    assert "free some space" in (caught.value.hint or "")
    monkeypatch.undo()
    assert store.read_state(folder) == STATE
    assert not [path for path in folder.root.iterdir() if path.name.startswith(".state")]


def test_what_is_written_is_on_disk_before_it_is_in_place(
    folder: MachineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F25: content, then name, then folder."""
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "content"
        calls.append(kind)
        real_fsync(handle)

    def rename(source: str, target: Path) -> None:
        calls.append("name")
        real_replace(source, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", rename)
    store.write_state(folder, STATE)
    assert calls == ["content", "name", "folder"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"schema": 1}', "\0", '"x"', "[" * 100_000, "\xff"]
)
def test_nonsense_is_damaged(folder: MachineFolder, text: str) -> None:
    folder.state.write_bytes(text.encode("latin-1"))
    with pytest.raises(StateError, match="damaged") as caught:
        store.read_state(folder)
    assert "destroy" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "bad", ["", "..", "../../x", "0123456789aB", "0123456789abc", "a/b", "x\n"]
)
def test_an_id_is_an_id(folder: MachineFolder, bad: str) -> None:
    folder.state.write_text(json.dumps({**STATE.to_dict(), "id": bad}))
    with pytest.raises(StateError):
        store.read_state(folder)


def test_a_newer_schema(folder: MachineFolder) -> None:
    folder.state.write_text(json.dumps({**STATE.to_dict(), "schema": 2, "more": {}}))
    with pytest.raises(StateError, match="newer qup"):
        store.read_state(folder)


# --- folders ------------------------------------------------------------------------------


def test_folders_are_private_and_ignored_by_git(folder: MachineFolder, tmp_path: Path) -> None:
    os.chmod(tmp_path / ".qup", 0o755)
    store.create_folders(Project(tmp_path), "web")
    for path in (tmp_path / ".qup", folder.root, folder.ssh, folder.logs):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert (tmp_path / ".qup" / ".gitignore").read_text() == "*\n"
    assert store.machine_names(Project(tmp_path)) == ["web"]
    assert store.machine_names(Project(tmp_path / "nowhere")) == []


def test_a_link_out_of_the_project_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".qup").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError):
        store.create_folders(Project(tmp_path), "web")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_removing_is_complete_and_can_be_repeated(folder: MachineFolder) -> None:
    store.write_state(folder, STATE)
    (folder.root / "deep" / "er").mkdir(parents=True)
    outside = folder.root.parent / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (folder.root / "link").symlink_to(outside)
    store.remove_machine(folder)
    store.remove_machine(folder)
    assert not folder.root.exists()
    assert (outside / "file").exists()


def test_removing_goes_on_when_somebody_notes_something_meanwhile(
    folder: MachineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever waits for the machine's lock does, in its log."""
    remove = os.rmdir
    written = []

    def write_first(path: str, **where: int | None) -> None:
        if path == folder.logs.name and len(written) < 2:
            written.append(folder.log("qup").write_text("waiting"))
        remove(path, **where)

    folder.log("qup").write_text("before")
    monkeypatch.setattr(os, "rmdir", write_first)
    store.remove_machine(folder)
    assert len(written) == 2
    assert not folder.root.exists()


# --- locks --------------------------------------------------------------------------------


def hold(path: Path, ready: multiprocessing.synchronize.Event, seconds: float) -> None:
    with locks.lock(path, what="it", timeout=5.0):
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", ready, 60.0))
    process.start()
    assert ready.wait(10)
    yield process  # type: ignore[misc]
    process.kill()
    process.join()


def test_a_lock_waits_says_for_whom_and_gives_up(
    tmp_path: Path, holder: multiprocessing.Process
) -> None:
    told: list[str] = []
    began = time.monotonic()
    with (
        pytest.raises(StateError) as caught,
        locks.lock(tmp_path / "lock", what="machine web", timeout=0.4, on_wait=told.append),
    ):
        pytest.fail("it is held")
    assert 0.3 < time.monotonic() - began < 3
    assert len(told) == 1
    for text in (told[0], caught.value.message):
        assert "machine web" in text
        assert f"pid {holder.pid}" in text
    assert "--lock-timeout" in (caught.value.hint or "")


def test_a_lock_is_free_when_its_holder_is_killed(
    tmp_path: Path, holder: multiprocessing.Process
) -> None:
    threading.Timer(0.3, holder.kill).start()
    with locks.lock(tmp_path / "lock", what="it", timeout=10.0):
        found = locks.read_holder(tmp_path / "lock")
        assert found is not None
        assert found.pid == os.getpid()


def test_a_file_that_is_left_over_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 1, "command": "qup", "user": "x", "since": 0}')
    with locks.lock(tmp_path / "lock", what="it", timeout=0.0):
        pass
    (tmp_path / "lock").write_text("nonsense")
    with locks.lock(tmp_path / "lock", what="it", timeout=0.0):
        pass


def test_a_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.lock(tmp_path / "l", what="it", timeout=0.0):
            1 / 0  # noqa: B018


def test_a_lock_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(QupError, match="lock"),
        locks.lock(tmp_path / "lock", what="it", timeout=0.0),
    ):
        pass


def count(path: Path, number: int) -> None:
    for _ in range(number):
        with locks.lock(path / "lock", what="it", timeout=30.0):
            total = int((path / "total").read_text())
            time.sleep(0.001)
            (path / "total").write_text(str(total + 1))


def test_only_one_holds_it(tmp_path: Path) -> None:
    (tmp_path / "total").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count, args=(tmp_path, 10)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "total").read_text() == "40"


# --- the index and the journal ------------------------------------------------------------


def test_the_index(tmp_path: Path) -> None:
    assert store.indexed() == []
    assert store.lookup("0123456789ab") is None
    store.remember(STATE, Project(tmp_path))
    assert store.lookup(STATE.id) == (STATE.id, tmp_path, "web")
    (index_root() / "damaged.json").write_text("{")
    (index_root() / "list.json").write_text("[]")
    assert [entry.id for entry in store.indexed()] == [STATE.id]
    store.forget(STATE.id)
    store.forget(STATE.id)
    assert store.indexed() == []


def test_the_journal_is_undone_backwards_and_kept_with_the_user(tmp_path: Path) -> None:
    store.write_undo(STATE.id, [("first", "a b"), ("second",)])
    assert store.read_undo(STATE.id) == [["second"], ["first", "a b"]]
    assert not undo_root().is_relative_to(tmp_path)
    assert undo_root().stat().st_mode & 0o777 == 0o700
    store.clear_undo(STATE.id)
    assert store.read_undo(STATE.id) == []
    (undo_root() / f"{STATE.id}.json").write_text("{")
    assert store.read_undo(STATE.id) == []
