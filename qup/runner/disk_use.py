"""What a machine takes of this computer's disk: its disks, snapshots and saved memory.

``qup status`` imports this module if it is asked: nothing slow is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qup.model.snapshot import SAVE_POINT
from qup.paths import MachineFolder
from qup.runner.snapshots import BLOCK, list_all, measure


class DiskUse(NamedTuple):
    """Bytes that the files of a machine take up. What files share, as copies do on some file
    systems, counts for each.

    Attributes:
        total: all that is in the machine's folder, its logs as well.
        disks: what its guest has written, and what UEFI remembers.
        snapshots: the user's.
        save_point: what ``qup reset`` goes back to.
        suspended: the memory of a guest that is suspended.
    """

    total: int
    disks: int
    snapshots: int
    save_point: int
    suspended: int


def read_disk_use(folder: MachineFolder) -> DiskUse | None:
    """What a machine takes up at this moment; None if there is none."""
    if not folder.root.is_dir():
        return None
    sizes = {path: _size(path) for path in _walk(folder.root)}
    disks = (folder.disk, folder.firmware_vars, *folder.disks.glob("*.qcow2"))
    saved = [(item.name == SAVE_POINT, measure(folder, item)) for item in list_all(folder)]
    return DiskUse(
        total=sum(sizes.values()),
        disks=sum(sizes.get(path, 0) for path in disks),
        snapshots=sum(size for hidden, size in saved if not hidden),
        save_point=sum(size for hidden, size in saved if hidden),
        suspended=sum(size for path, size in sizes.items() if folder.suspended in path.parents),
    )


def _walk(root: Path) -> Iterator[Path]:
    for place, _, names in os.walk(root):
        yield from (Path(place, name) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_blocks * BLOCK
    except OSError:
        return 0  # gone meanwhile
