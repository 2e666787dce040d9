"""A machine's own UEFI variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from qup import images
from qup.errors import BoxError, StateError
from qup.files import clone_file
from qup.paths import MachineFolder
from qup.qemu import disk
from qup.qemu.firmware import FirmwareFiles
from qup.runner.context import Context
from qup.templates.template import VARS

if TYPE_CHECKING:
    from qup.model.plan import Plan


def find_firmware(ctx: Context, plan: Plan) -> FirmwareFiles | None:
    """The files of a plan's UEFI firmware, if it has one."""
    return ctx.host.firmware(plan.program, plan.machine_type) if plan.firmware else None


def prepare_variables(
    ctx: Context,
    machine: str,
    folder: MachineFolder,
    firmware: FirmwareFiles,
    *,
    stock: Path | None = None,
    fresh: bool = False,
) -> None:
    """Make the file of the variables, unless it is there.

    Variables of another firmware, which has flash of another size, are set aside.

    Args:
        ctx: the surroundings.
        machine: the machine's name.
        folder: its folder.
        firmware: what it starts with.
        stock: the folder of the template that it is restored from, if it is.
        fresh: it is a new machine: its variables begin as the template's, or as the firmware's.

    Raises:
        StateError: the file is not what qup makes.
        HostError: no space left, or ``qemu-img`` is missing or fails.
    """
    path = folder.firmware_vars
    if fresh:
        path.unlink(missing_ok=True)
        if stock is not None:
            clone_file(stock / VARS, path, durable=False)
            return
    if os.path.lexists(path):
        if path.is_symlink():
            raise StateError(f"{path} is a link, which qup never makes", hint="remove it")
        try:
            present = images.inspect_header(path, "qcow2")
        except BoxError as exc:
            hint = f"remove it for new variables: rm {path}"
            raise StateError(f"machine {machine}: {exc.message}", hint=hint) from exc
        if present == images.virtual_size(firmware.template, firmware.template_format):
            return
        aside = path.with_name(f"{path.name}.old")
        path.replace(aside)
        ctx.tell(
            machine,
            f"the firmware has changed ({firmware.description}): its variables start afresh",
            level="warning",
            hint=f"the old ones are in {aside}",
        )
    disk.convert(firmware.template, firmware.template_format, path)
