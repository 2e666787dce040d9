"""Waiting until ssh lets qup in."""

from __future__ import annotations

import time
from dataclasses import replace

from qup.errors import MachineError
from qup.guest import ssh
from qup.guest.readiness import Console, wait_for_banner
from qup.model.events import Console as ConsoleEvent
from qup.model.plan import Plan
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.qemu.engine import read_words
from qup.qemu.qmp import MonitorClosed, Qmp
from qup.runner.context import Context
from qup.store import write_state


def wait_until_ready(
    ctx: Context, folder: MachineFolder, plan: Plan, state: State, events: Qmp
) -> State:
    """Wait for sshd's banner, log in, keep that connection, and write down that it works.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        plan: what was started; it says how long this may take.
        state: with the newest launch and where ssh is to be found.
        events: the monitor to watch.

    Raises:
        GuestError: the guest didn't become ready.
        MachineError: QEMU died meanwhile.
    """
    assert state.launch is not None
    with ctx.phase(folder.name, "boot", "waiting for ssh") as phase:
        try:
            _log_in(ctx, folder, state, events, time.monotonic() + plan.boot_timeout)
        except MonitorClosed as exc:
            raise MachineError(
                f"machine {folder.name}: QEMU died while the guest was booting",
                details=read_words(folder.log("qemu")) or None,
                hint=f"'qup logs {folder.name} --log qemu' has all it said",
                machine=folder.name,
            ) from exc
        phase.result = f"ssh on {state.launch.ssh_address}:{state.launch.ssh_port}"
    state = state.with_launch(replace(state.launch, ready=True))
    write_state(folder, state)
    return state


def _log_in(
    ctx: Context, folder: MachineFolder, state: State, events: Qmp, deadline: float
) -> None:
    launch = state.launch
    assert launch is not None
    assert launch.ssh_address is not None
    assert launch.ssh_port is not None
    console = Console(folder.log("serial"))
    runtime = RuntimeFolder.of(launch.runtime)
    while True:
        wait_for_banner(
            folder.name,
            launch.ssh_address,
            launch.ssh_port,
            monitor=events,
            console=console,
            deadline=deadline,
            on_slow=lambda lines: ctx.emit(ConsoleEvent(folder.name, lines)),
        )
        left = max(1.0, deadline - time.monotonic())
        try:
            ssh.open_master(
                SshFolder(folder.ssh), runtime, folder.name, folder.log("ssh"), timeout=left
            )
        except ssh.SshFailure as exc:
            if exc.final or time.monotonic() >= deadline:
                exc.details = "\n".join(filter(None, (exc.details, *console.lines())))
                raise
        else:
            return
