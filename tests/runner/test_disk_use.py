"""What a machine takes of the disk, and how much of it a save point leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from qup.errors import HostError
from qup.model.snapshot import SAVE_POINT, Snapshot
from qup.model.units import GIB, MIB
from qup.ownership import make_private
from qup.paths import MachineFolder
from qup.runner import snapshots
from qup.runner.disk_use import read_disk_use
from qup.runner.save import RESERVE, SPARE, check_space

BLOCKS = 64 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> MachineFolder:
    made = MachineFolder(tmp_path / ".qup" / "machines" / "web")
    make_private(made.root)
    return made


def save(folder: MachineFolder, name: str, number: int) -> None:
    (snapshots.open_draft(folder) / "disk.qcow2").write_bytes(b"x" * number * BLOCKS)
    snapshots.publish(folder, Snapshot(f"{number:012x}", name, "0" * 12, f"2026-01-0{number}"))


def test_each_part_is_counted_once(folder: MachineFolder) -> None:
    assert read_disk_use(MachineFolder(folder.root.with_name("gone"))) is None
    folder.disk.write_bytes(b"x" * BLOCKS)
    make_private(folder.disks)
    folder.further_disk("data").write_bytes(b"x" * BLOCKS)
    save(folder, "one", 3)
    save(folder, SAVE_POINT, 4)
    make_private(folder.suspended)
    (folder.suspended / "memory").write_bytes(b"x" * 5 * BLOCKS)
    use = read_disk_use(folder)
    assert use is not None
    parts = (use.disks, use.snapshots, use.save_point, use.suspended)
    assert parts == (2 * BLOCKS, 3 * BLOCKS, 4 * BLOCKS, 5 * BLOCKS)
    assert sum(parts) <= use.total < sum(parts) + BLOCKS


def test_a_save_point_leaves_more_than_a_snapshot_that_is_asked_for(
    folder: MachineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=GIB))
    check_space(folder, 256 * MIB, SPARE)
    with pytest.raises(HostError, match="may take 256M and has to leave 1G, and 1G are free"):
        check_space(folder, 256 * MIB, RESERVE)
