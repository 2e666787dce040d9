"""Which address a MAC has, by what this computer's DHCP servers and its kernel have written down.

Formats: dnsmasq's ``src/lease.c``; libvirt's ``src/network/leaseshelper.c``;
``dhcpd.leases(5)``; Kea's "memfile" (Administrator Reference Manual); systemd's
``sd-dhcp-server-lease.c``; ``/proc/net/arp`` in ``proc(5)``. What is damaged says nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from calendar import timegm
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

MAX_FILE = 4 << 20
"""Bytes of a file that are read."""


class Lease(NamedTuple):
    """One line of a server's book.

    Attributes:
        mac: in lower case, with colons.
        address: IPv4.
        ends: seconds since the epoch; None for never.
    """

    mac: str
    address: str
    ends: float | None = None


class Sighting(NamedTuple):
    """An address, and who says that it is the guest's."""

    address: str
    source: str


Reader = Callable[[str], Iterator[Lease]]


def read_dnsmasq(text: str) -> Iterator[Lease]:
    """``EXPIRY MAC ADDRESS NAME CLIENT-ID``, a line each; from ``duid`` on it is about IPv6."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["duid"]:
            return
        if len(words) >= 3 and words[0].isdecimal():
            yield Lease(words[1].lower(), words[2], float(words[0]) or None)


def read_libvirt(text: str) -> Iterator[Lease]:
    """A list of tables in JSON."""
    for entry in _load(text, list):
        if isinstance(entry, dict):
            ends = entry.get("expiry-time")
            mac, address = entry.get("mac-address"), entry.get("ip-address")
            yield Lease(str(mac).lower(), str(address), _number(ends) or None)


_DHCPD_BLOCK = re.compile(
    r"^lease (?P<address>[0-9.]+) \{(?P<body>.*?)^\}", re.DOTALL | re.MULTILINE
)
_DHCPD_MAC = re.compile(r"^\s*hardware ethernet ([0-9a-fA-F:]+);", re.MULTILINE)
_DHCPD_ENDS = re.compile(
    r"^\s*ends (?:epoch (\d+)|\d (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)|never)", re.MULTILINE
)
_DHCPD_STATE = re.compile(r"^\s*binding state (\w+);", re.MULTILINE)


def read_dhcpd(text: str) -> Iterator[Lease]:
    """Blocks ``lease ADDRESS { ... }``; the last one of an address is what counts. UTC."""
    newest = {match["address"]: match["body"] for match in _DHCPD_BLOCK.finditer(text)}
    for address, body in newest.items():
        mac, state = _DHCPD_MAC.search(body), _DHCPD_STATE.search(body)
        if mac is None or (state is not None and state[1] != "active"):
            continue
        ends: float | None = None
        if found := _DHCPD_ENDS.search(body):
            if found[1]:
                ends = float(found[1])
            elif found[2]:
                ends = timegm(time.strptime(found[2], "%Y/%m/%d %H:%M:%S"))
        yield Lease(mac[1].lower(), address, ends)


def read_kea(text: str) -> Iterator[Lease]:
    """CSV with ``address,hwaddr,client_id,valid_lifetime,expire,...,state``; the last counts."""
    newest: dict[str, Lease | None] = {}
    for line in text.splitlines()[1:]:
        cells = line.split(",")
        if len(cells) >= 5:
            in_use = len(cells) < 10 or cells[9] in ("", "0")
            lease = Lease(cells[1].lower(), cells[0], _number(cells[4]) or None)
            newest[cells[0]] = lease if in_use else None
    yield from (lease for lease in newest.values() if lease is not None)


def read_networkd(text: str) -> Iterator[Lease]:
    """systemd-networkd's server: JSON with addresses as lists of bytes."""
    leases = _load(text, dict).get("Leases")
    for entry in leases if isinstance(leases, list) else ():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            mac = bytes(entry["HardwareAddress"])[:6]
            address = ".".join(str(byte) for byte in bytes(entry["Address"]))
            ends = _number(entry.get("ExpirationRealtimeUSec")) / 1e6
            yield Lease(mac.hex(":"), address, ends or None)


