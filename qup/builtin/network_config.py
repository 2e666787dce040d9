"""The seed's ``network-config``: what the guest is told about its network cards.

Format: cloud-init's documentation, "Networking config Version 2", which is netplan's. Cards are
found by MAC and keep the names that the guest gives them, which are in the plan's order: with
``set-name`` and name servers together, cloud-init 22.4 (Debian 12) ends with a KeyError.
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
        lines += _card(f"eth{index}", nic, metric)
    return "\n".join(lines) + "\n"


def _card(name: str, nic: NicSeed, metric: int | None) -> Iterator[str]:
    address = nic.address
    yield f"  {name}:"
    yield "    match:"
    yield f'      macaddress: "{nic.mac}"'
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
