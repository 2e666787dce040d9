"""A machine whose console is in somebody's terminal: from before its first byte to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from qup.errors import MachineError, QupError
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.liveness import is_locked, wait_unlocked
from qup.qemu.qmp import Qmp
from qup.runner.context import Context
from qup.runner.observe import CRASHED, SUSPENDED, observe, require_alive
from qup.runner.stop import clean_up
from qup.store import read_state

Attach = Callable[[Path], None]
"""Connects to the console at a path."""

PATIENCE = 5.0
"""Seconds that QEMU may take to accept the console's client; one question is usual."""
LAST_BREATH = 10.0
"""Seconds between the end of the console and that of QEMU; 0.1 is usual."""
CONSOLE = "console"
SIGNALLED = "QEMU was ended by"
SAVED = "saved"
STANDSTILLS = ("panicked", "io-error", "error", SAVED)
"""Status words of machines that nobody wakes who only watches."""


def attach_console(monitor: Qmp, path: Path, attach: Attach) -> None:
    """Have the console's client accepted by QEMU before the guest prints anything.

    A connection waits in the kernel until QEMU's main loop comes round to it; what the guest
    prints before goes to the log alone.
    """
    attach(path)
    deadline = time.monotonic() + PATIENCE
    while _is_waiting(monitor) and time.monotonic() < deadline:
        pass  # each question is a turn of the main loop


def _is_waiting(monitor: Qmp) -> bool:
    found = monitor.execute("query-chardev")
    names = [str(item["filename"]) for item in found or () if item.get("label") == CONSOLE]
    return any(name.startswith("disconnected") for name in names)


def has_unfinished_steps(folder: MachineFolder) -> bool:
    """Whether the newest start was to run provisioning steps that have not succeeded yet."""
    try:
        steps = json.loads(folder.plan.read_bytes())["provision"]
        state = read_state(folder)
        return state is None or any(step["digest"] not in state.provisioned for step in steps)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def check_standstill(folder: MachineFolder) -> None:
    """Raise if a machine that nobody has a hand on will not go on by itself.

    Raises:
        MachineError: it stands still for good.
    """
    seen = observe(folder)
    if seen.status == SAVED and is_locked(folder.lock):
        return  # somebody suspends it, or makes a snapshot
    if seen.status in STANDSTILLS:
        raise MachineError(
            f"machine {folder.name} is {seen.status}: {seen.detail}",
            hint=f"'qup logs {folder.name}' has its console; 'qup down --force {folder.name}'"
            " ends it",
            machine=folder.name,
        )


def settle_end(ctx: Context, folder: MachineFolder) -> None:
    """Clean up after a machine whose console has ended. The caller holds no lock.

    Raises:
        MachineError: it didn't end by itself, and nobody stopped it.
    """
    wait_unlocked(folder.alive, LAST_BREATH)
    with ctx.lock(folder):  # whoever stopped it cleans up first
        seen = observe(folder)
        if seen.alive:
            ctx.tell(folder.name, "was started anew by another qup, and runs on")
        elif seen.state is not None and seen.state.launch is not None:
            clean_up(ctx, folder, seen.state)
            if seen.status == CRASHED or SIGNALLED in (seen.detail or ""):
                raise MachineError(
                    f"machine {folder.name}: {seen.detail}",
                    hint=f"'qup logs {folder.name} --log qemu' may say more; 'qup up' starts it"
                    " again",
                    machine=folder.name,
                )
            ctx.tell(folder.name, seen.detail or "is off")
        elif seen.status == SUSPENDED:
            ctx.tell(folder.name, f"was suspended by another qup; {seen.detail}")
        else:
            ctx.tell(folder.name, "was stopped by another qup")


def find_console(folder: MachineFolder) -> Path:
    """The console's socket of a machine that runs.

    Raises:
        MachineError: it doesn't.
    """
    launch = require_alive(folder).launch
    assert launch is not None
    return RuntimeFolder.of(launch.runtime).console


def is_running(folder: MachineFolder) -> bool:
    """Whether the machine's QEMU lives."""
    return observe(folder, thorough=False).alive


def ended_well(folder: MachineFolder, error: QupError) -> bool:
    """Whether what looks like a failed start is a guest that did its work and powered off."""
    return getattr(error, "powered_off", False) and not has_unfinished_steps(folder)
