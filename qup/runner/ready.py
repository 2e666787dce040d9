"""Waiting until ssh lets qup in."""

from __future__ import annotations

import time
from dataclasses import replace

from qup.errors import MachineError
from qup.guest import ssh
from qup.guest.discovery import Finder, Place, doubt, find_impostor
from qup.guest.keys import ensure_keys
from qup.guest.readiness import Console, wait_for_banner
from qup.guest.takeover import add_own_key, find_known_keys, remove_known_keys
from qup.model.events import Console as ConsoleEvent
from qup.model.plan import Plan
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.qemu.engine import read_words
from qup.qemu.qmp import MonitorClosed, Qmp
from qup.runner.context import Context
from qup.runner.whereabouts import find_whereabouts, forget_place, note_place
from qup.store import write_state


def wait_until_ready(
    ctx: Context,
    folder: MachineFolder,
    plan: Plan,
    state: State,
    events: Qmp,
    *,
    listening: bool = False,
) -> State:
    """Wait for sshd's banner, log in, keep that connection, and write down that it works.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        plan: what was started; it says how long this may take.
        state: with the newest launch and where ssh is to be found.
        events: the monitor to watch.
        listening: most likely, sshd listens already.

    Raises:
        GuestError: the guest didn't become ready.
        MachineError: QEMU died meanwhile.
    """
    if not plan.seed_form.login:
        ctx.tell(
            folder.name,
            "runs; not waiting for ssh, as qup does not know how to give this guest a key",
            hint=f"'qup console {folder.name}' and 'qup view {folder.name}' (with qemu.display)"
            " show it; 'seeder' in the Qupfile says how it learns a key",
        )
        return state
    with ctx.phase(folder.name, "boot", "waiting for ssh") as phase:
        try:
            state = find_and_log_in(ctx, folder, plan, state, events, listening=listening)
        except MonitorClosed as exc:
            raise MachineError(
                f"machine {folder.name}: QEMU died while the guest was booting",
                details=read_words(folder.log("qemu")) or None,
                hint=f"'qup logs {folder.name} --log qemu' has all it said",
                machine=folder.name,
            ) from exc
        launch = state.launch
        assert launch is not None
        source = f", address by {launch.ssh_source}" if launch.ssh_source else ""
        phase.result = f"ssh on {launch.ssh_address}:{launch.ssh_port}{source}"
    state = state.with_launch(replace(launch, ready=True))
    write_state(folder, state)
    return state


def find_and_log_in(
    ctx: Context,
    folder: MachineFolder,
    plan: Plan,
    state: State,
    events: Qmp,
    *,
    listening: bool = False,
) -> State:
    """Wait for sshd's banner, log in, and keep that connection.

    Raises:
        GuestError: the guest didn't become ready.
        MonitorClosed: QEMU died meanwhile.
    """
    assert state.launch is not None
    deadline = time.monotonic() + plan.boot_timeout
    mac = plan.nics[plan.ssh_nic].mac
    where = find_whereabouts(state.launch, mac)
    console = Console(folder.log("serial"))
    doubts: set[str] = set()

    def tell_slow(lines: tuple[str, ...]) -> None:
        ctx.emit(ConsoleEvent(folder.name, lines))
        places = where.look(time.monotonic())
        fresh = {text for place in places if (text := doubt(place, mac))} - doubts
        for text in fresh:
            ctx.tell(folder.name, text, level="warning")
        doubts.update(fresh)

    listening = (listening or state.launch.restored) and not isinstance(where, Finder)
    try:
        while True:
            if listening:
                # No need to look for it, and to keep it busy by that.
                listening, place = False, where.look(0.0)[0]
            else:
                place = wait_for_banner(
                    folder.name,
                    where,
                    monitor=events,
                    console=console,
                    deadline=deadline,
                    on_slow=tell_slow,
                )
            ctx.watch.lap("boot")
            if isinstance(where, Finder):
                state = note_place(folder, state, place, plan)
            try:
                _log_in(ctx, folder, state, plan, max(1.0, deadline - time.monotonic()))
            except ssh.SshFailure as exc:
                elsewhere = exc.stranger or (exc.final and doubt(place, mac))
                if elsewhere and isinstance(where, Finder):
                    where.refuse(place, "somebody else answers there")
                    state = forget_place(folder, state)
                elif exc.final or time.monotonic() >= deadline:
                    raise _explain(exc, place, mac, console) from exc
            else:
                return state
    finally:
        if isinstance(where, Finder):
            where.close()


def _log_in(ctx: Context, folder: MachineFolder, state: State, plan: Plan, timeout: float) -> None:
    assert state.launch is not None
    runtime = RuntimeFolder.of(state.launch.runtime)
    keys = SshFolder(folder.ssh)
    learn = not plan.seed_form.host_key and not ssh.read_learned_keys(keys)
    # By the link: ssh expands what begins with % in a path.
    known = find_known_keys(SshFolder(runtime.ssh)) if plan.seed_form.known_key else []
    log = folder.log("ssh")
    ssh.open_master(keys, runtime, folder.name, log, timeout=timeout, learn=learn, keys=known)
    for key in ssh.read_learned_keys(keys) if learn else ():
        ctx.tell(
            folder.name,
            f"made its own host key, {ssh.fingerprint(key)}; seen for the first time, and from"
            " now on no other is accepted",
        )
    if known:
        _take_over(ctx, folder, runtime, timeout)


def _take_over(ctx: Context, folder: MachineFolder, runtime: RuntimeFolder, timeout: float) -> None:
    """Put the machine's own key in the place of one that everybody knows, and prove that it
    gets in before the other is removed.
    """
    keys, name = SshFolder(folder.ssh), folder.name
    add_own_key(keys, name, ensure_keys(keys, name)[0].public)
    ssh.close_master(keys, runtime, name)
    ssh.open_master(keys, runtime, name, folder.log("ssh"), timeout=timeout)
    remove_known_keys(keys, name)
    ctx.tell(name, "let everybody in who has the well-known key of its box; now its own is the"
             " only one of the two that gets in")  # fmt: skip


def _explain(exc: ssh.SshFailure, place: Place, mac: str, console: Console) -> ssh.SshFailure:
    """The failure, with what the console says, and with who has the address if it is taken."""
    exc.details = "\n".join(filter(None, (exc.details, *console.lines())))
    impostor = find_impostor(place.address, mac) if place.source else None
    if exc.stranger and impostor:
        exc.message = (
            f"{exc.message}: {place.address} is taken by {impostor}, and the machine's NIC is {mac}"
        )
        exc.hint = "give the machine another address, or stop the other computer"
    return exc
