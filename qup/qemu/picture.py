"""What a machine's screen shows at the moment, as a PNG.

QEMU writes PPM into a descriptor that it is handed, so it opens no path of anybody's and its
sandbox needs no hole. The PNG is made here: QEMU can do that itself only since 7.1, and only
where it was built with libpng.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from qup.errors import MachineError
from qup.qemu.qmp import CommandFailed, Qmp

TIMEOUT = 15.0
"""Seconds for one picture; 0.01 is usual."""
MAX_PIXELS = 64 * 1024 * 1024
FDSET = 5900

_HEADER = re.compile(rb"P6\s(\d{1,5})\s(\d{1,5})\s255\s")


@dataclass(frozen=True)
class Picture:
    """Rows of pixels from top to bottom, three bytes each: red, green, blue."""

    width: int
    height: int
    pixels: bytes

    def to_png(self) -> bytes:
        """The picture as a file (PNG, third edition, W3C: sections 5 and 11)."""
        stride = self.width * 3
        rows = (self.pixels[at : at + stride] for at in range(0, len(self.pixels), stride))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        data = zlib.compress(b"".join(b"\0" + row for row in rows))
        chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    check = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)


def parse_ppm(data: bytes) -> Picture:
    """Read what QEMU's ``screendump`` writes: PPM, binary, of 8 bits (``ppm(5)``).

    Raises:
        ValueError: it is something else, or incomplete.
    """
    match = _HEADER.match(data)
    if match is None:
        raise ValueError("it is not a PPM of 8 bits")
    width, height = int(match[1]), int(match[2])
    pixels = data[match.end() :]
    if not 0 < width * height <= MAX_PIXELS or len(pixels) != width * height * 3:
        raise ValueError(f"{len(pixels)} bytes can't be {width}x{height} pixels")
    return Picture(width, height, pixels)


def grab_picture(monitor: Qmp, machine: str) -> Picture:
    """Have QEMU say what the machine's first screen shows.

    Raises:
        MachineError: the machine has no screen, or QEMU gave no picture.
    """
    with tempfile.TemporaryDirectory(prefix="qup-picture-") as folder:
        path = Path(folder, "picture.ppm")
        # For writing only: QEMU takes a descriptor of the set that was opened as it would open
        # a file itself.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _dump(monitor, machine, handle)
        finally:
            os.close(handle)
        with path.open("rb") as file:
            data = file.read(MAX_PIXELS * 3 + 64)
    try:
        return parse_ppm(data)
    except ValueError as exc:
        raise MachineError(f"machine {machine}: QEMU gave no picture: {exc}") from exc


def _dump(monitor: Qmp, machine: str, handle: int) -> None:
    monitor.execute("add-fd", {"fdset-id": FDSET}, fds=[handle])
    try:
        monitor.execute("screendump", {"filename": f"/dev/fdset/{FDSET}"}, timeout=TIMEOUT)
    except CommandFailed as exc:
        if "no console" not in exc.description.lower():
            raise
        raise MachineError(
            f"machine {machine} has no display, so there is nothing to take a picture of",
            hint="write display = \"vnc\" under [machine.qemu], then 'qup reload';"
            " 'qup logs' has what it says on its console",
            machine=machine,
        ) from exc
    finally:
        monitor.execute("remove-fd", {"fdset-id": FDSET})
