"""Forwards and NICs: what the planner, network modes and ``qup port`` share."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal

LOOPBACK = "127.0.0.1"
SSH_PORT = 22

Protocol = Literal["tcp", "udp"]

_FORWARD = re.compile(
    r"(?:(?P<address>\[[0-9a-fA-F:]+\]|[0-9.]+|localhost):)?"
    r"(?P<host>[0-9]{1,5}):(?P<guest>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?",
    re.ASCII,
)


@dataclass(frozen=True, order=True)
class Forward:
    """One port of the host that leads to one of the guest.

    Attributes:
        protocol: tcp or udp.
        address: the host's address that listens; 127.0.0.1 unless somebody asked otherwise.
        host: the host's port; 0 lets QEMU pick one.
        guest: the guest's port.
    """

    protocol: Protocol
    address: str
    host: int
    guest: int

    @property
    def rule(self) -> str:
        """QEMU's own notation, as ``hostfwd=`` and ``hostfwd_add`` take it."""
        return f"{self.protocol}:{self.address}:{self.host}-:{self.guest}"

    @property
    def listener(self) -> str:
        """QEMU's notation of the listening end, as ``hostfwd_remove`` takes it."""
        return f"{self.protocol}:{self.address}:{self.host}"

    def __str__(self) -> str:
        text = f"{self.address}:{self.host}:{self.guest}"
        return text if self.protocol == "tcp" else f"{text}/{self.protocol}"


def parse_forward(text: object) -> Forward:
    """Read ``[address:]host:guest[/tcp|udp]``; host port 0 means "pick one".

    Raises:
        ValueError: it isn't a forward; the message says what is wrong with it.
    """
    match = _FORWARD.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a forward; write [address:]host:guest[/udp],"
            ' for instance "8080:80", "127.0.0.1:5353:53/udp" or "0:8000"'
        )
    address = (match["address"] or LOOPBACK).replace("localhost", LOOPBACK)
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        raise ValueError(f"{address} in {text!r} is not an IP address") from None
    if ip.version != 4:
        raise ValueError(f"{address} in {text!r}: QEMU's user network forwards from IPv4 only")
    host, guest = int(match["host"]), int(match["guest"])
    if host > 65535 or not 1 <= guest <= 65535:
        raise ValueError(f"{text!r}: ports go from 1 to 65535 (the host's may be 0: pick one)")
    protocol: Protocol = "udp" if match["protocol"] == "udp" else "tcp"
    return Forward(protocol, str(ip), host, guest)


def make_mac(machine_id: str, index: int) -> str:
    """A MAC that is the machine's own and always the same, in QEMU's range 52:54:00."""
    digest = hashlib.sha256(f"{machine_id}/{index}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


@dataclass(frozen=True)
class NicRequest:
    """What a network mode is told about the NIC it shall plan.

    Attributes:
        machine: the machine's name.
        hostname: the guest's name.
        index: 0 for the first NIC.
        mac: the address the guest will see.
    """

    machine: str
    hostname: str
    index: int
    mac: str


@dataclass(frozen=True)
class HostAction:
    """Something to run on the host before QEMU starts, and how to take it back.

    Both are command lines without a shell. The undo is recorded before the action runs, and
    must succeed when the action never did.
    """

    do: tuple[str, ...]
    undo: tuple[str, ...]


@dataclass(frozen=True)
class Tap:
    """A tap of the host, which qup opens and hands to QEMU as a descriptor.

    Attributes:
        interface: its name. One that is there is attached to; one that isn't is made, and is
            gone with QEMU.
        bridge: the bridge that one made by qup is put on, or None.
        host_address: the host's own address on one made by qup, with its prefix length, or None.
        helper: without the right to make one, let qemu-bridge-helper make it, on ``bridge``;
            its name is the kernel's choice then.
    """

    interface: str
    bridge: str | None = None
    host_address: str | None = None
    helper: bool = False


@dataclass(frozen=True)
class NicPlan:
    """What a network mode answers.

    Attributes:
        netdev: properties of QEMU's ``-netdev`` (``type`` among them), without ``id``.
        forwards: host ports, added while the guest is still stopped. Only for ``type=user``.
        ssh_address: where ssh finds the guest; None means through a forward to port 22
            that qup adds itself.
        guest_address: the guest's own address if it is known beforehand.
        actions: what to do on the host before the start.
        tap: the tap behind ``type=tap``; its descriptor is added to ``netdev`` at the start.
        discover: the guest's address is not known beforehand: look for it while it boots.
    """

    netdev: dict[str, str]
    forwards: tuple[Forward, ...] = ()
    ssh_address: str | None = None
    guest_address: str | None = None
    actions: tuple[HostAction, ...] = field(default=())
    tap: Tap | None = None
    discover: bool = False
