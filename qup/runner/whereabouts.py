"""Where ssh finds a machine: what was known beforehand, what was found, and what has changed."""

from __future__ import annotations

from dataclasses import replace

from qup.errors import MachineError
from qup.guest import ssh
from qup.guest.discovery import GIVEN, Finder, Fixed, Place
from qup.guest.keys import ensure_keys
from qup.model.network import SSH_PORT
from qup.model.plan import Plan
from qup.model.state import Launch, State, TapLink
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.runner.context import Context
from qup.runner.links import find_silence, find_trouble
from qup.store import write_state


def note_ways(
    folder: MachineFolder, state: State, plan: Plan, place: Place, taps: tuple[TapLink, ...]
) -> State:
    """Write down how a guest that has just been given its ports and taps is reached.

    Args:
        folder: the machine's folder.
        state: with the launch that is under way.
        plan: what is being started.
        place: where ssh will be; without an address, as long as that has to be found.
        taps: what connects the guest to the host.
    """
    assert state.launch is not None
    login = plan.seed_form.login
    state = state.with_launch(replace(state.launch, ssh_port=place.port, taps=taps, login=login))
    if place.address:
        return note_place(folder, state, place, plan)
    return forget_place(folder, state)  # the one of an earlier start


def note_place(folder: MachineFolder, state: State, place: Place, plan: Plan) -> State:
    """Write down where ssh is to be found, for qup and for ssh."""
    assert state.launch is not None
    launch = replace(
        state.launch, ssh_address=place.address, ssh_port=place.port, ssh_source=place.source
    )
    state = state.with_launch(launch)
    keys = SshFolder(folder.ssh)
    _, host_key = ensure_keys(keys, folder.name)
    endpoint = ssh.Endpoint(folder.name, state.id, place.address, place.port, state.user)
    pinned = host_key.public if plan.seed_form.host_key else None
    ssh.write_config(endpoint, keys, RuntimeFolder.of(launch.runtime), pinned)
    write_state(folder, state)
    return state


def forget_place(folder: MachineFolder, state: State) -> State:
    """Write down that it isn't known where the guest is: nobody shall be sent elsewhere."""
    assert state.launch is not None
    state = state.with_launch(replace(state.launch, ssh_address=None, ssh_source=None))
    SshFolder(folder.ssh).config.unlink(missing_ok=True)
    write_state(folder, state)
    return state


def find_whereabouts(launch: Launch, mac: str) -> Fixed | Finder:
    """One place, if it was known before the start; an address that was found may change."""
    if launch.ssh_address is not None and launch.ssh_source in (None, GIVEN):
        assert launch.ssh_port is not None
        return Fixed(Place(launch.ssh_address, launch.ssh_port, launch.ssh_source), mac)
    return Finder(mac, RuntimeFolder.of(launch.runtime).agent)


def check_whereabouts(
    ctx: Context, folder: MachineFolder, plan: Plan, state: State
) -> tuple[State, bool]:
    """Look whether a machine that runs can still be where it was.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        plan: the plan for now; it may name another address for a guest that isn't told its own.
        state: with the newest launch.

    Returns:
        The state, and whether the guest has to be looked for.

    Raises:
        MachineError: this computer's end of its cable is loose.
    """
    launch = state.launch
    assert launch is not None
    if trouble := find_trouble(launch):
        raise MachineError(f"machine {folder.name} runs, but {trouble}", machine=folder.name)
    nic = plan.nics[plan.ssh_nic].plan
    own = (
        bool(launch.taps) and nic.tap is not None and (launch.ssh_source or not launch.ssh_address)
    )
    if own and nic.ssh_address not in (None, launch.ssh_address) and not nic.address.addresses:
        ctx.tell(folder.name, f"its address is {nic.ssh_address}, the configuration says now")
        place = Place(str(nic.ssh_address), SSH_PORT, GIVEN)
        state, moved = note_place(folder, state, place, plan), True
    elif launch.ready and (silence := find_silence(launch)):
        ctx.tell(folder.name, f"{silence}; looking for it", level="warning")
        moved = True
    else:
        moved = False
    if moved:
        ssh.close_master(SshFolder(folder.ssh), RuntimeFolder.of(launch.runtime), folder.name)
    return state, moved
