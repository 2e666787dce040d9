"""Forwards of a running machine, through QEMU's monitor.

Forwards are added after QEMU has started, one by one: a port that is taken fails alone. QEMU
holds the ports from then on, and says itself which it has (``info usernet``). What is
remembered (:class:`Kept`) is only which of them the Qupfile asked for, so that one that leaves
the Qupfile is closed and one that the user added by ``qup port add`` is not.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from qup.errors import MachineError
from qup.model.network import LOOPBACK, SSH_PORT, Forward, PortRange
from qup.model.plan import Plan
from qup.paths import MachineFolder

SSH_FORWARD = Forward("tcp", LOOPBACK, 0, SSH_PORT)
NO_RANGES: Mapping[int, PortRange] = MappingProxyType({})
PASSES = 2
"""How often a range is gone through: a port may get free behind our back."""

_NETDEV = re.compile(r"^Hub \S+ \(net(?P<nic>\d+)\):", re.MULTILINE)
_HOSTFWD = re.compile(
    r"^\s*(?P<protocol>TCP|UDP)\[HOST_FORWARD\]\s+\S+\s+(?P<address>\S+)\s+(?P<host>\d+)"
    r"\s+(?P<leads_to>\S+)\s+(?P<guest>\d+)",
    re.MULTILINE,
)


class Monitor(Protocol):
    """The part of :class:`qup.qemu.qmp.Qmp` that is needed here."""

    def hmp(self, command_line: str, *, timeout: float = 5.0) -> str: ...


@dataclass(frozen=True, order=True)
class OpenForward:
    """A forward that QEMU holds, and the NIC that it leads to."""

    nic: int
    forward: Forward

    def to_dict(self) -> dict[str, Any]:
        """As ``qup port list --json`` prints it."""
        return {"nic": self.nic, **asdict(self.forward)}


# --- one forward ----------------------------------------------------------------------------


def list_forwards(monitor: Monitor) -> list[OpenForward]:
    """The forwards that QEMU holds at this moment, with the ports it picked."""
    return sorted(
        OpenForward(nic, forward) for nic, found in _look(monitor).items() for forward in found
    )


def _look(monitor: Monitor) -> dict[int, list[Forward]]:
    """The forwards of each NIC that can have any."""
    _, *parts = _NETDEV.split(monitor.hmp("info usernet"))
    return {
        int(nic): [
            Forward(
                "udp" if match["protocol"] == "UDP" else "tcp",
                match["address"].replace("*", "0.0.0.0"),  # noqa: S104  QEMU's word for it
                int(match["host"]),
                int(match["guest"]),
            )
            for match in _HOSTFWD.finditer(text)
        ]
        for nic, text in zip(parts[::2], parts[1::2], strict=True)
    }


def add_forward(
    monitor: Monitor,
    forward: Forward,
    *,
    nic: int | None = None,
    ranges: Mapping[int, PortRange] = NO_RANGES,
    guest: str | None = None,
) -> OpenForward:
    """Let a port of the host lead to the guest.

    Args:
        monitor: QEMU's.
        forward: which.
        nic: the NIC that it leads to; the first that can have forwards if None.
        ranges: by NIC, where to take a port from that is left to be picked; QEMU picks any for
            a NIC that isn't there.
        guest: the guest's address; where the NIC's other forwards lead if None, or else where
            QEMU thinks that the guest is.

    Returns:
        The forward with the port that was picked, if that was left open.

    Raises:
        MachineError: QEMU could not listen there, or there is no such NIC.
    """
    seen = _look(monitor)
    chosen = next(iter(seen), None) if nic is None else nic
    if chosen not in seen:
        raise MachineError(
            f"forward {forward}: this machine has no network card in mode 'user' for it",
            hint="forwards are for QEMU's user network; 'qup ip' says how the guest is reached",
        )
    before = [item for found in seen.values() for item in found]
    target = _Target(chosen, guest or _find_guest(monitor, chosen))
    if forward.host == 0 and chosen in ranges:
        return OpenForward(chosen, _take_from_range(monitor, forward, target, ranges[chosen]))
    if any(_listen_at_one_place(item, forward) for item in before):
        raise MachineError(
            f"forward {forward}: this machine has port {forward.host}/{forward.protocol} open"
            " already",
            hint="'qup port list' shows where it leads",
        )
    if said := _ask(monitor, forward, target):
        raise MachineError(
            f"forward {forward}: port {forward.host} on {forward.address} can't be opened;"
            " another program listens there",
            details=said,
            hint=f"'ss -lptn sport = :{forward.host}' names it; host port 0 picks a free one",
        )
    if forward.host:
        return OpenForward(chosen, forward)
    fresh = [item for item in _look(monitor)[chosen] if item not in before]
    return OpenForward(chosen, next(item for item in fresh if item.guest == forward.guest))


class _Target(NamedTuple):
    """Where a forward leads: a NIC, and the guest's address there if it is known."""

    nic: int
    guest: str


def _find_guest(monitor: Monitor, nic: int) -> str:
    """The address that the forwards of a NIC lead to; empty if there are none."""
    _, *parts = _NETDEV.split(monitor.hmp("info usernet"))
    texts = dict(zip(map(int, parts[::2]), parts[1::2], strict=True))
    match = _HOSTFWD.search(texts.get(nic, ""))
    return match["leads_to"] if match else ""


def _ask(monitor: Monitor, forward: Forward, target: _Target) -> str:
    """Have QEMU open a forward; returns what it has against it."""
    rule = f"{forward.listener}-{target.guest}:{forward.guest}"
    return monitor.hmp(f"hostfwd_add net{target.nic} {rule}").strip()


