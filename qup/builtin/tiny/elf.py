"""As much of ELF as the recipe needs: shared libraries wanted, and a module's own words.

Read from the file itself, because ``readelf`` is not on a fresh machine and ``ldd`` runs what
it looks at. 64-bit little-endian only: every architecture that tiny is made for. Layout:
``man 5 elf``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5
XEN_ELFNOTE_PHYS32_ENTRY = 18
"""The note that says where a PVH boot enters a kernel (xen/include/public/elfnote.h)."""

SIGNATURE_END = b"~Module signature appended~\n"
"""The end of a signed kernel module (Linux, scripts/sign-file.c)."""


@dataclass(frozen=True)
class Segment:
    """One program header: its type, file offset, virtual address and size in the file."""

    kind: int
    offset: int
    address: int
    size: int


def is_elf(data: bytes) -> bool:
    """Whether this is an ELF file that this module can read."""
    return data[:6] == MAGIC


def read_segments(data: bytes) -> tuple[Segment, ...]:
    """The program headers, in the file's order."""
    start, size, count = (
        *struct.unpack_from("<Q", data, 32),
        *struct.unpack_from("<HH", data, 54),
    )
    found = []
    for index in range(count):
        kind, _flags, offset, address, _physical, file_size = struct.unpack_from(
            "<IIQQQQ", data, start + index * size
        )
        found.append(Segment(kind, offset, address, file_size))
    return tuple(found)


def read_needed(data: bytes) -> tuple[str, ...]:
    """The sonames a program or library wants; empty for a static one."""
    if not is_elf(data):
        return ()
    segments = read_segments(data)
    strings, names = None, []
    for tag, value in _dynamic_entries(data, segments):
        if tag == DT_NEEDED:
            names.append(value)
        elif tag == DT_STRTAB:
            strings = _file_offset(segments, value)
    if strings is None:
        return ()
    return tuple(_string(data, strings + name) for name in names)


def read_interpreter(data: bytes) -> str | None:
    """The dynamic loader's path, as the kernel will look for it."""
    if not is_elf(data):
        return None
    for segment in read_segments(data):
        if segment.kind == PT_INTERP:
            return _string(data, segment.offset)
    return None


def has_pvh_entry(data: bytes) -> bool:
    """Whether a kernel can be entered directly by QEMU (``-kernel vmlinux``)."""
    if not is_elf(data):
        return False
    return any(
        owner == b"Xen" and kind == XEN_ELFNOTE_PHYS32_ENTRY
        for segment in read_segments(data)
        if segment.kind == PT_NOTE
        for owner, kind in _notes(data, segment)
    )


def read_module_info(data: bytes) -> dict[str, list[str]]:
    """A kernel module's ``.modinfo``: every ``key=value`` it carries about itself."""
    table, size, count, names = (
        *struct.unpack_from("<Q", data, 40),
        *struct.unpack_from("<HHH", data, 58),
    )
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    info: dict[str, list[str]] = {}
    for name, _kind, _flags, _address, offset, length in sections:
        if _string(data, sections[names][4] + name) != ".modinfo":
            continue
        for entry in data[offset : offset + length].split(b"\0"):
            key, equals, value = entry.decode("utf-8", "replace").partition("=")
            if equals:
                info.setdefault(key, []).append(value)
    return info


def strip_signature(data: bytes) -> bytes:
    """A kernel module without the signature that is appended to it, if it is."""
    if not data.endswith(SIGNATURE_END):
        return data
    # struct module_signature is 12 bytes; its last four are the signature's length.
    trailer = len(data) - len(SIGNATURE_END)
    (length,) = struct.unpack_from(">I", data, trailer - 4)
    return data[: trailer - 12 - length]


def _dynamic_entries(data: bytes, segments: tuple[Segment, ...]) -> Iterator[tuple[int, int]]:
    for segment in segments:
        if segment.kind != PT_DYNAMIC:
            continue
        for offset in range(segment.offset, segment.offset + segment.size, 16):
            tag, value = struct.unpack_from("<QQ", data, offset)
            if tag == DT_NULL:
                return
            yield tag, value


def _notes(data: bytes, segment: Segment) -> Iterator[tuple[bytes, int]]:
    position, end = segment.offset, segment.offset + segment.size
    while position + 12 <= end:
        name_size, value_size, kind = struct.unpack_from("<III", data, position)
        name = data[position + 12 : position + 12 + name_size]
        yield name.rstrip(b"\0"), kind
        position += 12 + _round_up(name_size) + _round_up(value_size)


def _round_up(size: int) -> int:
    return (size + 3) & ~3


def _file_offset(segments: tuple[Segment, ...], address: int) -> int | None:
    for segment in segments:
        inside = segment.address <= address < segment.address + segment.size
        if segment.kind == PT_LOAD and inside:
            return address - segment.address + segment.offset
    return None


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("utf-8", "replace")
