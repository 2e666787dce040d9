"""Where the files of a machine's start are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from qup.boxes.cache import ISO
from qup.model.drives import FURTHER
from qup.model.plan import Disk, Plan
from qup.paths import MachineFolder
from qup.qemu.argv import Layout
from qup.runner import drives


def layout_for(
    plan: Plan,
    folder: MachineFolder,
    box: Path,
    program: Path,
    *,
    sockets: Mapping[str, Path | int] | None = None,
    firmware: Path | None = None,
) -> Layout:
    """Where the files of a plan are.

    Args:
        plan: what is to be started.
        folder: the machine's folder.
        box: the folder of the box.
        program: QEMU.
        sockets: see :class:`qup.qemu.argv.Layout`.
        firmware: the UEFI firmware, if the plan has one.
    """
    files = {disk.role: disk_file(disk, folder, box) for disk in plan.disks}
    if firmware is not None:
        files |= {"firmware": firmware, "vars": folder.firmware_vars}
    return Layout(
        program=program,
        pidfile=folder.pidfile,
        serial_log=folder.log("serial"),
        box=box,
        files=files,
        sockets=sockets or {},
        sandbox=sys.platform == "linux",
        seed_share=folder.seed_share,
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
        case role if role.startswith(FURTHER):
            return drives.disk_file(folder, disk)
        case role:
            raise ValueError(f"no file for a disk {role!r}")
