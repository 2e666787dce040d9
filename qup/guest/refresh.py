"""The program that gives a restored guest the time and fresh randomness; see ``refresh.S``."""

from __future__ import annotations

import base64
import os
import struct

BASE = 0x400000
HEADERS = 0x78
CODE = base64.b64decode(
    "SIHsABAAADHbuAAAAAAx/0iNNBy6SAAAACnaDwVIhcAPjuQAAAABw4P7SHzcSIM8JAAPhIsAAAC44wAAAL8AAAAA"
    "SInmDwVIhcAPhboAAAC4AgAAAEiNPboAAAC+AQAAAA8FSIXAD4ieAAAAicO4EAAAAInfvgNSCEBIjVQkEA8FSIXA"
    "D4WAAAAAuBAAAACJ374HUgAADwVIhcB1bbgDAAAAid8PBbgBAAAAvwEAAABIjTVsAAAAugEAAAAPBelE////SItc"
    "JAhIhdt0ObgAAAAAMf9Iiea6ABAAAEg500gPQtMPBUiFwH4gSCnDSInCuAEAAAC/AwAAAEiJ5g8FSDnQdQbrwjH/"
    "6wW/AQAAALg8AAAADwUvZGV2L3VyYW5kb20APQ=="
)
"""The assembled ``refresh.S``; a test assembles it again and compares."""

ENTROPY = 48
ANSWER = b"="


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


def make_last_block(size: int) -> bytes:
    """What makes the program copy that many bytes, which follow, and end."""
    return struct.pack("<qq", 0, size) + bytes(8 + ENTROPY)
