"""Pictures: what QEMU writes is read with care, and what comes out is a PNG."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.errors import MachineError
from qup.qemu.picture import Picture, grab_picture, parse_ppm
from qup.qemu.qmp import CommandFailed


def read_png(data: bytes) -> Picture:
    """A reader for what we write: 8 bits, RGB, no filters."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(name + body),)
        chunks[name] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colors, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colors, methods) == (8, 2, [0, 0, 0])
    rows = zlib.decompress(chunks[b"IDAT"])
    stride = width * 3 + 1
    assert len(rows) == stride * height
    assert not any(rows[::stride])
    pixels = b"".join(rows[at + 1 : at + stride] for at in range(0, len(rows), stride))
    return Picture(width, height, pixels)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_there_and_back(width: int, height: int, data: st.DataObject) -> None:
    size = width * height * 3
    pixels = data.draw(st.binary(min_size=size, max_size=size))
    picture = parse_ppm(b"P6\n%d %d\n255\n" % (width, height) + pixels)
    assert picture == Picture(width, height, pixels)
    assert read_png(picture.to_png()) == picture


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P5\n1 1\n255\n...",
        b"P6\n1 1\n65535\n......",
        b"P6\n1 1\n255\n..",
        b"P6\n1 1\n255\n....",
        b"P6\n0 0\n255\n",
        b"P6\n99999 99999\n255\n...",
        b"P6\n-1 1\n255\n...",
        b"P6\n1e3 1\n255\n...",
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"PPM|pixels"):
        parse_ppm(data)


@given(st.binary(max_size=60))
def test_junk_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"PPM|pixels"):
        parse_ppm(b"P6\n9 9\n255\n" + data)


class Refusing:
    """A monitor that refuses to dump, and counts what it was handed."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.sets = 0

    def execute(self, command: str, *_: object, **more: object) -> object:
        if command == "screendump":
            raise CommandFailed(command, "GenericError", self.words)
        self.sets += 1 if command == "add-fd" else -1
        return {}


def test_a_machine_without_a_screen() -> None:
    monitor = Refusing("There is no console to take a screendump from")
    with pytest.raises(MachineError) as caught:
        grab_picture(monitor, "web")  # type: ignore[arg-type]
    assert "machine web has no display" in caught.value.message
    assert 'display = "vnc"' in str(caught.value.hint)
    assert monitor.sets == 0


def test_another_refusal_is_told() -> None:
    monitor = Refusing("the disk is full")
    with pytest.raises(CommandFailed, match="the disk is full"):
        grab_picture(monitor, "web")  # type: ignore[arg-type]
    assert monitor.sets == 0
