"""Snapshots on disk: names, the tree, what an interruption leaves."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from qup.errors import MachineError, StateError, UsageError
from qup.files import clone_file
from qup.model.snapshot import Snapshot, walk_tree
from qup.model.state import Launch, State
from qup.ownership import make_private
from qup.paths import MachineFolder
from qup.runner import snapshots
from qup.runner.observe import Observation
from qup.runner.save import Wish, check_wish


@pytest.fixture
def folder(tmp_path: Path) -> MachineFolder:
    made = MachineFolder(tmp_path / ".qup" / "machines" / "web")
    make_private(made.root)
    return made


def make(folder: MachineFolder, name: str, number: int, parent: str | None = None) -> Snapshot:
    draft = snapshots.open_draft(folder)
    (draft / "disk.qcow2").write_bytes(b"disk" * number)
    made = Snapshot(f"{number:012x}", name, "0" * 12, f"2026-01-0{number}", parent=parent)
    return snapshots.publish(folder, made)


def names(folder: MachineFolder) -> list[tuple[int, str]]:
    return [(depth, item.name) for depth, item in walk_tree(snapshots.list_snapshots(folder))]


def test_a_snapshot_is_found_by_its_name(folder: MachineFolder) -> None:
    one = make(folder, "one", 1)
    assert snapshots.find_snapshot(folder, "one") == one
    assert one.files == {"disk.qcow2": 4}
    assert not one.live
    assert snapshots.read_mark(folder, snapshots.CURRENT) == one.id
    with pytest.raises(MachineError, match="no snapshot 'two'"):
        snapshots.find_snapshot(folder, "two")


def test_children_of_what_is_deleted_go_to_its_parent(folder: MachineFolder) -> None:
    root = make(folder, "root", 1)
    middle = make(folder, "middle", 2, root.id)
    make(folder, "leaf", 3, middle.id)
    assert names(folder) == [(0, "root"), (1, "middle"), (2, "leaf")]
    assert [item.name for item in snapshots.find_family(folder, middle)] == ["middle", "leaf"]
    snapshots.remove_snapshot(folder, middle)
    assert names(folder) == [(0, "root"), (1, "leaf")]
    snapshots.check_files(folder, snapshots.find_snapshot(folder, "leaf"))


def test_the_next_ones_parent_is_the_parent_of_a_deleted_one(folder: MachineFolder) -> None:
    root = make(folder, "root", 1)
    child = make(folder, "child", 2, root.id)
    snapshots.remove_snapshot(folder, child)
    assert snapshots.read_mark(folder, snapshots.CURRENT) == root.id
    snapshots.remove_snapshot(folder, root)
    assert snapshots.read_mark(folder, snapshots.CURRENT) is None


def test_a_replacement_takes_the_place_of_the_old_one(folder: MachineFolder) -> None:
    old = make(folder, "one", 1)
    make(folder, "two", 2, old.id)
    make(folder, "one", 3)
    assert names(folder) == [(0, "two"), (0, "one")]
    assert not (folder.snapshots / old.id).exists()


def test_what_was_cut_off_is_no_snapshot_and_is_removed(folder: MachineFolder) -> None:
    kept = make(folder, "one", 1)
    half = make(folder, "half", 2)
    (folder.snapshots / half.id / snapshots.MANIFEST).unlink()
    (snapshots.open_draft(folder) / "memory").write_bytes(b"x")
    assert snapshots.list_snapshots(folder) == [kept]
    snapshots.remove_leftovers(folder)
    assert {path.name for path in folder.snapshots.iterdir()} == {kept.id, "current"}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "x-", "a b", "ä", "x" * 65, "a\n"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="can't be called"):
        snapshots.check_name(name)


@pytest.mark.parametrize(
    "change",
    [{"id": "../../x"}, {"name": "../x"}, {"files": {"../x": 1}}, {"files": {}}, {"schema": 9}],
)
def test_a_manifest_that_lies_is_left_out(folder: MachineFolder, change: dict[str, object]) -> None:
    item = make(folder, "one", 1)
    path = folder.snapshots / item.id / snapshots.MANIFEST
    path.write_text(json.dumps({**item.to_dict(), **change}))
    assert snapshots.list_snapshots(folder) == []


@pytest.mark.parametrize("harm", ["missing", "shorter", "link"])
def test_damage_is_seen(folder: MachineFolder, harm: str) -> None:
    item = make(folder, "one", 1)
    path = folder.snapshots / item.id / "disk.qcow2"
    if harm == "shorter":
        path.write_bytes(b"x")
    else:
        path.unlink()
    if harm == "link":
        (folder.root / "other").write_bytes(b"disk")
        path.symlink_to(folder.root / "other")
    with pytest.raises(StateError, match="is damaged"):
        snapshots.check_files(folder, item)


def observed(status: str) -> Observation:
    launch = Launch("boot", "2026", "plan", "/run/x", ready=True)
    state = State("0" * 12, "uuid", "web", "/p", "2026", "tiny", "d" * 64, "qup", launch=launch)
    return Observation("web", status, state=state)


@pytest.mark.parametrize(
    ("status", "disk_only", "disk", "said"),
    [
        ("running", False, {"role": "disk-d", "image": "x.raw", "read_only": False}, "your image"),
        ("running", True, {"role": "disk"}, "runs: its disks change"),
        ("stopped", False, {"role": "disk"}, "no memory to save"),
        ("starting", False, {"role": "disk"}, "is starting"),
        ("panicked", False, {"role": "disk"}, "is panicked"),
    ],
)
def test_what_is_not_saved(
    folder: MachineFolder, status: str, disk_only: bool, disk: dict[str, object], said: str
) -> None:
    wish = Wish("one", disk_only=disk_only)
    with pytest.raises(MachineError, match=said):
        check_wish(folder, observed(status), {"disks": [disk]}, wish)


def test_a_read_only_image_is_no_obstacle(folder: MachineFolder) -> None:
    plan = {"disks": [{"role": "disk-d", "image": "x.raw", "read_only": True}]}
    check_wish(folder, observed("running"), plan, Wish("one"))


def test_orphans_are_roots(folder: MachineFolder) -> None:
    lost = replace(make(folder, "one", 1), parent="f" * 12)
    assert list(walk_tree([lost])) == [(0, lost)]


def test_a_copy_has_the_holes_of_the_original(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with one.open("wb") as file:
        file.write(b"begin")
        file.seek(8 << 20)
        file.write(b"middle")
        file.truncate(64 << 20)
    clone_file(one, other)
    assert other.read_bytes() == one.read_bytes()
    assert other.stat().st_blocks * 512 < 1 << 20
    assert os.stat(other).st_mode & 0o777 == 0o600