def _take_from_range(
    monitor: Monitor, forward: Forward, target: _Target, ports: PortRange
) -> Forward:
    """Open the first port of a range that QEMU can have.

    A look beforehand spares QEMU the ports that are taken; whether one is free QEMU says, as
    somebody may be faster.
    """
    for _ in range(PASSES):
        for candidate in (forward.with_host(port) for port in ports):
            if _looks_free(candidate) and not _ask(monitor, candidate, target):
                return candidate
    raise MachineError(
        f"forward {forward}: no port from {ports} is free on {forward.address}",
        hint="widen 'ports' in the Qupfile, or free one: 'ss -lptn' names who has them",
    )


def _looks_free(forward: Forward) -> bool:
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if forward.protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((forward.address, forward.host))
        except OSError:
            return False
    return True


def _listen_at_one_place(one: Forward, other: Forward) -> bool:
    anywhere = "0.0.0.0" in (one.address, other.address)  # noqa: S104  compared with
    same_port = (one.protocol, one.host) == (other.protocol, other.host)
    return same_port and (anywhere or one.address == other.address)


def remove_forward(monitor: Monitor, item: OpenForward) -> None:
    """Close a port again.

    Raises:
        MachineError: QEMU holds no such forward.
    """
    said = monitor.hmp(f"hostfwd_remove net{item.nic} {item.forward.listener}").strip()
    if "removed" not in said:
        raise MachineError(f"forward {item.forward}: {said or 'not removed'}")


def ranges_of(plan: Plan) -> dict[int, PortRange]:
    """The ranges of a plan's NICs, by NIC."""
    return {
        index: nic.plan.ports for index, nic in enumerate(plan.nics) if nic.plan.ports is not None
    }


def read_ranges(folder: MachineFolder) -> dict[int, PortRange]:
    """Those of the plan that a machine was started with."""
    try:
        plan: Any = json.loads(folder.plan.read_bytes())
        found = {index: nic["plan"]["ports"] for index, nic in enumerate(plan["nics"])}
        return {index: PortRange(**ports) for index, ports in found.items() if ports}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def open_way_in(monitor: Monitor, plan: Plan, prefer: int | None = None) -> Forward:
    """Let ssh in, by a port that is free: ``prefer`` if that is.

    Raises:
        MachineError: there is none in the range that the Qupfile names.
    """
    nic, guest = plan.ssh_nic, plan.nics[plan.ssh_nic].plan.guest_address
    ranges = ranges_of(plan)
    if prefer is not None and (nic not in ranges or prefer in ranges[nic]):
        with contextlib.suppress(MachineError):
            wanted = SSH_FORWARD.with_host(prefer)
            return add_forward(monitor, wanted, nic=nic, guest=guest).forward
    try:
        return add_forward(monitor, SSH_FORWARD, nic=nic, ranges=ranges, guest=guest).forward
    except MachineError as exc:
        name = plan.identity.name
        reason = exc.message.removeprefix(f"forward {SSH_FORWARD}: ")
        raise MachineError(
            f"machine {name}: no way in for ssh: {reason}", hint=exc.hint, machine=name
        ) from exc


# --- those of the Qupfile -------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A forward of the Qupfile, and what was opened for it."""

    nic: int
    wanted: Forward
    opened: Forward

    @property
    def held(self) -> OpenForward:
        return OpenForward(self.nic, self.opened)


@dataclass
class Applied:
    """What came of bringing a machine's forwards into line with its plan."""

    kept: list[Kept] = field(default_factory=list)
    opened: list[Forward] = field(default_factory=list)
    closed: list[Forward] = field(default_factory=list)
    failures: list[MachineError] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.opened or self.closed)


def apply_forwards(
    monitor: Monitor, plan: Plan, kept: Sequence[Kept], *, own: int | None
) -> Applied:
    """Open what is in the plan and not there yet; close what was in it and is not any more.

    One that fails doesn't keep the others from it. What the user opened beside the Qupfile's
    stays as it is.

    Args:
        monitor: QEMU's.
        plan: what is wanted.
        kept: what was opened for the plan before; nothing for a machine that just started.
        own: the port of qup's own forward to sshd, which satisfies nobody else's wish.
    """
    result = Applied()
    if not kept and not any(nic.plan.forwards for nic in plan.nics):
        return result
    seen = _look(monitor)
    wanted = [
        (index, forward)
        for index, nic in enumerate(plan.nics)
        if index in seen  # a NIC that comes with the next start
        for forward in nic.plan.forwards
    ]
    present = {OpenForward(nic, item) for nic, found in seen.items() for item in found
               if item.host != own}  # fmt: skip
    for item in kept:
        if (item.nic, item.wanted) not in wanted and item.held in present:
            with contextlib.suppress(MachineError):  # it is gone already
                remove_forward(monitor, item.held)
            present.discard(item.held)
            result.closed.append(item.opened)
    known = {(item.nic, item.wanted): item for item in kept if item.held in present}
    for nic, forward in wanted:
        mine = known.get((nic, forward)) or _adopt(nic, forward, present)
        if mine is None:
            try:
                held = add_forward(
                    monitor,
                    forward,
                    nic=nic,
                    ranges=ranges_of(plan),
                    guest=plan.nics[nic].plan.guest_address,
                )
            except MachineError as exc:
                result.failures.append(exc)
                continue
            result.opened.append(held.forward)
            mine = Kept(nic, forward, held.forward)
        result.kept.append(mine)
    return result


def _adopt(nic: int, wanted: Forward, present: set[OpenForward]) -> Kept | None:
    """One that the user opened before the Qupfile had it."""
    fitting = (
        item for item in present
        if item.nic == nic and item.forward.with_host(wanted.host) == wanted
        and wanted.host in (0, item.forward.host)
    )  # fmt: skip
    found = min(fitting, default=None)
    return None if found is None else Kept(nic, wanted, found.forward)
