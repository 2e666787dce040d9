"""Where a guest with an address of its own is: looked for while it boots.

It is asked of the guest's agent, of this computer's DHCP servers, and of the kernel's neighbour
table, in this order. What they say are hints: whoever answers there must have the machine's
host key. An address of this computer itself is never taken for the guest's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from qup.guest.leases import Books, Sighting, find_books, neighbours
from qup.interfaces import is_own_address
from qup.model.network import SSH_PORT

SPACING = 0.2
"""Seconds between two looks at the sources."""
ASK_AGAIN = 3.0
"""Seconds after which an agent that hasn't answered is asked anew: it may just have started."""
MAX_PLACES = 6
MAX_ANSWER = 256 * 1024
"""Bytes of an agent's answer: it is the guest's word, and may be anything."""

GIVEN = "network.address"
AGENT = "guest agent"
NEIGHBOURS = "neighbour table"


class Place(NamedTuple):
    """Where sshd may be, and who says so; None for a forward of qup's own."""

    address: str
    port: int
    source: str | None = None


class Whereabouts(Protocol):
    """What knows, or finds out, where sshd may be."""

    @property
    def mac(self) -> str:
        """The guest's, in lower case; empty where nobody else can have the place."""

    def look(self, now: float) -> Sequence[Place]:
        """The places known by now; ``now`` is :func:`time.monotonic`'s."""

    def describe(self) -> str:
        """Why there is no place, for a guest that wasn't found in time."""


@dataclass(frozen=True)
class Fixed:
    """One place, known beforehand."""

    place: Place
    mac: str = ""

    def look(self, now: float) -> Sequence[Place]:  # noqa: ARG002  it doesn't change
        return (self.place,)

    def describe(self) -> str:
        return "its address is known"


@dataclass
class Finder:
    """Looks for the addresses of a MAC.

    Attributes:
        mac: the guest's, in lower case.
        agent: the socket of the guest agent's port.
        root: where the files of leases are looked for.
    """

    mac: str
    agent: Path
    root: Path = Path("/")
    _places: dict[str, Place] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)
    _next: float = 0.0
    _asked: _Agent | None = None
    _books: Books | None = None

    def look(self, now: float) -> Sequence[Place]:
        if now >= self._next:
            self._next = now + SPACING
            fresh: dict[str, str] = {}
            for address, source in self._ask(now):
                fresh.setdefault(address, source)  # the first to say so counts
            for address, source in fresh.items():
                self._take(address, source)
        return tuple(self._places.values())

    def _ask(self, now: float) -> Iterator[Sighting]:
        if self._asked is None:
            self._asked = _Agent(self.agent, self.mac)
        yield from (Sighting(address, AGENT) for address in self._asked.ask(now))
        if self._books is None:
            self._books = Books(self.root)
        yield from self._books.find(self.mac, time.time())
        for entry in neighbours():
            if entry.mac == self.mac:
                yield Sighting(entry.address, NEIGHBOURS)

    def _take(self, address: str, source: str) -> None:
        if address in self._refused:
            return
        if address not in self._places and (reason := _object_to(address)):
            self._refused[address] = reason
        elif address in self._places or len(self._places) < MAX_PLACES:
            self._places[address] = Place(address, SSH_PORT, source)

    def refuse(self, place: Place, reason: str) -> None:
        """Don't offer a place again: whoever is there is somebody else."""
        self._refused[place.address] = reason
        self._places.pop(place.address, None)

    def close(self) -> None:
        """Leave the agent to others."""
        if self._asked is not None:
            self._asked.close()

    def describe(self) -> str:
        if self._refused:
            known = ", ".join(f"{address} ({why})" for address, why in self._refused.items())
            return f"no address of the guest was found but {known}"
        books = ", ".join(str(path) for path, _, _ in find_books(self.root)) or "no file"
        return (
            f"no address of the guest was found: no DHCP lease for {self.mac} ({books} of this"
            " computer's), no answer from a guest agent, and no neighbour with that MAC; if you"
            " know it, write it as network.address"
        )


def _object_to(address: str) -> str | None:
    """Why an address can't be the guest's, whoever says that it is."""
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        return "not an IPv4 address"
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return "no address that a guest can have"
    return "this computer's own address" if is_own_address(address) else None


def doubt(place: Place, mac: str) -> str | None:
    """What speaks against a place: another computer has its address, as far as is known."""
    impostor = find_impostor(place.address, mac) if place.source and mac else None
    if impostor is None:
        return None
    return f"{place.address} seems to be taken: {impostor} has it, and the guest's card is {mac}"


def find_impostor(address: str, mac: str) -> str | None:
    """The MAC that answers for an address, if the kernel knows that it is another than ours."""
    known = [entry.mac for entry in neighbours() if entry.address == address]
    return known[0] if known and mac not in known else None


class _Agent:
    """A guest agent, asked without ever waiting for it.

    Its protocol is a JSON object a line (``qga/qapi-schema.json`` of QEMU); a byte 0xFF makes
    it forget what an earlier client left half said.
    """

    def __init__(self, path: Path, mac: str) -> None:
        self._path = path
        self._mac = mac
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._asked = float("-inf")
        self._addresses: list[str] = []

    def ask(self, now: float) -> list[str]:
        """The guest's addresses, as far as the agent has told them."""
        try:
            self._exchange(now)
        except OSError:
            self.close()
        return self._addresses

    def _exchange(self, now: float) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.setblocking(False)
            self._socket.connect(str(self._path))
        if now - self._asked >= ASK_AGAIN:
            question = json.dumps({"execute": "guest-network-get-interfaces"})
            with contextlib.suppress(BlockingIOError):
                self._socket.send(b"\xff" + question.encode() + b"\n")
            self._asked = now
        with contextlib.suppress(BlockingIOError):
            while data := self._socket.recv(65536):
                self._buffer = (self._buffer + data)[-MAX_ANSWER:]
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if found := read_agent(line, self._mac):
                self._addresses = found

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer = b""
        self._asked = float("-inf")


def read_agent(line: bytes, mac: str) -> list[str]:
    """The IPv4 addresses that an answer to ``guest-network-get-interfaces`` has for a MAC."""
    try:
        answer = json.loads(line.strip(b"\xff \r"))
    except (ValueError, RecursionError):
        return []
    interfaces = answer.get("return") if isinstance(answer, dict) else None
    found: list[str] = []
    for interface in interfaces if isinstance(interfaces, list) else ():
        with contextlib.suppress(AttributeError, TypeError):
            if str(interface.get("hardware-address")).lower() == mac:
                found += [
                    str(item.get("ip-address"))
                    for item in interface.get("ip-addresses", ())
                    if item.get("ip-address-type") == "ipv4"
                ]
    return found
