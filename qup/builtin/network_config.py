"""The seed's ``network-config``: what the guest is told about its network cards.

Format: cloud-init's documentation, "Networking config Version 2", which is netplan's. Cards are
found by MAC; several are named eth0, eth1 ... in the order in which the plan has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qup.api import AddressPlan, NicSeed

METRIC = 100
"""Of the first card's default route; a card behind it has a higher one, which ranks lower."""


def render_network_config(nics: Sequence[NicSeed]) -> str | None:
    """The document, or None where it would say no more than every guest does by itself."""
    if len(nics) < 2 and all(nic.address == AddressPlan() for nic in nics):
        return None
    several = sum(nic.address.dhcp for nic in nics) > 1
    lines = ["version: 2", "ethernets:"]
    for index, nic in enumerate(nics):
        metric = METRIC * (index + 1) if several else None
        name = f"eth{index}" if len(nics) > 1 else None  # one keeps the name that it has
        lines += _card(name, nic, metric)
    return "\n".join(lines) + "\n"


def _card(name: str | None, nic: NicSeed, metric: int | None) -> Iterator[str]:
    address = nic.address
    yield f"  {name or 'eth0'}:"
    yield "    match:"
    yield f'      macaddress: "{nic.mac}"'
    if name is not None:
        yield f"    set-name: {name}"
    yield f"    dhcp4: {str(address.dhcp).lower()}"
    if address.dhcp and metric is not None:
        yield "    dhcp4-overrides:"
        yield f"      route-metric: {metric}"
    yield from _list("    ", "addresses", address.addresses)
    if address.gateway:
        yield "    routes:"
        yield f'      - to: "{"::/0" if ":" in address.gateway else "0.0.0.0/0"}"'
        yield f'        via: "{address.gateway}"'
    if address.nameservers or address.search:
        yield "    nameservers:"
        yield from _list("      ", "addresses", address.nameservers)
        yield from _list("      ", "search", address.search)


def _list(indent: str, key: str, values: Sequence[str]) -> Iterator[str]:
    if values:
        yield f"{indent}{key}:"
        yield from (f'{indent}  - "{value}"' for value in values)
