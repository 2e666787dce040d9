"""The network mode ``private``: machines of one project on a network of their own.

The network is a multicast group on the host's loopback interface (QEMU's ``-netdev
socket,mcast=``): every QEMU that is in the group is on the wire, nothing has to be set up, and
nothing is left when the last one ends. It leads nowhere else, and nobody on it gives out
addresses: each machine has a fixed one, by default made of its name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from qup.api import (
    AddressPlan,
    Host,
    NetworkMode,
    NicPlan,
    NicRequest,
    Problem,
    hookimpl,
)

if TYPE_CHECKING:
    from qup.api import Settings

DEFAULT_NAME = "default"
_LABEL = re.compile("[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
LOOPBACK = "127.0.0.1"

_PROBE = "239.192.0.0"
"""A group that no network has; see :func:`group_of`."""

_FIRST_SUBNET, _SUBNETS = 128, 127
"""The default networks are 10.128.0.0/16 to 10.254.0.0/16, one for each name."""
_HOSTS = 254
_FIRST_PORT, _PORTS = 16384, 16384
"""UDP ports below those that Linux gives out by itself (32768 and up)."""


class PrivateNetwork:
    """A multicast group on loopback."""

    name = "private"
    summary = "a network that only machines of this project are on; no privileges needed"

    @property
    def options(self) -> type[Settings]:
        return _options()

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:  # noqa: ARG002  sockets tell
        """Look whether QEMU will be able to join a group on loopback."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            membership = socket.inet_aton(_PROBE) + socket.inet_aton(LOOPBACK)
            try:
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            except OSError as exc:
                return [
                    Problem(
                        f"a private network needs multicast on {LOOPBACK}: {exc.strerror}",
                        "as root: ip link set lo up",
                    )
                ]
        return ()

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        address = options.address or default_address(options.name, nic.machine)
        netdev = {
            "type": "socket",
            "mcast": group_of(nic.project, options.name),
            "localaddr": LOOPBACK,
        }
        return NicPlan(
            netdev,
            guest_address=address.partition("/")[0],
            address=AddressPlan(dhcp=False, addresses=(address,)),
            reachable=False,
            segment=f"private/{options.name}",
        )


@hookimpl
def qup_network_modes() -> Iterable[NetworkMode]:
    return [PrivateNetwork()]


def default_subnet(network: str) -> ipaddress.IPv4Network:
    """The network that a name stands for: 10.128.0.0/16 for ``default``."""
    number = 0 if network == DEFAULT_NAME else 1 + _number(network) % (_SUBNETS - 1)
    return ipaddress.IPv4Network(f"10.{_FIRST_SUBNET + number}.0.0/16")


def default_address(network: str, machine: str) -> str:
    """A machine's address on a network, with its prefix: always the same for the same names."""
    subnet = default_subnet(network)
    third, fourth = divmod(_number(machine) % (256 * _HOSTS), _HOSTS)
    return f"{subnet.network_address + third * 256 + fourth + 1}/{subnet.prefixlen}"


def group_of(project: str, network: str) -> str:
    """The multicast group and port of a project's network.

    The group is one of 239.192.0.0/14, which organizations may use as they like (RFC 2365).
    """
    number = _number(f"{project}/{network}")
    number, port = divmod(number, _PORTS)
    group = ipaddress.IPv4Address("239.192.0.0") + 1 + number % (2**18 - 2)
    return f"{group}:{_FIRST_PORT + port}"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def check_name(text: str) -> str:
    """Take the name of a network.

    Raises:
        ValueError: it is none.
    """
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not a network's name: up to 32 lower case letters, digits, hyphens"
        )
    return text


def read_address(text: str, network: str) -> str:
    """An address for a machine, with its prefix.

    Args:
        text: ``address/prefix``, or an address of the network's default subnet.
        network: the network's name.

    Raises:
        ValueError: no machine can have it; the message says why.
    """
    subnet = default_subnet(network)
    try:
        address = ipaddress.IPv4Address(text.partition("/")[0])
        interface = ipaddress.IPv4Interface(text if "/" in text else f"{text}/{subnet.prefixlen}")
    except ValueError:
        example = default_address(network, "x")
        raise ValueError(
            f'{text!r} is not an IPv4 address with a prefix, such as "{example}"'
        ) from None
    if "/" not in text and address not in subnet:
        raise ValueError(
            f"{text!r} has no prefix and is not in {subnet}, this network's own;"
            f' write "{text}/24", for instance'
        )
    return _check_interface(text, interface)


def _check_interface(text: str, interface: ipaddress.IPv4Interface) -> str:
    network = interface.network
    if network.prefixlen > 30:
        raise ValueError(f"{text!r}: a network of /{network.prefixlen} has no room for two")
    if interface.ip in (network.network_address, network.broadcast_address):
        raise ValueError(f"{text!r} is the network's own or its broadcast address")
    ip = interface.ip
    if ip.is_multicast or ip.is_loopback or ip.is_unspecified or ip.is_link_local:
        raise ValueError(f"{text!r} is not an address that a machine can have")
    return str(interface)


@cache
def _options() -> type[Settings]:
    from typing import Annotated

    from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema

    from qup.api import Settings

    pattern = {"type": "string", "pattern": f"^{_LABEL.pattern}$"}
    label = Annotated[str, AfterValidator(check_name), WithJsonSchema(pattern)]
    schema = {"type": "string", "pattern": r"^[0-9.]+(/[0-9]+)?$", "examples": ["10.128.0.10/16"]}

    def check(text: str, info: ValidationInfo) -> str:
        return read_address(text, info.data.get("name", DEFAULT_NAME))

    cidr = Annotated[str, AfterValidator(check), WithJsonSchema(schema)]

    class PrivateOptions(Settings):
        """A NIC with ``mode = "private"``"""

        name: label = Field(
            default=DEFAULT_NAME,
            description="Which of the project's private networks; each is for itself.",
        )
        address: cidr | None = Field(
            default=None,
            description="The machine's address with its prefix. Default: made of the names.",
        )

    return PrivateOptions
