"""Copying into a "guest" that is this computer: ssh is a script that runs the command here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from qup.errors import GuestError, HostError
from qup.guest.folders.copy import Copy
from qup.guest.folders.link import Link
from qup.guest.folders.ways import Way
from qup.model.folders import FolderPlan
from qup.paths import SshFolder
from qup.plugins import Plugins
from qup.testing import FakeHost
from tests.vm.lab import wait_until

SSH = """#!/bin/sh
while [ "$1" != -- ] && [ "$1" != guest ]; do shift; done
[ "$1" != -- ] || shift
shift
exec sh -c "$*"
"""


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("XDG_STATE_HOME")
    return Link(SshFolder(tmp_path / "it's a key"), "guest")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_text("one\n")
    (folder / "link").symlink_to("sub")
    for name in (b"a b", b"new\nline", b"bad\xff", b"#hash", b"-rf"):
        with open(os.path.join(os.fsencode(folder), name), "w") as file:
            file.write("odd")
    return folder


def plan(target: Path, kind: str, *, delete: bool = False) -> FolderPlan:
    return FolderPlan("folder0", "src", str(target), kind, delete=delete)


TYPES: Any = Plugins(installed=False).folder_types
ALL = [Way(TYPES[name]) for name in ("rsync", "tar", "sftp")]
NO_RSYNC = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
WAYS = [pytest.param("tar"), pytest.param("rsync", marks=NO_RSYNC)]


@pytest.mark.parametrize("kind", WAYS)
def test_a_copy_is_made_kept_and_brought_up_to_date(
    link: Link, source: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "the guest's" / "copy"
    copy = Copy(link, source, plan(target, kind), ALL)
    outcome = copy.update(copy.scan())
    assert (outcome.way, outcome.sent, outcome.failed.count) == (kind, 8, 0)
    assert sorted(os.listdir(os.fsencode(target))) == sorted(os.listdir(os.fsencode(source)))
    assert (target / "sub" / "x").read_text() == "one\n"
    assert os.readlink(target / "link") == "sub"
    again = Copy(link, source, plan(target, kind), ALL)
    assert not again.differs(again.scan())
    (target / "theirs").touch()
    (source / "sub" / "x").write_text("two\n")
    (source / "a b").unlink()
    (source / "link").unlink()
    (source / "link").mkdir()
    outcome = again.update(again.scan())
    assert (outcome.sent, outcome.removed) == (2, 1 + 1), outcome
    assert (target / "sub" / "x").read_text() == "two\n"
    assert (target / "link").is_dir()
    assert not (target / "link").is_symlink()
    assert (target / "theirs").exists()
    assert not (target / "a b").exists()
    cleaning = Copy(link, source, plan(target, kind, delete=True), ALL)
    assert cleaning.update(cleaning.scan()).removed == 1
    assert not (target / "theirs").exists()


def test_a_copy_whose_folder_was_emptied_is_made_anew(
    link: Link, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    copy = Copy(link, source, plan(target, "tar"), ALL)
    copy.update(copy.scan())
    shutil.rmtree(target)
    copy = Copy(link, source, plan(target, "tar"), ALL)
    assert copy.update(copy.scan()).sent == 8


def test_after_a_power_cut_everything_is_sent_again_and_can_still_be_removed(
    link: Link, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    copy = Copy(link, source, plan(target, "tar"), ALL)
    copy.update(copy.scan())
    notes = Path(os.environ["HOME"]) / ".local" / "state" / "qup" / "folders"
    (boot,) = notes.glob("*.boot")
    assert wait_until(lambda: [*notes.glob("*.safe")] and next(notes.glob("*.safe")).read_text())
    boot.write_text("another boot\n")
    copy = Copy(link, source, plan(target, "tar"), ALL)
    assert not copy.differs(copy.scan()), "it was safely on disk"
    (safe,) = notes.glob("*.safe")
    safe.write_text("0\n")
    boot.write_text("another boot\n")
    (target / "sub" / "x").write_text("")
    (source / "a b").unlink()
    copy = Copy(link, source, plan(target, "tar"), ALL)
    outcome = copy.update(copy.scan())
    assert (outcome.sent, outcome.removed) == (7, 1)
    assert (target / "sub" / "x").read_text() == "one\n"
    assert not (target / "a b").exists()


def test_a_damaged_note_is_written_anew(link: Link, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    copy = Copy(link, source, plan(target, "tar"), ALL)
    copy.update(copy.scan())
    notes = Path(os.environ["HOME"]) / ".local" / "state" / "qup" / "folders"
    (note,) = (path for path in notes.iterdir() if path.suffix == "")
    note.write_bytes(note.read_bytes()[:20] + bytes(30))
    copy = Copy(link, source, plan(target, "tar"), ALL)
    copy.update(copy.scan())
    copy = Copy(link, source, plan(target, "tar"), ALL)
    assert not copy.differs(copy.scan())


def test_a_folder_that_can_not_be_made(link: Link, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GuestError, match="can't be made"):
        Copy(link, source, plan(tmp_path / "file" / "copy", "tar"), ALL)


def test_a_way_that_is_not_there(link: Link, source: Path, tmp_path: Path) -> None:
    (problem,) = TYPES["rsync"].problems(FakeHost(programs=set()), "qemu-system-x86_64")
    with pytest.raises(HostError, match="this computer has no rsync"):
        Copy(link, source, plan(tmp_path / "copy", "rsync"), [Way(TYPES["rsync"], problem.message)])


@pytest.mark.parametrize("kind", WAYS)
def test_what_can_not_be_read_is_named_and_the_rest_arrives(
    link: Link, source: Path, tmp_path: Path, kind: str
) -> None:
    if os.getuid() == 0:
        pytest.skip("root reads everything")
    (source / "secret").touch()
    (source / "secret").chmod(0)
    copy = Copy(link, source, plan(tmp_path / "copy", kind), ALL)
    outcome = copy.update(copy.scan())
    assert "secret" in str(outcome.failed) or outcome.failed.count
    assert (tmp_path / "copy" / "sub" / "x").exists()
