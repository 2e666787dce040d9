"""A machine's further disks: made, grown, checked, and never removed but by ``destroy``.

Disks of a ``size`` are qup's own files in the machine's folder. An ``image`` is the user's own
file: it is looked at with suspicion, used in place, and never made, grown or removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qup import images
from qup.errors import BoxError, ConfigError, MachineError, StateError
from qup.model.drives import FURTHER
from qup.model.plan import Disk, Plan
from qup.model.units import format_size
from qup.ownership import make_private
from qup.paths import MachineFolder, Project
from qup.qemu import disk as qemu_disk
from qup.runner.context import Context
from qup.templates.template import name_image

if TYPE_CHECKING:
    from qup.model.config import DiskSettings, MachineConfig


def find_image(project: Project, text: str) -> Path:
    """The file that ``image`` names: relative to the Qupfile, or the user's by ``~``."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # there is no such user, or no home
        path = path.expanduser()
    return (project.root / path).absolute()


def read_formats(project: Project, config: MachineConfig) -> dict[str, str]:
    """The formats of the images of ``[[machine.disks]]``, by the disk's name.

    Raises:
        ConfigError: an image is missing, isn't a regular file, or isn't one to be used.
    """
    return {
        disk.name_at(index): _inspect(project, config.name, disk.name_at(index), disk)
        for index, disk in enumerate(config.settings.disks)
        if disk.image is not None
    }


def _inspect(project: Project, machine: str, name: str, disk: DiskSettings) -> str:
    assert disk.image is not None
    where = f"machine {machine}: disk {name!r}"
    path = find_image(project, disk.image)
    if not path.exists():
        hint = "make it, or correct 'image'; 'size' instead makes a new disk"
        raise ConfigError(f"{where}: the image {path} does not exist", hint=hint)
    _refuse_place(project, path, where)
    if not disk.read_only and not os.access(path, os.W_OK):
        raise ConfigError(
            f"{where}: you may not write to {path}",
            hint="write read-only = true, or see to the file's permissions",
        )
    try:
        format = images.find_format(path)
        if format == "qcow2" and disk.format != "raw":
            images.inspect_header(path, format)
            return format
        if disk.format == "qcow2":
            images.inspect_header(path, "qcow2")  # raises
        images.inspect_data(path, read_only=disk.read_only)
    except BoxError as exc:
        raise ConfigError(f"{where}: {exc.message}", hint=exc.hint) from exc
    if disk.format is None and not disk.read_only:
        raise ConfigError(
            f"{where}: {path} has no header that tells its format",
            hint='write format = "raw" if it is a raw image; a guest that writes to one could'
            " give it any header, so it has to be said",
        )
    return "raw"


def _refuse_place(project: Project, path: Path, where: str) -> None:
    """An image of the project is in the project, and nothing of qup's own is an image."""
    real, root = path.resolve(), project.root.resolve()
    if real.is_relative_to(project.state.resolve()):
        raise ConfigError(
            f"{where}: {path} belongs to qup, which removes what is in there",
            hint="keep the image outside of .qup",
        )
    named_inside = Path(os.path.normpath(path)).is_relative_to(project.root)
    if named_inside and not real.is_relative_to(root):
        raise ConfigError(
            f"{where}: {path} leads out of the project, to {real}",
            hint="write that path instead; an image outside of the project needs 'qup trust'",
        )


def further_disks(plan: Plan) -> Iterator[Disk]:
    """The plan's disks of ``[[machine.disks]]``."""
    return (disk for disk in plan.disks if disk.role.startswith(FURTHER))


def disk_file(folder: MachineFolder, disk: Disk) -> Path:
    """The file of a further disk."""
    if disk.image is not None:
        return find_image(Project(folder.project), disk.image)
    return folder.further_disk(disk.serial)


def find_base(stock: Path | None, name: str) -> Path | None:
    """The template's image that a further disk is an overlay of, if the template has that disk.

    Args:
        stock: the folder of the template that the machine's disks are based on, if they are.
        name: the disk's.
    """
    return stock / name_image(FURTHER + name) if stock else None


