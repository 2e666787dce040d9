"""The memory of a suspended machine: there exactly as long as it may be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qup.errors import StateError
from qup.model.network import Forward
from qup.model.suspension import OpenedForward, Suspension
from qup.paths import MachineFolder, Project
from qup.runner.observe import SUSPENDED, Observation
from qup.runner.open_ports import NO_PORTS, ports_of, read_ports
from qup.runner.suspended import (
    MANIFEST,
    consume,
    digest_file,
    discard,
    find_changed,
    is_suspended,
    look_at_disks,
    memory_of,
    open_draft,
    publish,
    put_back,
    read_suspension,
    remove_leftovers,
)

CONTENT = b"memory" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> MachineFolder:
    made = Project(tmp_path).machine("web")
    made.root.mkdir(parents=True)
    return made


def make(folder: MachineFolder) -> Suspension:
    file = open_draft(folder)
    file.write_bytes(CONTENT)
    found = Suspension(
        machine="0123456789ab",
        created="2026-11-24T10:00:00+00:00",
        size=len(CONTENT),
        sha256=digest_file(file),
        hardware={"memory_mib": 192, "nics": []},
        disks={"disk.qcow2": (10, 20)},
        waiting=True,
        ssh_port=2222,
        forwards=(
            OpenedForward(0, Forward("tcp", "127.0.0.1", 8080, 80)),
            OpenedForward(0, Forward("tcp", "127.0.0.1", 81, 81), Forward("tcp", "", 0, 81)),
        ),
    )
    publish(folder, found)
    return found


def test_it_comes_back_as_it_was(folder: MachineFolder) -> None:
    made = make(folder)
    assert is_suspended(folder)
    assert read_suspension(folder) == made
    assert memory_of(folder).read_bytes() == CONTENT
    assert folder.suspended.stat().st_mode & 0o777 == 0o700


def test_ports_are_those_of_then(folder: MachineFolder) -> None:
    made = make(folder)
    ports = read_ports(folder, Observation("web", SUSPENDED))
    assert ports == ports_of(made)
    assert ports.ssh == 2222
    assert [item.forward.host for item in ports.forwards] == [8080, 81]
    assert [(item.wanted.host, item.opened.host) for item in ports.kept] == [(0, 81)]
    discard(folder)
    assert read_ports(folder, Observation("web", SUSPENDED)) == NO_PORTS


def test_it_is_used_once(folder: MachineFolder) -> None:
    make(folder)
    consume(folder)
    assert not is_suspended(folder)
    put_back(folder)
    assert is_suspended(folder)
    assert discard(folder)
    assert not discard(folder)
    assert not list(folder.root.iterdir())


def test_what_a_killed_qup_left_is_no_memory(folder: MachineFolder) -> None:
    open_draft(folder).write_bytes(b"half of it")
    assert not is_suspended(folder)
    make(folder)
    consume(folder)
    remove_leftovers(folder)
    assert not list(folder.root.iterdir())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": 2}', "null", "[" * 100_000],
    ids=["empty", "half", "list", "nothing", "newer", "null", "deep"],
)
def test_a_damaged_manifest_is_said(folder: MachineFolder, text: str) -> None:
    make(folder)
    (folder.suspended / MANIFEST).write_text(text)
    with pytest.raises(StateError, match="memory is damaged") as caught:
        read_suspension(folder)
    assert "qup down --force web" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", "x"), ("sha256", None), ("size", "1"), ("disks", []), ("forwards", [1]),
     ("hardware", None), ("more", 1)],
)  # fmt: skip
def test_a_manifest_of_other_values_is_damaged(
    folder: MachineFolder, key: str, value: object
) -> None:
    made = make(folder)
    (folder.suspended / MANIFEST).write_text(json.dumps({**made.to_dict(), key: value}))
    with pytest.raises(StateError, match="memory is damaged"):
        read_suspension(folder)


def test_files_that_are_gone_or_shorter_are_named(folder: MachineFolder) -> None:
    make(folder)
    os.truncate(memory_of(folder), 10)
    with pytest.raises(StateError, match="10 bytes instead of 6000"):
        read_suspension(folder)
    memory_of(folder).unlink()
    with pytest.raises(StateError, match="memory can't be read"):
        read_suspension(folder)
    (folder.suspended / MANIFEST).unlink()
    assert is_suspended(folder), "its memory is lost: that has to be said, not hidden"
    with pytest.raises(StateError, match=r"suspension\.json can't be read"):
        read_suspension(folder)


def test_a_disk_that_went_on_alone_is_noticed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"1")
    os.utime(disk, ns=(5_000_000_007, 5_000_000_007))
    before = look_at_disks({"disk": disk})
    assert find_changed(before, before) is None
    os.utime(disk, ns=(5_000_000_000, 5_000_000_000))
    assert find_changed(before, look_at_disks({"disk": disk})) is None, "as archives keep it"
    os.utime(disk, ns=(5_000_000_008, 5_000_000_008))
    assert find_changed(before, look_at_disks({"disk": disk})) == "disk was changed"
    disk.write_bytes(b"12")
    os.utime(disk, ns=(5_000_000_007, 5_000_000_007))
    assert find_changed(before, look_at_disks({"disk": disk})) == "disk was changed"
    disk.unlink()
    assert find_changed(before, look_at_disks({"disk": disk})) == "disk is gone"