def _load(text: str, kind: type[Any]) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(text)
        if isinstance(content, kind):
            return content
    return kind()


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0


BOOKS: Mapping[str, tuple[Reader, str]] = {
    "/var/lib/misc/dnsmasq*.leases": (read_dnsmasq, "dnsmasq"),
    "/var/lib/dnsmasq/*.leases": (read_dnsmasq, "dnsmasq"),
    "/run/dnsmasq/*.leases": (read_dnsmasq, "dnsmasq"),
    "/tmp/dhcp.leases": (read_dnsmasq, "dnsmasq"),
    "/var/lib/NetworkManager/dnsmasq-*.leases": (read_dnsmasq, "NetworkManager"),
    "/var/lib/libvirt/dnsmasq/*.leases": (read_dnsmasq, "libvirt"),
    "/var/lib/libvirt/dnsmasq/*.status": (read_libvirt, "libvirt"),
    "/var/lib/lxd/networks/*/dnsmasq.leases": (read_dnsmasq, "LXD"),
    "/var/lib/incus/networks/*/dnsmasq.leases": (read_dnsmasq, "Incus"),
    "/var/lib/dhcp/dhcpd.leases": (read_dhcpd, "ISC dhcpd"),
    "/var/lib/dhcpd/dhcpd.leases": (read_dhcpd, "ISC dhcpd"),
    "/var/lib/kea/kea-leases4.csv": (read_kea, "Kea"),
    "/var/lib/systemd/network/dhcp-server-lease/*": (read_networkd, "systemd-networkd"),
}
"""Where which server writes its leases: a pattern of paths, who reads it, the server's name."""


def find_books(root: Path = Path("/")) -> Iterator[tuple[Path, Reader, str]]:
    """The files of leases that this computer has and this user may see."""
    for pattern, (reader, server) in BOOKS.items():
        with contextlib.suppress(OSError):
            for path in sorted(root.glob(pattern.lstrip("/"))):
                yield path, reader, server


@dataclass
class Books:
    """The files of leases of this computer; each is read again only when it has changed.

    Attributes:
        root: where they are looked for.
    """

    root: Path = Path("/")
    _known: dict[Path, tuple[tuple[int, int], list[Lease]]] = field(default_factory=dict)

    def find(self, mac: str, now: float) -> Iterator[Sighting]:
        """The addresses that a MAC has leased.

        Args:
            mac: in lower case.
            now: seconds since the epoch; leases that ended before are none.
        """
        for path, reader, server in find_books(self.root):
            for lease in self._read(path, reader):
                if lease.mac == mac and (lease.ends is None or lease.ends > now):
                    yield Sighting(lease.address, f"DHCP lease of {server}, {path}")

    def _read(self, path: Path, reader: Reader) -> list[Lease]:
        try:
            info = path.stat()
            stamp = (info.st_mtime_ns, info.st_size)
            if path not in self._known or self._known[path][0] != stamp:
                with path.open(encoding="utf-8", errors="replace") as file:
                    self._known[path] = stamp, list(reader(file.read(MAX_FILE)))
        except (OSError, ValueError, OverflowError):
            return []
        return self._known[path][1]


ARP = Path("/proc/net/arp")
ARP_COMPLETE = 0x2


def read_neighbours(text: str) -> Iterator[Lease]:
    """The kernel's neighbour table, as ``/proc/net/arp`` has it; only what is complete."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) >= 6 and int(words[2], 16) & ARP_COMPLETE:
            yield Lease(words[3].lower(), words[0])


def neighbours(table: Path = ARP) -> list[Lease]:
    """Who the kernel knows by address at this moment."""
    try:
        return list(read_neighbours(table.read_text()))
    except (OSError, ValueError):
        return []
