"""A guest that goes on from memory that was saved whole: what it needs of a new QEMU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qup.files import rotate_file
from qup.model.box import Box
from qup.model.plan import Plan
from qup.model.units import MIB
from qup.paths import MachineFolder, RuntimeFolder
from qup.process import run
from qup.qemu.argv import Memory
from qup.qemu.engine import Engine, start
from qup.qemu.migration import load_state
from qup.runner.context import Context
from qup.runner.firmware import find_firmware
from qup.runner.layout import layout_for
from qup.templates.key import Emulator, describe_hardware

LOAD_TIMEOUT, LOAD_SPEED = 60.0, 20 * MIB
"""Seconds that loading may take at the least, and bytes a second that it must manage."""
ACTION_TIMEOUT = 20.0

_WORDS = {
    "qemu": "QEMU",
    "processor": "the processor",
    "memory_mib": "memory",
    "nics": "the network cards",
    "disks": "the disks",
    "machine_type": "the machine type",
    "identity_port": "'templates'",
    "extra": "words of your own for QEMU",
}


def hardware_of(ctx: Context, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a guest sees that was started by a stored plan; it has to be the same where it goes
    on.
    """
    accelerator = plan["accelerator"]["name"]
    return describe_hardware(plan, Emulator(*ctx.host.emulator(plan["program"], accelerator)))


def find_misfit(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a guest's hardware is not what it was, by its names in :func:`hardware_of`."""
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def describe_misfit(names: list[str]) -> str:
    """The same for people."""
    return ", ".join(_WORDS.get(name, name) for name in names)


def load_guest(
    ctx: Context,
    folder: MachineFolder,
    plan: Plan,
    box: Box,
    runtime: RuntimeFolder,
    memory: Path,
    *,
    of_template: bool,
) -> Engine:
    """Start a QEMU and have it read a guest's memory; the guest is still stopped.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        plan: what to start; its hardware is that of the guest.
        box: what the machine is made from.
        runtime: where the sockets go.
        memory: the file.
        of_template: see :class:`qup.model.state.Launch`.

    Raises:
        MachineError: QEMU doesn't start, or doesn't take the memory.
        HostError: the file can't be read, or an action on the host failed.
    """
    program = ctx.host.which(plan.program)
    assert program is not None
    rotate_file(folder.log("serial"))
    firmware = find_firmware(ctx, plan)
    layout = layout_for(
        plan, folder, ctx.boxes.folder(box.digest), program, firmware=firmware and firmware.code
    )
    layout = replace(layout, memory=Memory() if of_template else None, incoming=True)
    with ctx.phase(folder.name, "launch", "loading its memory") as phase:
        for action in plan.actions:
            run(action.do, timeout=ACTION_TIMEOUT)
        engine = start(plan, layout, folder, runtime, ctx.project.root)
        ctx.watch.lap("launch")
        try:
            timeout = LOAD_TIMEOUT + memory.stat().st_size / LOAD_SPEED
            load_state(engine.control, memory, timeout=timeout, whole=True)
        except BaseException:
            engine.kill()
            raise
        phase.result = f"pid {engine.process.pid}"
    return engine
