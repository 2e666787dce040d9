"""Forwards and NICs: what the planner, network modes and ``qup port`` share."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

LOOPBACK = "127.0.0.1"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104  compared with, never bound to
SSH_PORT = 22
SSH_MODE = "ssh"
"""What a plan calls the NIC that is no network mode's but qup's own, for ssh alone."""

NOWHERE = "none"
"""Instead of the type of a network device of QEMU's: a cable that leads nowhere."""

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

    def with_host(self, port: int) -> Forward:
        """The same with another port of the host's."""
        return replace(self, host=port)

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


@dataclass(frozen=True)
class PortRange:
    """Ports of the host from the first to the last, both included."""

    first: int
    last: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


_RANGE = re.compile(r"\s*(?P<first>[0-9]{1,5})?\s*-\s*(?P<last>[0-9]{1,5})?\s*", re.ASCII)


def parse_port_range(text: object) -> PortRange:
    """Read ``first-last``.

    Raises:
        ValueError: it isn't a range; the message says what is wrong with it.
    """
    example = 'write "first-last", for instance "40000-40099"'
    if isinstance(text, str) and text.strip().isdecimal():
        port = text.strip()
        raise ValueError(f'{text!r} has one end only; for that single port write "{port}-{port}"')
    match = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match["first"] is match["last"] is None:
        raise ValueError(f"{text!r} is not a range of ports; {example}")
    if match["first"] is None or match["last"] is None:
        raise ValueError(f"{text!r} has one end only; {example}")
    first, last = int(match["first"]), int(match["last"])
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise ValueError(f"{text!r}: ports go from 1 to 65535")
    if first > last:
        raise ValueError(f'{text!r} is the wrong way round; write "{last}-{first}"')
    return PortRange(first, last)


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
        project: a random word, the same for all machines of a project and no other's.
        resolvers: the host's DNS servers (IP addresses), in the order in which it asks them.
    """

    machine: str
    hostname: str
    index: int
    mac: str
    project: str = ""
    resolvers: tuple[str, ...] = ()


@dataclass(frozen=True)
class AddressPlan:
    """What the guest is told about a NIC: its seed has it, and the guest sets itself up by it.

    Attributes:
        dhcp: ask for an IPv4 address by DHCP.
        addresses: fixed addresses with their prefix, such as ``10.1.2.3/24``.
        gateway: where the guest sends what is for none of its networks; with fixed addresses.
        nameservers: DNS servers, in the order to ask them; beside those that DHCP tells.
        search: domains to look for short names in.
    """

    dhcp: bool = True
    addresses: tuple[str, ...] = ()
    gateway: str | None = None
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seat:
    """A machine's place on a network that it shares with others of its project.

    Attributes:
        machine: the machine's name.
        hostname: the guest's name.
        segment: the network.
        address: the machine's address there, with its prefix.
    """

    machine: str
    hostname: str
    segment: str
    address: str


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
        ports: where ports of the host are taken from that are left to be picked: ssh's, and
            those of forwards with 0. Only for ``type=user``.
        ssh_address: where ssh finds the guest; None means through a forward to port 22
            that qup adds itself.
        guest_address: the guest's own address if it is known beforehand.
        actions: what to do on the host before the start.
        tap: the tap behind ``type=tap``; its descriptor is added to ``netdev`` at the start.
        discover: the guest's address is not known beforehand: look for it while it boots.
        address: what the guest is told about the NIC.
        reachable: whether the host gets to the guest by this NIC. ssh goes through the first
            one that it does; a machine without any gets one more, for ssh alone.
        segment: the network that the NIC is on together with other machines of the project, if
            they meet there: they learn each other's names.
    """

    netdev: dict[str, str]
    forwards: tuple[Forward, ...] = ()
    ssh_address: str | None = None
    guest_address: str | None = None
    actions: tuple[HostAction, ...] = field(default=())
    tap: Tap | None = None
    discover: bool = False
    ports: PortRange | None = None
    address: AddressPlan = field(default=AddressPlan())
    reachable: bool = True
    segment: str | None = None