def check_overlay(path: Path, base: Path | None) -> None:
    """Make sure that a further disk of ours is based on its template's image, or on nothing:
    somebody may have removed it, and got a new one.

    Raises:
        StateError: it is damaged, or based on another file, or that is gone.
    """
    try:
        images.check_overlay(path, None)
    except StateError:
        if base is None:
            raise
        images.check_overlay(path, base)
        if not base.exists():
            raise StateError(
                f"the image that {path} is based on is gone: {base}",
                hint="put it back, or 'qup destroy' and 'qup up' for a new machine",
            ) from None


def check_disks(machine: str, folder: MachineFolder, plan: Plan, stock: Path | None = None) -> None:
    """Make sure that the further disks that are there can be used as the plan has them.

    Args:
        machine: the machine's name.
        folder: its folder.
        plan: what is wanted.
        stock: the folder of the template that the machine's disks are based on, if they are.

    Raises:
        StateError: one is damaged, or not what qup made.
        MachineError: one would have to shrink.
    """
    for disk in further_disks(plan):
        if disk.image is None and os.path.lexists(path := disk_file(folder, disk)):
            _check_own(machine, path, disk, find_base(stock, disk.serial))


def _check_own(machine: str, path: Path, disk: Disk, base: Path | None) -> int:
    """Make sure that a disk of ours can be used; returns its size in bytes."""
    if path.is_symlink():
        raise StateError(f"the disk {path} is a link, which qup never makes", hint="remove it")
    try:
        if base is not None:
            check_overlay(path, base)
            present = images.virtual_size(path, "qcow2")
        else:
            present = images.inspect_header(path, "qcow2")
    except BoxError as exc:
        raise StateError(f"machine {machine}: {exc.message}", hint=exc.hint) from exc
    if present > (disk.size or 0):
        raise MachineError(
            f"machine {machine}: its disk {disk.serial!r} has {format_size(present)}, and 'size'"
            f" now says {format_size(disk.size or 0)}: a disk can't shrink",
            hint=f'write size = "{format_size(present)}", or give the disk another name for a new'
            " one",
        )
    return present


def prepare_disks(
    ctx: Context,
    machine: str,
    folder: MachineFolder,
    plan: Plan,
    *,
    stock: Path | None = None,
    fresh: bool = False,
) -> None:
    """Make or grow the further disks, and say which files nobody asks for any more.

    Args:
        ctx: the surroundings.
        machine: the machine's name.
        folder: its folder.
        plan: what is wanted.
        stock: the folder of the template that the machine's disks are based on, if they are.
        fresh: it is a new machine: its disks begin as the template's, and what an attempt that
            failed has left is replaced.

    Raises:
        StateError, MachineError: as :func:`check_disks`.
        HostError: no space left.
    """
    wanted = set()
    for disk in further_disks(plan):
        if disk.image is None:
            path = disk_file(folder, disk)
            wanted.add(path)
            base = find_base(stock, disk.serial)
            if fresh:
                path.unlink(missing_ok=True)
            _prepare_own(ctx, machine, path, disk, base, fresh=fresh)
    present = sorted(folder.disks.glob("*.qcow2")) if folder.disks.is_dir() else []
    for path in present:
        if path not in wanted:
            ctx.tell(
                machine,
                f"disk {path.stem!r} is no longer in the Qupfile: it is kept in {path}",
                hint="'qup destroy' removes it with the machine; you may remove it now",
            )


def _prepare_own(
    ctx: Context, machine: str, path: Path, disk: Disk, base: Path | None, *, fresh: bool
) -> None:
    size = disk.size or 0
    make_private(path.parent)  # which refuses a link to a folder with somebody's own images
    if not os.path.lexists(path):
        if fresh and base is not None and base.exists():
            qemu_disk.create_overlay(path, base, "qcow2", size)
        else:
            qemu_disk.create_blank(path, size)
        ctx.tell(machine, f"made disk {disk.serial!r} of {format_size(size)}")
    elif _check_own(machine, path, disk, base) < size:
        qemu_disk.grow(path, size)
        ctx.tell(machine, f"disk {disk.serial!r} grown to {format_size(size)}")
