"""Forwards of a running machine, through QEMU's monitor.

Forwards are added after QEMU has started, one by one: a port that is taken fails alone. QEMU
holds the ports from then on, and says itself which it has (``info usernet``), so nothing is
remembered and nothing can be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qup.errors import MachineError
from qup.model.network import LOOPBACK, SSH_PORT, Forward

NETDEV = "net0"
SSH_FORWARD = Forward("tcp", LOOPBACK, 0, SSH_PORT)

_HOSTFWD = re.compile(
    r"^\s*(?P<protocol>TCP|UDP)\[HOST_FORWARD\]\s+\S+\s+(?P<address>\S+)\s+(?P<host>\d+)"
    r"\s+\S+\s+(?P<guest>\d+)",
    re.MULTILINE,
)


class Monitor(Protocol):
    """The part of :class:`qup.qemu.qmp.Qmp` that is needed here."""

    def hmp(self, command_line: str, *, timeout: float = 5.0) -> str: ...


def list_forwards(monitor: Monitor) -> list[Forward]:
    """The forwards that QEMU holds at this moment, with the ports it picked."""
    text = monitor.hmp("info usernet")
    return sorted(
        Forward(
            "udp" if match["protocol"] == "UDP" else "tcp",
            match["address"].replace("*", "0.0.0.0"),  # noqa: S104  QEMU's word for it
            int(match["host"]),
            int(match["guest"]),
        )
        for match in _HOSTFWD.finditer(text)
    )


def add_forward(monitor: Monitor, forward: Forward) -> Forward:
    """Let a port of the host lead to the guest.

    Returns:
        The forward with the port that QEMU picked, if that was left to it.

    Raises:
        MachineError: QEMU could not listen there.
    """
    before = list_forwards(monitor)
    if any(_listen_at_one_place(item, forward) for item in before):
        raise MachineError(
            f"forward {forward}: this machine has port {forward.host}/{forward.protocol} open"
            " already",
            hint="'qup port list' shows where it leads",
        )
    said = monitor.hmp(f"hostfwd_add {NETDEV} {forward.rule}").strip()
    if said:
        raise MachineError(
            f"forward {forward}: port {forward.host} on {forward.address} can't be opened;"
            " another program listens there",
            details=said,
            hint=f"'ss -lptn sport = :{forward.host}' names it; host port 0 picks a free one",
        )
    if forward.host:
        return forward
    fresh = [item for item in list_forwards(monitor) if item not in before]
    return next(item for item in fresh if item.guest == forward.guest)


def _listen_at_one_place(one: Forward, other: Forward) -> bool:
    anywhere = "0.0.0.0" in (one.address, other.address)  # noqa: S104  compared with
    same_port = (one.protocol, one.host) == (other.protocol, other.host)
    return same_port and (anywhere or one.address == other.address)


def remove_forward(monitor: Monitor, forward: Forward) -> None:
    """Close a port again.

    Raises:
        MachineError: QEMU holds no such forward.
    """
    said = monitor.hmp(f"hostfwd_remove {NETDEV} {forward.listener}").strip()
    if "removed" not in said:
        raise MachineError(f"forward {forward}: {said or 'not removed'}")


@dataclass
class Opened:
    """What came of opening forwards: how many are new, and what went wrong with the others."""

    count: int = 0
    failures: list[MachineError] = field(default_factory=list)


def open_forwards(monitor: Monitor, wanted: Sequence[Forward], *, own: int | None) -> Opened:
    """Add those that aren't there yet; one that fails doesn't keep the others from it.

    Args:
        monitor: QEMU's.
        wanted: what the Qupfile asks for.
        own: the port of qup's own forward to sshd, which satisfies nobody else's wish.
    """
    result = Opened()
    present = [item for item in list_forwards(monitor) if item.host != own] if wanted else []
    for forward in wanted:
        if any(_satisfies(item, forward) for item in present):
            continue
        try:
            add_forward(monitor, forward)
        except MachineError as exc:
            result.failures.append(exc)
        else:
            result.count += 1
    return result


def _satisfies(present: Forward, wanted: Forward) -> bool:
    same = (present.protocol, present.address, present.guest) == (
        wanted.protocol,
        wanted.address,
        wanted.guest,
    )
    return same and wanted.host in (0, present.host)
