"""The network mode ``user``: QEMU's own network stack (slirp). Needs no privileges.

The guest is at 10.0.2.15 behind an address translation: it reaches the outside, and from the
outside it is reached through the forwards alone.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from qup.api import (
    AddressPlan,
    Forward,
    Host,
    NetworkMode,
    NicPlan,
    NicRequest,
    PortRange,
    Problem,
    hookimpl,
    parse_forward,
    parse_port_range,
)

if TYPE_CHECKING:
    from qup.api import Settings

_LOOPBACK = "127.0.0.1"
_MOST_RESOLVERS = 3
"""More are of no use to a guest with glibc (MAXNS in ``resolv.conf(5)``)."""
_FIRST_SUBNET = 2
"""The third byte of the first NIC's network; QEMU's own default."""


class UserNetwork:
    """QEMU's user network."""

    name = "user"
    summary = "QEMU's own network; no privileges needed, forwards lead to the guest"

    @property
    def options(self) -> type[Settings]:
        return _options()

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:  # noqa: ARG002  sockets tell
        """Look for forwards that this user can't open here.

        A port that is merely taken is none: it may be free when the machine starts, and if it
        is not, the start says so and the other forwards work.
        """
        found = (_problem(forward) for forward in options.forward if forward.host)
        return [problem for problem in found if problem is not None]

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        # slirp announces IPv6 even where the host has none; guests would try it first.
        netdev = {"type": "user", "hostname": nic.hostname, "ipv6": "off"}
        if options.isolate:
            netdev["restrict"] = "on"
        subnet = f"10.0.{_FIRST_SUBNET + nic.index}"
        if nic.index:  # two cards can't be in one network: the guest would use only one
            netdev["net"] = f"{subnet}.0/24"
        nameservers = () if options.isolate else _nameservers(nic.resolvers, subnet)
        return NicPlan(
            netdev,
            forwards=options.forward,
            guest_address=f"{subnet}.15",
            ports=options.ports,
            address=AddressPlan(nameservers=nameservers),
        )


@hookimpl
def qup_network_modes() -> Iterable[NetworkMode]:
    return [UserNetwork()]


def _nameservers(resolvers: Sequence[str], subnet: str) -> tuple[str, ...]:
    """What to tell a guest that DHCP does not: nothing, if the host has one resolver.

    QEMU passes what the guest asks at 10.0.2.3 on to the host's first resolver, even while that
    one is dead. So a guest learns the others, too, as far as it can reach them: on the host's
    loopback that is 127.0.0.1 alone (10.0.2.2 leads there). The first stays behind 10.0.2.3,
    where QEMU follows when the host changes networks.
    """
    own = [text for text in resolvers if ":" not in text]  # the guest has no IPv6
    others = [
        f"{subnet}.2" if text == _LOOPBACK else text
        for text in own[1:]
        if text == _LOOPBACK or not text.startswith("127.")
    ]
    return (f"{subnet}.3", *others)[:_MOST_RESOLVERS] if others else ()


def check_forwards(forwards: tuple[Forward, ...]) -> tuple[Forward, ...]:
    """Refuse two forwards to one port of the guest: one of them is a slip.

    Raises:
        ValueError: there are two. (Two that listen at one place are found by qup itself.)
    """
    seen = set()
    for forward in forwards:
        end = (forward.protocol, forward.guest)
        if end in seen:
            text = f"{forward.guest}/{forward.protocol}"
            raise ValueError(f"the guest's port {text} is forwarded to twice")
        seen.add(end)
    return forwards


@cache
def _options() -> type[Settings]:
    # pydantic takes 50 ms: it is loaded where a Qupfile is validated, not with this plugin.
    from typing import Annotated

    from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

    from qup.api import Settings

    schema = {"type": "string", "examples": ["8080:80", "127.0.0.1:5353:53/udp", "0:8000"]}
    rule = Annotated[
        Forward,
        PlainValidator(parse_forward),
        PlainSerializer(asdict),  # pydantic's own warns of what it has just made of it
        WithJsonSchema(schema),
    ]
    rules = Annotated[tuple[rule, ...], Field(strict=False), AfterValidator(check_forwards)]
    port_range = Annotated[
        PortRange | None,
        PlainValidator(_read_ports),
        PlainSerializer(lambda ports: ports and str(ports)),
        WithJsonSchema({"type": "string", "pattern": "^[0-9]+-[0-9]+$"}),
    ]

    class UserOptions(Settings):
        """``[machine.network]`` with ``mode = "user"``"""

        forward: rules = Field(
            default=(),
            description="Host ports that lead to the guest: [address:]host:guest[/udp].",
        )
        ports: port_range = Field(
            default=None,
            description='Host ports "first-last" to pick from: for ssh, and for forwards with host'
            " port 0.",
        )
        isolate: bool = Field(
            default=False,
            description="Keep the guest from reaching anything: the host, the network, the world.",
        )

    return UserOptions


def _read_ports(text: object) -> PortRange | None:
    """A range; docker-machine's word for every port is none."""
    return None if text in (None, "0-65535") else parse_port_range(text)


def _problem(forward: Forward) -> Problem | None:
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((forward.address, forward.host))
        except OSError as exc:
            return _explain(forward, exc)
    return None


def _explain(forward: Forward, exc: OSError) -> Problem | None:
    match exc.errno:
        case errno.EACCES | errno.EPERM:
            return Problem(
                f"forward {forward}: the host's ports below 1024 are for root",
                f"take a higher one, such as {forward.host + 8000}",
            )
        case errno.EADDRNOTAVAIL:
            return Problem(
                f"forward {forward}: {forward.address} is not an address of this computer",
                "'ip address' lists its addresses",
            )
        case _:
            return None
