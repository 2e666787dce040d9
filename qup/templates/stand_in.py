"""What a golden machine's network cards are connected to, and the addresses that it has there.

It is nobody, so it must not be on the networks of those that are made from it: a card that is on
a private network, a tap or a bridge gets a user network of its own in its place, or a cable that
leads nowhere. Fixed addresses are replaced by others of the same network, which a restored guest
then replaces by its own. Pure: no I/O.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from qup.model.network import NOWHERE, AddressPlan, NicPlan

USER = "user"
STATELESS = ("socket", "tap", "stream", "dgram", "vde", "l2tpv3")
"""Network devices of QEMU's that keep nothing about the guest: one can take another's place
between saving and restoring."""
MOST_PREFIX = 31
"""The longest prefix of a network with room for a guest and somebody who talks to it."""
ROOMY = 29
"""The longest prefix with room for a guest, a gateway, a name server and a lease."""
_SUBNET = 128
"""User networks in place of others are 10.0.128.0/24 and up, beside those of the modes."""


def find_obstacle(nic: NicPlan) -> str | None:
    """Why a card can't be another one's after a restore, in a few words; or None."""
    kind = nic.netdev.get("type")
    if kind == USER:
        return None if nic.guest_address else "a user network without a known address"
    if kind not in STATELESS:
        return f"QEMU's network device {kind!r}, which may know more about the guest"
    if nic.reachable and nic.address.addresses:
        network = ipaddress.ip_interface(nic.address.addresses[0]).network
        if network.version != 4 or network.prefixlen > MOST_PREFIX:
            return f"a network as small as {network}"
    return None


def hide_addresses(address: AddressPlan, taken: set[str]) -> AddressPlan:
    """The same with other fixed addresses of the same networks.

    Args:
        address: what a guest is told about a card.
        taken: addresses that are in use for something else; those that are chosen are added.
    """
    taken |= {*address.nameservers, *filter(None, (address.gateway,))}
    chosen = []
    for text in address.addresses:
        network = ipaddress.ip_interface(text).network
        own = text.partition("/")[0]  # nobody is disturbed by it, where there is no other
        free = next((item for item in _from_the_end(network) if item not in taken), own)
        taken.add(free)
        chosen.append(f"{free}/{network.prefixlen}")
    return replace(address, addresses=tuple(chosen))


def _from_the_end(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Iterator[str]:
    last = network.num_addresses - (1 if network.prefixlen >= network.max_prefixlen - 1 else 2)
    return (str(network[index]) for index in range(last, -1, -1))


def make_stand_in(nic: NicPlan, index: int) -> NicPlan:
    """What takes a card's place in a golden machine.

    Args:
        nic: what the machine is connected to, with the addresses that the golden one has.
        index: which card it is.
    """
    if nic.netdev.get("type") == USER:
        # Any port will do: one of a range may be the last, and a machine's.
        return replace(nic, forwards=(), ports=None, actions=())
    plain = replace(nic, ssh_address=None, tap=None, actions=(), segment=None)
    if not nic.reachable:
        return replace(plain, netdev={"type": NOWHERE})
    if nic.address.addresses:
        guest = nic.address.addresses[0]
        netdev = _make_network(ipaddress.IPv4Interface(guest), nic.address.gateway)
        return replace(plain, netdev=netdev, guest_address=guest.partition("/")[0])
    subnet = f"10.0.{_SUBNET + index}"
    netdev = {"type": USER, "ipv6": "off", "net": f"{subnet}.0/24"}
    return replace(plain, netdev=netdev, guest_address=f"{subnet}.15")


def _make_network(guest: ipaddress.IPv4Interface, gateway: str | None) -> dict[str, str]:
    """A user network in which a guest has a fixed address.

    It may be larger than what the guest knows of it: whoever connects has to be where the guest
    thinks that neighbours are; the name server and a lease that nobody takes can be elsewhere.
    """
    near = guest.network
    inside = gateway is not None and ipaddress.IPv4Address(gateway) in near
    host = gateway if gateway and inside else _choose(near, str(guest.ip))
    network = near
    while network.prefixlen > ROOMY or _edges(network) & {str(guest.ip), host}:
        network = network.supernet()
    dns = _choose(network, str(guest.ip), host)
    return {
        "type": USER,
        "ipv6": "off",
        "net": str(network),
        "host": host,
        "dns": dns,
        "dhcpstart": _choose(network, str(guest.ip), host, dns),
    }


def _edges(network: ipaddress.IPv4Network) -> set[str]:
    """The addresses in a network that no host can have."""
    return {str(network.network_address), str(network.broadcast_address)}


def _choose(network: ipaddress.IPv4Network, *taken: str) -> str:
    """The first address for a host that is free."""
    return next(str(item) for item in network.hosts() if str(item) not in taken)
