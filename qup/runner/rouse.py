"""Getting a guest to run again that stands still or sleeps."""

from __future__ import annotations

import contextlib
import time

from qup.errors import MachineError
from qup.model.runstate import Way
from qup.paths import RuntimeFolder
from qup.qemu.migration import let_go_on
from qup.qemu.qmp import CommandFailed, Qmp

MONITOR_TIMEOUT = 5.0
WAKE_BUDGET = 10.0
"""Seconds for a sleeping guest to run again; it takes a fraction of one."""
RELAPSE = 0.5
"""Seconds in which a guest stops again whose disk is as full as it was: its write is tried
again at once."""
_POLL = 0.05


def rouse(machine: str, runtime: RuntimeFolder, way: Way) -> str | None:
    """Let a paused guest go on, or wake a sleeping one.

    Args:
        machine: its name.
        runtime: its sockets.
        way: what its run state asks for.

    Returns:
        What was done, in words; None if there was nothing to do.

    Raises:
        MachineError: QEMU or the guest didn't do it.
    """
    if way is Way.CONTINUE:
        _let_go(machine, runtime)
        return "goes on after a pause"
    if way is Way.WAKE:
        _wake(machine, runtime)
        return "was asleep and has been woken"
    return None


def _let_go(machine: str, runtime: RuntimeFolder) -> None:
    with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
        let_go_on(monitor)  # a snapshot may be under way, whose qup was killed
        # It has to stay so: the events say at once when it doesn't.
        deadline = time.monotonic() + RELAPSE
        while (event := monitor.wait(deadline)) is not None and event.name != "BLOCK_IO_ERROR":
            pass
        state = monitor.execute("query-status")["status"]
    if event is not None:
        raise MachineError(
            f"machine {machine} stopped again at once: {event.data.get('reason') or 'I/O error'}",
            hint="make room on this computer's disk ('df -h'), then 'qup up' once more",
            machine=machine,
        )
    if state != "running":
        raise MachineError(
            f"machine {machine} does not go on: QEMU says {state!r}",
            hint=f"'qup reload --force {machine}' restarts it",
            machine=machine,
        )


def _wake(machine: str, runtime: RuntimeFolder) -> None:
    deadline = time.monotonic() + WAKE_BUDGET
    with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
        while True:
            # Refused while the guest is still on its way into sleep.
            with contextlib.suppress(CommandFailed):
                monitor.execute("system_wakeup")
            if monitor.execute("query-status")["status"] == "running":
                return
            if time.monotonic() >= deadline:
                break
            monitor.wait(time.monotonic() + _POLL)
    raise MachineError(
        f"machine {machine} does not wake up",
        hint=f"'qup reload --force {machine}' restarts it; what it had not written is lost",
        machine=machine,
    )
