"""Machines on networks that they share: where each is, and what two of them can't both have."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

from qup.model.config import MachineConfig
from qup.model.network import NicPlan, NicRequest, Seat
from qup.qupfile.layers import Stack
from qup.qupfile.problems import Collector
from qup.toml_positions import KeyPath

if TYPE_CHECKING:
    from qup.api import NetworkMode

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Registry(Protocol):
    """What plugins brought, as far as it is needed here."""

    @property
    def network_modes(self) -> Mapping[str, NetworkMode]:
        """Values of ``network.mode``."""


@dataclass(frozen=True)
class Card:
    """A NIC as its mode plans it, as far as that is known before anything is started."""

    path: KeyPath
    plan: NicPlan

    @property
    def interfaces(self) -> list[Interface]:
        """Its fixed addresses with their networks."""
        return [ipaddress.ip_interface(text) for text in self.plan.address.addresses]

    @property
    def title(self) -> str:
        """What the Qupfile calls it."""
        return "[machine.network]" if self.path == ("network",) else "another card"


def plan_nics(
    machines: Mapping[str, MachineConfig], registry: Registry
) -> dict[str, tuple[Card, ...]]:
    """Ask each NIC's mode, which is pure, where the NIC will be."""
    return {name: tuple(_plan(machine, registry)) for name, machine in machines.items()}


def _plan(machine: MachineConfig, registry: Registry) -> Iterator[Card]:
    for index, use in enumerate(machine.nics):
        request = NicRequest(machine.name, machine.hostname, index, mac="")
        path: KeyPath = ("networks", index - 1) if index else ("network",)
        yield Card(path, registry.network_modes[use.mode].plan(use.options, request))


def find_seats(
    machines: Mapping[str, MachineConfig], nics: Mapping[str, Sequence[Card]]
) -> tuple[Seat, ...]:
    """Where each machine is on the networks that machines share."""
    return tuple(
        Seat(name, machines[name].hostname, card.plan.segment, address)
        for name, cards in nics.items()
        for card in cards
        if card.plan.segment is not None
        for address in card.plan.address.addresses
    )


def check_addresses(
    nics: Mapping[str, Sequence[Card]], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """On a network that machines share each has an address of its own, in one subnet; and no
    two NICs of one machine are in the same network.
    """
    for name, cards in nics.items():
        for one, other in combinations(cards, 2):
            if overlap := _find_overlap(one, other):
                message = f"this card and {one.title} would both be in the network {overlap}"
                hint = "a guest uses only one of two cards in one network: give it another address"
                _refuse(stacks[name], other, "address", message, hint, problems)
    taken: dict[str, list[tuple[str, Interface]]] = {}
    for name, cards in nics.items():
        for card in cards:
            neighbours = taken.setdefault(card.plan.segment or "", [])
            others = [item for item in neighbours if item[0] != name]  # itself: see above
            for interface in card.interfaces if card.plan.segment else ():
                if trouble := _find_trouble(card, interface, others):
                    _refuse(stacks[name], card, "address", *trouble, problems)
                else:
                    neighbours.append((name, interface))


def _find_overlap(one: Card, other: Card) -> str | None:
    """The network that two NICs of a machine would both be in."""
    for mine in one.interfaces:
        for its in other.interfaces:
            if mine.network.version == its.network.version and mine.network.overlaps(its.network):
                return str(mine.network)
    for fixed, moving in ((one, other), (other, one)):
        if moving.plan.guest_address and not moving.interfaces:
            address = ipaddress.ip_address(moving.plan.guest_address)
            for interface in fixed.interfaces:
                if address in interface.network:
                    return str(interface.network)
    return None


def _find_trouble(
    card: Card, interface: Interface, neighbours: Sequence[tuple[str, Interface]]
) -> tuple[str, str] | None:
    """What keeps an address from a network where others are already, and what to do."""
    network = (card.plan.segment or "").rpartition("/")[2]
    for name, theirs in neighbours:
        if interface.ip == theirs.ip:
            free = _find_free(interface, [other for _, other in neighbours])
            hint = f'give one of the two an address that is free, such as address = "{free}"'
            return f"{interface.ip} on the network {network!r} is machine {name!r}'s already", hint
    for name, theirs in neighbours:
        if interface.network != theirs.network:
            place = f"{theirs.network}, where machine {name!r} is on the network {network!r}"
            hint = "on one network all addresses have the same subnet; give each machine one of it"
            return f"{interface} is not in {place}", hint
    return None


def _find_free(wanted: Interface, taken: Sequence[Interface]) -> str:
    """An address of the same network that nobody has."""
    used = {interface.ip for interface in taken}
    free = next((address for address in wanted.network.hosts() if address not in used), wanted.ip)
    return f"{free}/{wanted.network.prefixlen}"


def check_taps(
    nics: Mapping[str, Sequence[Card]], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """A tap leads to one NIC. Those that are made for a bridge get names of their own."""
    taken: dict[str, str] = {}
    for name, cards in nics.items():
        for card in cards:
            tap = card.plan.tap
            if tap is None or tap.helper:
                continue
            if owner := taken.get(tap.interface):
                message = f"the tap {tap.interface} is machine {owner!r}'s already"
                hint = "one card is at the end of a tap: name another interface for this one"
                _refuse(stacks[name], card, "interface", message, hint, problems)
            taken.setdefault(tap.interface, name)


def _refuse(
    stack: Stack, card: Card, key: str, message: str, hint: str, problems: Collector
) -> None:
    path = (*card.path, key)
    layer = stack.find(path)
    known = path[: layer.reaches(path)] if layer else path
    problems.add(stack.problem(known, message, hint=hint))
