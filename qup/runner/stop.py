"""Stopping a machine: ask the guest first, then ask louder, and clean up after it.

A guest that is paused or asleep is let go on first: it could not hear anything.

The ladder: the power button (ACPI; again after a second, because a guest that is just booting
misses the first), ``poweroff`` over ssh, QMP ``quit``, SIGTERM, SIGKILL. The last three are
a power cut for the guest, and are said to be.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qup.errors import HostError, MachineError, StateError
from qup.guest import ssh
from qup.model.events import Finished
from qup.model.runstate import Way, explain_run_state
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder, runtime_folder
from qup.process import run
from qup.qemu.liveness import signal_process, wait_gone
from qup.qemu.qmp import MonitorError, Qmp
from qup.runner.context import Context
from qup.runner.observe import (
    BROKEN,
    NOT_CREATED,
    RUNNING,
    STARTING,
    UNRESPONSIVE,
    Observation,
    find_pid,
    observe,
)
from qup.runner.rouse import rouse
from qup.runner.suspended import give_memory_up, is_suspended
from qup.store import clear_undo, forget, indexed, is_copy, read_undo, remove_machine, write_state

GRACE = 60.0
"""Seconds that the guest has for shutting down unless the user says otherwise."""
SECOND_PRESS, NEXT_PRESS = 1.0, 3.0
SSH_BUDGET = 15.0
QUIT_BUDGET = 5.0
SIGNAL_BUDGET = 5.0
BIRTH_BUDGET = 1.0
UNDO_TIMEOUT = 20.0


@dataclass
class _Target:
    """The QEMU that is to end."""

    ctx: Context
    folder: MachineFolder
    state: State
    pid: int

    @property
    def runtime(self) -> RuntimeFolder:
        launch = self.state.launch
        return RuntimeFolder.of(launch.runtime) if launch else runtime_folder(self.state.id)

    def gone(self, timeout: float) -> bool:
        return wait_gone(self.pid, timeout)

    def tell(self, text: str) -> None:
        self.ctx.tell(self.folder.name, text)

    def command(self, name: str) -> bool:
        """Send a QMP command; whether QEMU took it."""
        try:
            with Qmp.connect(self.runtime.control, timeout=2.0) as monitor:
                monitor.execute(name, timeout=2.0)
        except MonitorError:
            return False
        return True

    def stands_still(self) -> bool:
        """Whether the guest does not run, so that it can't hear anything, and isn't ending."""
        try:
            with Qmp.connect(self.runtime.control, timeout=2.0) as monitor:
                state = str(monitor.execute("query-status", timeout=2.0)["status"])
        except MonitorError:
            return False
        return explain_run_state(state).way in (Way.CONTINUE, Way.REFUSE)


def down(
    ctx: Context, folder: MachineFolder, *, force: bool = False, timeout: float = GRACE
) -> bool:
    """Stop a machine; the caller holds no lock.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        force: cut the power instead of asking the guest.
        timeout: seconds the guest has for shutting down.

    Returns:
        Whether it ran.

    Raises:
        MachineError: it can't be stopped, or it is suspended and there is no force.
        StateError: it is locked, or its state is damaged.
    """
    if not folder.root.is_dir():
        return False
    began = time.monotonic()
    with ctx.lock(folder):
        seen = observe(folder)
        if seen.status == BROKEN:
            raise StateError(seen.detail or "the state is damaged", hint=_repair(folder))
        if seen.status == NOT_CREATED or seen.state is None or is_copy(seen.state, folder):
            return False
        if seen.alive and not seen.let_go and is_suspended(folder):
            # A resume that was killed: the guest has not run, and its memory is on disk.
            stop_locked(ctx, folder, seen, force=True, timeout=0.0)
            seen = observe(folder)
        given_up = give_memory_up(ctx, folder, seen, force=force)
        ran = stop_locked(ctx, folder, seen, force=force, timeout=timeout) or given_up
        ctx.emit(Finished(folder.name, "down", ran, time.monotonic() - began))
        return ran


def kill(ctx: Context, folder: MachineFolder) -> bool:
    """Cut a machine's power at once: SIGKILL, whatever QEMU or another qup is doing.

    QEMU is ended before the machine's lock is asked for: who holds it, such as an ``up`` that
    waits for the guest, sees its QEMU die and lets go.

    Returns:
        Whether it ran.

    Raises:
        MachineError: QEMU's process can't be found, or it hangs in the kernel.
        StateError: another qup keeps the lock nevertheless.
    """
    began = time.monotonic()
    seen = observe(folder, thorough=False)
    if seen.status == BROKEN:
        return _kill_broken(ctx, folder, seen)
    if not seen.alive or seen.state is None or is_copy(seen.state, folder):
        return False
    target = _Target(ctx, folder, seen.state, _require_pid(folder, seen))
    with ctx.phase(folder.name, "stop", "cutting the power") as phase:
        if not _signal(target, signal.SIGKILL):
            raise _immortal(target)
        phase.result = f"pid {target.pid} is gone"
    with ctx.lock(folder):
        now = observe(folder, thorough=False)
        if now.state is not None and not now.alive:
            clean_up(ctx, folder, now.state)
    ctx.emit(Finished(folder.name, "kill", True, time.monotonic() - began))
    return True


def _kill_broken(ctx: Context, folder: MachineFolder, seen: Observation) -> bool:
    _stop_broken(ctx, folder, seen, (signal.SIGKILL,))
    return seen.pid is not None


def _require_pid(folder: MachineFolder, seen: Observation) -> int:
    """The process of a living QEMU.

    Raises:
        MachineError: it can't be found.
    """
    pid = seen.pid
    if pid is None and seen.state is not None:
        pid = _await_pid(folder, seen.state)
    if pid is None:
        raise MachineError(
            f"machine {folder.name}: QEMU lives, but its process can't be found",
            hint="is it in another container or namespace? stop it there",
        )
    return pid


def _immortal(target: _Target) -> MachineError:
    return MachineError(
        f"machine {target.folder.name}: QEMU (pid {target.pid}) does not end, not even by SIGKILL",
        hint="it hangs in the kernel, most often on a dead disk or network mount",
    )


def _repair(folder: MachineFolder) -> str:
    return f"'qup destroy {folder.name}' removes the machine and its disk"


def stop_locked(
    ctx: Context, folder: MachineFolder, seen: Observation, *, force: bool, timeout: float
) -> bool:
    """Stop a machine whose lock is held, and take back what its start did to the host."""
    assert seen.state is not None
    if seen.alive:
        target = _Target(ctx, folder, seen.state, _require_pid(folder, seen))
        with ctx.phase(folder.name, "stop", "stopping") as phase:
            phase.result = climb_down(target, seen, force=force, timeout=timeout)
    clean_up(ctx, folder, seen.state)
    return seen.alive


def _await_pid(folder: MachineFolder, state: State) -> int | None:
    """The process of a QEMU that may be so young that it has no command line of its own yet."""
    deadline = time.monotonic() + BIRTH_BUDGET
    while (pid := find_pid(folder, state)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return pid


def climb_down(target: _Target, seen: Observation, *, force: bool, timeout: float) -> str:
    """Go down the ladder until QEMU has ended; returns how it did.

    Raises:
        MachineError: not even SIGKILL helped.
    """
    asks: list[tuple[str, Callable[[], bool]]] = []
    if not force and seen.let_go and _rouse(target, seen):
        seen = replace(seen, status=RUNNING)
    if not force and seen.let_go and seen.status in (RUNNING, STARTING):
        asks.append(("powered off", lambda: _press_button(target, timeout)))
        if seen.ready:
            asks.append(("powered off over ssh", lambda: _poweroff_by_ssh(target)))
    cut = "ended" if force else "power cut"
    cuts: list[tuple[str, Callable[[], bool]]] = []
    if seen.status != UNRESPONSIVE:
        cuts.append((f"{cut} (QMP quit)", lambda: _quit(target)))
    cuts.append((f"{cut} (SIGTERM)", lambda: _signal(target, signal.SIGTERM)))
    cuts.append((f"{cut} (SIGKILL)", lambda: _signal(target, signal.SIGKILL)))
    for result, rung in asks:
        if rung():
            return result
    if not force:
        target.ctx.tell(
            target.folder.name,
            "cutting the power: what the guest had not written to its disk is lost",
            level="warning",
        )
    for result, rung in cuts:
        if rung():
            return result
    raise _immortal(target)


def _rouse(target: _Target, seen: Observation) -> bool:
    """Get a guest to run that stands still or sleeps; whether it does now."""
    try:
        done = rouse(target.folder.name, target.runtime, seen.way)
    except MachineError as exc:
        target.tell(exc.message)
        return False
    if done:
        target.tell(done)
    return done is not None


def _press_button(target: _Target, timeout: float) -> bool:
    if not target.command("system_powerdown"):
        return False
    deadline = time.monotonic() + timeout
    if target.gone(min(SECOND_PRESS, timeout)):
        return True
    target.tell(f"the guest was asked to power off; waiting up to {timeout:g} s")
    while (left := deadline - time.monotonic()) > 0:
        target.command("system_powerdown")  # a guest that is booting misses the earlier ones
        if target.gone(min(NEXT_PRESS, left)):
            return True
        if target.stands_still():  # stopped again by a full disk, or panicked meanwhile
            target.tell("the guest stands still")
            return False
    target.tell("the guest does not react to the power button")
    return False


def _poweroff_by_ssh(target: _Target) -> bool:
    if target.stands_still():
        return False
    target.tell(f"asking the guest by ssh to power off; waiting up to {SSH_BUDGET:g} s")
    words = ["sh", "-c", "sudo -n poweroff || poweroff || doas poweroff"]
    deadline = time.monotonic() + SSH_BUDGET
    with contextlib.suppress(HostError):
        ssh.run_in_guest(
            SshFolder(target.folder.ssh), target.folder.name, words, timeout=SSH_BUDGET
        )
    return target.gone(max(1.0, deadline - time.monotonic()))


def _quit(target: _Target) -> bool:
    return target.command("quit") and target.gone(QUIT_BUDGET)


def _signal(target: _Target, number: signal.Signals) -> bool:
    signal_process(target.pid, target.state.uuid, number)
    return target.gone(SIGNAL_BUDGET)


def clean_up(ctx: Context, folder: MachineFolder, state: State) -> None:
    """Take back what a start did to the host. Done again after a crash, it does no harm."""
    launch = state.launch
    if launch is None:
        return
    runtime = RuntimeFolder.of(launch.runtime)
    ssh.close_master(SshFolder(folder.ssh), runtime, folder.name)
    undo(ctx, folder.name, state.id)
    runtime.remove()
    with contextlib.suppress(OSError):
        folder.pidfile.unlink(missing_ok=True)
        folder.late.unlink(missing_ok=True)
    write_state(folder, state.with_launch(None))


def undo(ctx: Context, machine: str, machine_id: str) -> None:
    """Run what the journal holds; what fails is said, and not tried for ever."""
    for words in read_undo(machine_id):
        try:
            run(words, timeout=UNDO_TIMEOUT)
        except HostError as exc:
            ctx.tell(machine, f"could not undo: {exc.message}", level="warning", hint=exc.details)
    clear_undo(machine_id)


def destroy(ctx: Context, folder: MachineFolder) -> bool:
    """Remove a machine, its disk and everything else about it, in whatever state it is.

    Returns:
        Whether there was anything to remove.
    """
    if not folder.root.is_dir():
        return False
    began = time.monotonic()
    with ctx.lock(folder):
        seen = observe(folder)
        if seen.status == BROKEN:
            _stop_broken(ctx, folder, seen)
            _clean_up_broken(ctx, folder)
        elif seen.state is not None and not is_copy(seen.state, folder):
            stop_locked(ctx, folder, seen, force=True, timeout=0.0)
            forget(seen.state.id)
        remove_machine(folder)
        ctx.emit(Finished(folder.name, "destroy", True, time.monotonic() - began))
    return True


def _stop_broken(
    ctx: Context,
    folder: MachineFolder,
    seen: Observation,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
) -> None:
    """End the QEMU of a machine whose state can't be read: its own lock tells its pid."""
    if seen.pid is None:
        return
    ctx.tell(folder.name, f"its state is damaged; ending QEMU (pid {seen.pid})", level="warning")
    uuid = _uuid_of(seen.pid)
    for number in signals:
        if uuid and signal_process(seen.pid, uuid, number) and wait_gone(seen.pid, SIGNAL_BUDGET):
            return
    raise MachineError(f"machine {folder.name}: QEMU (pid {seen.pid}) can't be ended")


def _clean_up_broken(ctx: Context, folder: MachineFolder) -> None:
    """Take back what a start did for a machine whose id only the index still knows."""
    for entry in indexed():
        if entry.project == ctx.project.home and entry.name == folder.name:
            undo(ctx, folder.name, entry.id)
            runtime_folder(entry.id).remove()
            forget(entry.id)


def _uuid_of(pid: int) -> str | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[words.index(b"-uuid") + 1].decode()
    return None
