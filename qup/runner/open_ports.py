"""The ports of a machine that is about to begin anew: it shall have the same ones afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from qup.errors import MachineError, StateError
from qup.model.plan import Plan
from qup.model.suspension import Suspension
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.qmp import MonitorError, Qmp
from qup.runner.context import Context
from qup.runner.forwards import (
    Kept,
    Monitor,
    OpenForward,
    add_forward,
    list_forwards,
    read_kept,
)
from qup.runner.observe import SUSPENDED, Observation
from qup.runner.suspended import read_suspension

MONITOR_TIMEOUT = 5.0


class OpenPorts(NamedTuple):
    """What led to a guest.

    Attributes:
        ssh: the port of this computer for qup's own ssh.
        forwards: all others that were open.
        kept: which of them were the Qupfile's.
    """

    ssh: int | None = None
    forwards: Sequence[OpenForward] = ()
    kept: Sequence[Kept] = ()


NO_PORTS = OpenPorts()


def ports_of(suspension: Suspension) -> OpenPorts:
    """The ports that a machine had when it was suspended."""
    found = suspension.forwards
    kept = [Kept(item.nic, item.wanted, item.forward) for item in found if item.wanted]
    forwards = [OpenForward(item.nic, item.forward) for item in found]
    return OpenPorts(suspension.ssh_port, forwards, kept)


def read_ports(folder: MachineFolder, seen: Observation) -> OpenPorts:
    """The ports of a machine at this moment, or when it was suspended; none if it doesn't run or
    QEMU doesn't answer.
    """
    if seen.status == SUSPENDED:
        with contextlib.suppress(StateError):
            return ports_of(read_suspension(folder))
    launch = seen.state.launch if seen.state else None
    if not seen.alive or launch is None:
        return NO_PORTS
    with contextlib.suppress(MonitorError):
        path = RuntimeFolder.of(launch.runtime).control
        with Qmp.connect(path, timeout=MONITOR_TIMEOUT) as monitor:
            found = list_forwards(monitor)
        others = [item for item in found if item.forward.host != launch.ssh_port]
        return OpenPorts(launch.ssh_port, others, read_kept(folder))
    return NO_PORTS


def reopen(
    ctx: Context, monitor: Monitor, plan: Plan, ports: OpenPorts, *, own: int | None
) -> None:
    """Open again what was open. What the Qupfile wants is tried once more afterwards."""
    ours = [item.held for item in ports.kept]
    for item in ports.forwards:
        if item.nic >= len(plan.nics) or item.forward.host == own:
            continue
        try:
            guest = plan.nics[item.nic].plan.guest_address
            add_forward(monitor, item.forward, nic=item.nic, guest=guest)
        except MachineError as exc:
            if item not in ours:
                ctx.tell(plan.identity.name, exc.message, level="warning")
