"""Where the files of a machine's start are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from qup.boxes.cache import ISO
from qup.model.plan import Disk, Plan
from qup.paths import MachineFolder
from qup.qemu.argv import Layout


def layout_for(
    plan: Plan,
    folder: MachineFolder,
    box: Path,
    program: Path,
    sockets: Mapping[str, Path | int] | None = None,
) -> Layout:
    """Where the files of a plan are.

    Args:
        plan: what is to be started.
        folder: the machine's folder.
        box: the folder of the box.
        program: QEMU.
        sockets: see :class:`qup.qemu.argv.Layout`.
    """
    return Layout(
        program=program,
        pidfile=folder.pidfile,
        serial_log=folder.log("serial"),
        box=box,
        files={disk.role: disk_file(disk, folder, box) for disk in plan.disks},
        sockets=sockets or {},
        sandbox=sys.platform == "linux",
    )


def disk_file(disk: Disk, folder: MachineFolder, box: Path) -> Path:
    """The file of a disk."""
    match disk.role:
        case "disk":
            return folder.disk
        case "seed":
            return folder.seed
        case "iso":
            return box / ISO
        case role:
            raise ValueError(f"no file for a disk {role!r}")
