"""The ports of this computer that lead to a guest: opening them, and having the same ones again.

QEMU says which ones it holds. What is remembered beside that (``forwards.json``) is which of them
are the Qupfile's, and what was open last: a port that was left to be picked is the same at the
next start if it is free, and a machine that begins anew has all of its ports again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from qup.errors import MachineError, StateError
from qup.files import write_atomic
from qup.guest.discovery import GIVEN, Place
from qup.model.network import SSH_PORT, Forward
from qup.model.plan import Plan
from qup.model.suspension import OpenedForward, Suspension
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.qmp import MonitorError, Qmp
from qup.runner.context import Context
from qup.runner.forwards import (
    Applied,
    Kept,
    Monitor,
    OpenForward,
    add_forward,
    apply_forwards,
    list_forwards,
    open_way_in,
)
from qup.runner.observe import SUSPENDED, Observation
from qup.runner.snapshots import RESTORING, read_mark
from qup.runner.suspended import read_suspension

MONITOR_TIMEOUT = 5.0


class OpenPorts(NamedTuple):
    """What leads to a guest.

    Attributes:
        ssh: the port of this computer for qup's own ssh.
        forwards: all others that are open.
        kept: which of them are the Qupfile's.
    """

    ssh: int | None = None
    forwards: Sequence[OpenForward] = ()
    kept: Sequence[Kept] = ()

    def rows(self) -> tuple[OpenedForward, ...]:
        """The forwards, each with what it was opened for."""
        wanted = {item.held: item.wanted for item in self.kept}
        return tuple(
            OpenedForward(item.nic, item.forward, wanted.get(item)) for item in self.forwards
        )

    @classmethod
    def of(cls, ssh: int | None, rows: Iterable[OpenedForward]) -> OpenPorts:
        """What :meth:`rows` gave."""
        rows = list(rows)
        kept = [Kept(item.nic, item.wanted, item.forward) for item in rows if item.wanted]
        forwards = tuple(OpenForward(item.nic, item.forward) for item in rows)
        return cls(ssh, forwards, tuple(kept))


NO_PORTS = OpenPorts()


# --- what was open ----------------------------------------------------------------------------


def ports_of(suspension: Suspension) -> OpenPorts:
    """The ports that a machine had when it was suspended."""
    return OpenPorts.of(suspension.ssh_port, suspension.forwards)


def read_ports(folder: MachineFolder, seen: Observation) -> OpenPorts:
    """The ports that a machine has or, if it doesn't run, shall have again.

    Those that the user opened by hand are closed for good when a machine stops, unless it was
    suspended, or stopped only to be restored.
    """
    if seen.status == SUSPENDED:
        with contextlib.suppress(StateError):
            return ports_of(read_suspension(folder))
    last = recall_ports(folder)
    launch = seen.state.launch if seen.state else None
    if not seen.alive or launch is None:
        if read_mark(folder, RESTORING) is not None:
            return last
        return last._replace(forwards=tuple(item.held for item in last.kept))
    with contextlib.suppress(MonitorError):
        path = RuntimeFolder.of(launch.runtime).control
        with Qmp.connect(path, timeout=MONITOR_TIMEOUT) as monitor:
            return _look(monitor, launch.ssh_port, last.kept)
    return last


def _look(monitor: Monitor, ssh: int | None, kept: Sequence[Kept]) -> OpenPorts:
    others = tuple(item for item in list_forwards(monitor) if item.forward.host != ssh)
    return OpenPorts(ssh, others, tuple(item for item in kept if item.held in others))


def note_ports(
    folder: MachineFolder, monitor: Monitor, ssh: int | None, kept: Sequence[Kept] | None = None
) -> None:
    """Remember what is open at this moment, after something was opened or closed.

    Args:
        folder: the machine's folder.
        monitor: QEMU's.
        ssh: the port for qup's own ssh.
        kept: the Qupfile's forwards; those that were remembered if None.
    """
    known = recall_ports(folder).kept if kept is None else kept
    remember_ports(folder, _look(monitor, ssh, known))


def remember_ports(folder: MachineFolder, ports: OpenPorts) -> None:
    """Remember ports as those that are open, or shall be again."""
    data = {"ssh": ports.ssh, "forwards": [asdict(row) for row in ports.rows()]}
    write_atomic(folder.forwards, json.dumps(data, indent=2) + "\n", durable=False)


def recall_ports(folder: MachineFolder) -> OpenPorts:
    """What was remembered; nothing if it can't be read."""
    try:
        data = json.loads(folder.forwards.read_bytes())
        ssh = data["ssh"]
        return OpenPorts.of(None if ssh is None else int(ssh), list(_read_rows(data["forwards"])))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return NO_PORTS


def _read_rows(rows: Any) -> Iterator[OpenedForward]:
    for row in rows:
        wanted = Forward(**row["wanted"]) if row["wanted"] else None
        yield OpenedForward(int(row["nic"]), Forward(**row["forward"]), wanted)


# --- opening ----------------------------------------------------------------------------------


def open_ways(
    ctx: Context, folder: MachineFolder, monitor: Monitor, plan: Plan, ports: OpenPorts
) -> tuple[Place, Applied]:
    """Open the way in for ssh, what was open before, and what the Qupfile wants; remember it.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        monitor: QEMU's; its guest has not run yet.
        plan: what is being started.
        ports: those that the machine shall have again, if they are free.

    Returns:
        Where ssh finds the guest, as far as that is known, and what came of the forwards.
    """
    nic = plan.nics[plan.ssh_nic].plan
    place, ssh = Place(nic.ssh_address or "", SSH_PORT, GIVEN), None
    if not nic.ssh_address and not nic.discover:
        way_in = open_way_in(monitor, plan, ports.ssh)
        place, ssh = Place(way_in.address, way_in.host), way_in.host
    again = reopen(ctx, monitor, plan, ports, own=place.port)
    applied = apply_forwards(monitor, plan, ports.kept, own=place.port)
    forwards = sorted({*again, *(item.held for item in applied.kept)})
    remember_ports(folder, OpenPorts(ssh, forwards, applied.kept))
    return place, applied


def reopen(
    ctx: Context, monitor: Monitor, plan: Plan, ports: OpenPorts, *, own: int | None
) -> list[OpenForward]:
    """Open again what was open, and is not a port that the Qupfile names: that has its turn
    afterwards.

    Returns:
        What is open again.
    """
    opened = []
    ours = {item.held: item.wanted for item in ports.kept}
    for item in ports.forwards:
        if item.nic >= len(plan.nics) or item.forward.host == own:
            continue
        nic, wanted = plan.nics[item.nic].plan, ours.get(item)
        if wanted is not None:
            inside = nic.ports is None or item.forward.host in nic.ports
            if wanted.host or wanted not in nic.forwards or not inside:
                continue
        try:
            guest = nic.guest_address
            opened.append(add_forward(monitor, item.forward, nic=item.nic, guest=guest))
        except MachineError as exc:
            if wanted is None:
                ctx.tell(plan.identity.name, exc.message, level="warning")
    return opened
