"""Where the files of a machine's start are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from qup.boxes.cache import ISO
from qup.model.drives import FURTHER
from qup.model.plan import Disk, Plan
from qup.paths import (
    MachineFolder,
    Project,
    cache_root,
    config_root,
    runtime_root,
    state_root,
)
from qup.qemu.argv import Layout
from qup.runner import drives
from qup.store import indexed


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
        secrets=find_secrets(folder) if any(item.mounted for item in plan.folders) else (),
    )


def find_secrets(folder: MachineFolder) -> tuple[Path, ...]:
    """Folders of qup's own: machines of all projects that it knows, caches, what is trusted."""
    own = [folder.root.parent.parent, config_root(), state_root(), cache_root(), runtime_root()]
    known = [Project(entry.project).state for entry in indexed()]
    return tuple({path.resolve() for path in (*own, *known) if path.is_dir()})


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
