"""Packed files as streams of what is in them, with an end to what they may give."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

from qup.errors import BoxError, HostError
from qup.files import explain_os_error
from qup.model.units import GIB, MIB, format_size

LIMIT = 256 * GIB
"""Bytes that may come out of a packed file: 64 MiB of it can claim to be petabytes."""
RESERVE = 256 * MIB
"""Bytes to leave free on the file system."""
CHUNK = MIB
ZSTD_PIECE = 4096
"""Bytes that are unpacked at once: a bomb of zeros makes some 20,000 times as much of them."""
DEPTH = 3
"""Layers of packing: an image in a tar in an xz has two."""

PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""How packed files begin."""

ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError, tarfile.TarError)
"""What readers of damaged files raise."""


def find_packing(start: bytes) -> str | None:
    """How a file is packed, by its first bytes; None if it isn't."""
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), None)


class Source(Protocol):
    """Whatever can be read."""

    def read(self, size: int, /) -> bytes | None: ...


class Peekable(io.RawIOBase):
    """A stream whose first bytes can be looked at, and which ends with an error at a limit.

    Args:
        source: where it reads from.
        name: what messages call it.
        limit: bytes.
    """

    def __init__(self, source: Source, name: str, limit: int = LIMIT) -> None:
        self._source = source
        self._name = name
        self._limit = limit
        self._start = b""
        self.count = 0

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay to be read."""
        while len(self._start) < size and (more := self._get(size - len(self._start))):
            self._start += more
        return self._start[:size]

    def read(self, size: int = -1) -> bytes:
        """As files do it; all there is may not be asked for."""
        if size < 0:
            raise ValueError("a packed file is never read as a whole")
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
        else:
            data = self._get(size)
        self.count += len(data)
        if self.count > self._limit:
            raise BoxError(
                f"what is packed in {self._name} is more than {format_size(self._limit)}",
                hint="unpack it yourself if that is right, and use what comes out as the box",
            )
        return data

    def _get(self, size: int) -> bytes:
        try:
            return self._source.read(size) or b""
        except ERRORS as exc:
            raise BoxError(
                f"{self._name} is damaged: {str(exc) or type(exc).__name__}", hint="fetch it again"
            ) from exc
        except Exception as exc:  # zstandard has one of its own
            if type(exc).__name__ != "ZstdError":
                raise
            raise BoxError(f"{self._name} is damaged: {exc}", hint="fetch it again") from exc


def unpack(source: Peekable, name: str, limit: int = LIMIT) -> Peekable:
    """The stream of what is in a packed stream, through all layers but tar's."""
    for _ in range(DEPTH):
        packing = find_packing(source.peek(6))
        if packing is None:
            return source
        source = Peekable(_open(packing, source), name, limit)
    raise BoxError(f"{name} is packed more than {DEPTH} times")


def _open(packing: str, source: Peekable) -> Source:
    match packing:
        case "gzip":
            return gzip.GzipFile(fileobj=source)
        case "xz":
            return lzma.LZMAFile(cast("IO[bytes]", source))
        case "bzip2":
            return bz2.BZ2File(source)
        case _:
            return _Zstd(source)


class _Zstd:
    """A zstd file as a stream. zstandard's own reader takes a file that breaks off for whole."""

    def __init__(self, source: Source) -> None:
        import zstandard  # 10 ms that most boxes don't need

        self._start = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._frame = self._start()
        self._source = source
        self._ready, self._at = b"", 0
        self._begun = False

    def read(self, size: int, /) -> bytes:
        while self._at >= len(self._ready):
            if self._frame.eof:
                left = self._frame.unused_data
                self._frame, self._begun = self._start(), False
            else:
                left = b""
            data = left or self._source.read(ZSTD_PIECE) or b""
            if not data:
                if self._begun:
                    raise EOFError("it breaks off")
                return b""
            self._begun = True
            # Up to 80 MB: what is left of it is not copied for each piece that is taken.
            self._ready, self._at = self._frame.decompress(data), 0
        part = self._ready[self._at : self._at + size]
        self._at += len(part)
        return part


def write_sparse(source: Source, target: Path, say: Callable[[int], None]) -> int:
    """Write a stream to a file, with holes where it is zero.

    Args:
        source: the stream.
        target: the file; it must not exist.
        say: is told now and then how many bytes there are.

    Returns:
        The file's size in bytes.

    Raises:
        HostError: there is no room for it.
    """
    size, unseen = 0, 0
    try:
        with target.open("xb") as file:
            while data := source.read(CHUNK):
                if data.count(0) != len(data):
                    os.pwrite(file.fileno(), data, size)
                    unseen += len(data)
                size += len(data)
                say(size)
                if unseen >= 64 * CHUNK:
                    unseen = 0
                    _require_room(target)
            os.truncate(file.fileno(), size)
    except OSError as exc:
        raise explain_os_error("write", target, exc) from exc
    return size


def _require_room(path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < RESERVE:
        raise HostError(
            f"the image that is being unpacked in {path.parent} does not fit: {format_size(free)}"
            " are left",
            hint="free some space, or put the cache elsewhere with QUP_CACHE_DIR",
        )
