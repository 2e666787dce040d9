"""What the network modes ``tap`` and ``bridge`` share: words of their options, and checks."""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qup.api import AddressPlan, Host, NicPlan, NicRequest, Problem, Tap, is_own_address

TUN = Path("/dev/net/tun")
ROUTES = Path("/proc/net/route")
"""Numbers in it are hexadecimal, in the computer's order of bytes (``net/ipv4/fib_trie.c``)."""

INTERFACE = re.compile(r"(?!(?:all|default)\Z)[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
"""A name of a network interface: the kernel takes up to 15 bytes (``IFNAMSIZ``). It would take
stranger ones, but not every tool does; ``all`` and ``default`` mean something else in sysctl
and in QEMU's ``bridge.conf``."""


def check_interface(text: str) -> str:
    """Take the name of an interface.

    Raises:
        ValueError: it is none.
    """
    if not INTERFACE.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not an interface's name: up to 15 letters, digits, '_', '.', '-',"
            " and neither 'all' nor 'default'"
        )
    return text


def check_guest_address(text: str) -> str:
    """Take an IPv4 address that a guest can have, alone or with its prefix length.

    Raises:
        ValueError: it is none.
    """
    if "/" in text:
        return check_host_address(text)
    try:
        ip = ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not an IPv4 address, such as 192.168.7.2") from None
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        raise ValueError(f"{text} is not an address that a computer can have")
    return str(ip)


def check_gateway(text: str, values: Mapping[str, Any]) -> str:
    """Take the address of a gateway, for a guest that is told its own address.

    Raises:
        ValueError: it is none, or the guest isn't told.
    """
    if "/" in text:
        raise ValueError(f"{text[:60]!r} is not an IPv4 address, such as 192.168.7.1")
    if "/" not in str(values.get("address") or ""):
        raise ValueError(
            "a guest that gets its address by DHCP gets its gateway, too; to tell it both, write"
            ' its address with the prefix length: address = "192.168.7.2/24"'
        )
    return check_guest_address(text)


def check_host_address(text: str) -> str:
    """Take an IPv4 address of a computer with its prefix length.

    Raises:
        ValueError: it is none.
    """
    wanted = "an IPv4 address with its prefix length, such as 192.168.7.1/24"
    if "/" not in text:
        raise ValueError(f"{text[:60]!r} is not {wanted}")
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not {wanted}") from None
    check_guest_address(str(interface.ip))
    network = interface.network
    if network.prefixlen < 31 and interface.ip in (
        network.network_address,
        network.broadcast_address,
    ):
        raise ValueError(f"{text} is the address of a whole network, not of a computer in it")
    return str(interface)


def check_own_address(text: str) -> str:
    """Take an address for this computer, with its prefix length: one of a private network.

    Raises:
        ValueError: it is none. On an address of the world's, packets for others would go to the
            guest from then on.
    """
    interface = ipaddress.IPv4Interface(check_host_address(text))
    shared = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598
    if not (interface.network.is_private or interface.network.subnet_of(shared)):
        raise ValueError(
            f"{text} is not in a private network: those are in 10.0.0.0/8, 172.16.0.0/12 and"
            " 192.168.0.0/16"
        )
    return str(interface)


_OCTETS = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
INTERFACE_SCHEMA = {
    "type": "string",
    "pattern": "^(?!(?:all|default)$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$",
}
GUEST_SCHEMA = {"type": "string", "pattern": f"^{_OCTETS}(/[0-9]{{1,2}})?$"}
GATEWAY_SCHEMA = {"type": "string", "pattern": f"^{_OCTETS}$"}
HOST_SCHEMA = {"type": "string", "pattern": f"^{_OCTETS}/[0-9]{{1,2}}$"}
"""The words of the options, for JSON Schema; what is wrong with a word is said by its check."""


def plan_tap(tap: Tap, options: Any, nic: NicRequest) -> NicPlan:
    """The plan of a NIC with a tap. An address with its prefix length is told to the guest;
    one without is the business of whoever gives it to the guest, such as a DHCP server.
    """
    ssh_address = options.address.partition("/")[0] if options.address else None
    address = AddressPlan()
    if "/" in (options.address or ""):
        own = [item for item in nic.resolvers if ":" not in item and not item.startswith("127.")]
        nameservers = tuple(own) if options.gateway else ()
        address = AddressPlan(
            dhcp=False,
            addresses=(options.address,),
            gateway=options.gateway,
            nameservers=nameservers,
        )
    return NicPlan(
        {"type": "tap"},
        ssh_address=ssh_address,
        guest_address=ssh_address,
        tap=tap,
        discover=ssh_address is None,
        address=address,
    )


def find_common_problems(host: Host, address: str | None) -> Iterator[Problem]:
    """What stands in the way of every tap: the system, the device, a guest's address that is
    this computer's.
    """
    if host.system != "linux":
        yield Problem("taps are Linux's; here is none", 'use network.mode = "user"')
        return
    if address is not None and is_own_address(address.partition("/")[0]):
        yield Problem(
            f"network.address = {address} is this computer's own: ssh would lead back to it",
            "it is the guest's address that belongs there",
        )


def find_device_problems() -> Iterator[Problem]:
    """Whether this user can open the device of taps."""
    if not TUN.exists():
        yield Problem(f"there is no {TUN}", "'sudo modprobe tun' loads the driver")
    elif not os.access(TUN, os.R_OK | os.W_OK):
        yield Problem(f"you may not open {TUN}", f"'sudo chmod 666 {TUN}', which most systems have")


def user_name() -> str:
    """This user's name, or number."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def find_route(network: ipaddress.IPv4Network, ignore: str) -> str | None:
    """The interface behind which some of a network is already, if there is one.

    Args:
        network: the network.
        ignore: an interface that doesn't count.
    """
    with suppress(OSError):
        for line in ROUTES.read_text(encoding="utf-8").splitlines()[1:]:
            words = line.split()
            with suppress(ValueError, IndexError):
                base, mask = (int(words[at], 16).to_bytes(4, sys.byteorder) for at in (1, 7))
                known = ipaddress.IPv4Network((base, str(ipaddress.IPv4Address(mask))), False)
                if words[0] != ignore and known.prefixlen and known.overlaps(network):
                    return f"{words[0]} ({known})"
    return None


def make_command(*commands: str) -> str:
    """Commands for root, as one line to paste."""
    return "; ".join(f"sudo {command}" for command in commands)
