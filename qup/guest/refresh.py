"""The program that gives a restored guest the time and fresh randomness; see ``refresh.S``."""

from __future__ import annotations

import base64
import os
import struct

BASE = 0x400000
HEADERS = 0x78
CODE = base64.b64decode(
    "TIskJEiB7AAQAAAx27gAAAAAMf9IjTQcukgAAAAp2g8FSIXAD450AQAAAcOD+0h83EiDPCQAD4QbAQAAD4ySAAAAuOMA"
    "AAC/AAAAAEiJ5g8FSIXAD4VEAQAAuAIAAABIjT1EAQAAvgEAAAAPBUiFwA+IKAEAAInDuBAAAACJ374DUghASI1UJBAP"
    "BUiFwA+FCgEAALgQAAAAid++B1IAAA8FSIXAD4XzAAAATI0tBQEAALgDAAAAid8PBbgBAAAAvwEAAABMie66AQAAAA8F"
    "6Tf///9MjS3dAAAAuCkAAAC/AgAAAL4CAAAAMdIPBYnDSYP8Any8uBAAAACJ374niQAASI1UJBgPBUiFwHWki0QkCDtE"
    "JCp1mmaLRCQMZjtEJC51jotEJBCJRCQqZotEJBRmiUQkLrgQAAAAviSJAAAPBUiFwA+FZ////0yNLWUAAADpW////0iL"
    "XCQISIXbdDm4AAAAADH/SInmugAQAABIOdNID0LTDwVIhcB+IEgpw0iJwrgBAAAAvwMAAABIieYPBUg50HUG68Ix/+sF"
    "vwEAAAC4PAAAAA8FL2Rldi91cmFuZG9tAD0t"
)
"""The assembled ``refresh.S``; a test assembles it again and compares."""

ENTROPY = 48
ANSWER = b"="
ARPHRD_ETHER = 1


def make_program() -> bytes:
    """A static Linux program for x86-64 (``elf(5)``: one segment to read and execute)."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    size = HEADERS + len(CODE)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 4096)
    return header + segment + CODE


def make_block(now: float) -> bytes:
    """What makes the program set the clock and reseed.

    Args:
        now: seconds since the epoch.
    """
    seconds = int(now)
    nanoseconds = int((now - seconds) * 1e9)
    pool = struct.pack("<ii", ENTROPY * 8, ENTROPY) + os.urandom(ENTROPY)
    return struct.pack("<qq", seconds, nanoseconds) + pool


def make_card_block(name: str, old: str, new: str) -> bytes:
    """What makes the program give a network card another address, if it is willing to.

    Args:
        name: the card's, in the guest.
        old: the MAC address that it has to have.
        new: the one that it shall have.
    """
    mac = (bytes.fromhex(address.replace(":", "")) for address in (old, new))
    ifreq = struct.pack("<16sH22x", name.encode(), ARPHRD_ETHER)
    return struct.pack("<q6s2x6s2x", -1, *mac) + ifreq + bytes(8)


def make_last_block(size: int) -> bytes:
    """What makes the program copy that many bytes, which follow, and end."""
    return struct.pack("<qq", 0, size) + bytes(8 + ENTROPY)
