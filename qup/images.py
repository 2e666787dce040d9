"""Reading the headers of disk images with suspicion.

The header of a qcow2 image (``docs/interop/qcow2.txt`` in QEMU's source) is read here rather
than by ``qemu-img info``, which would open whatever a foreign image names as its backing or
data file.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qup.errors import BoxError, StateError
from qup.model.text import clean_line
from qup.model.units import TIB, format_size

MAX_VIRTUAL_SIZE = 64 * TIB
"""Bytes: the most that a foreign image may claim to be."""

QCOW2_MAGIC = b"QFI\xfb"

_VERSION_2 = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = struct.Struct(_VERSION_2.format + "QQQII")
_MAX_L1_BYTES = 32 * 1024 * 1024
_MAX_REFCOUNT_BYTES = 8 * 1024 * 1024
_MAX_SNAPSHOTS = 65536
_ZLIB, _ZSTD = 0, 1

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2

_PVD = 16 * 2048
"""Where an ISO's primary volume descriptor is."""

_SIGNATURES = (
    (0, QCOW2_MAGIC, "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"PK\x03\x04", "a zip file"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (257, b"ustar", "a tar archive"),
    (32769, b"CD001", "an ISO image (a CD)"),
)

_OTHER_IMAGES = frozenset(name for _, _, name in _SIGNATURES[:4])
"""Formats of disks in which the disk's data isn't simply one byte after the other."""


@dataclass(frozen=True)
class Header:
    """What the header of a qcow2 image says.

    Attributes:
        version: 2 or 3.
        virtual_size: bytes the guest sees.
        cluster_size: bytes.
        backing: whether it names a backing file.
        encrypted: whether its contents are.
        incompatible: the bits of features that a reader must know.
    """

    version: int
    virtual_size: int
    cluster_size: int
    backing: bool
    encrypted: bool
    incompatible: int


def virtual_size(path: Path, format: str) -> int:
    """Bytes that a guest sees of an image, read from the file itself.

    Raises:
        BoxError: it isn't a regular file of that format.
    """
    start, length = _read_start(path)
    if format == "raw":
        return length
    return parse_header(start, length, str(path)).virtual_size


def inspect_header(path: Path, format: str, *, max_virtual_size: int = MAX_VIRTUAL_SIZE) -> int:
    """Accept or refuse an image that somebody else made.

    Args:
        path: the image.
        format: ``qcow2`` or ``raw``: what it is said to be.
        max_virtual_size: bytes.

    Returns:
        Its virtual size in bytes.

    Raises:
        BoxError: it is something else, refers to other files, is encrypted, was not closed
            properly, needs features that are unknown, or is too large.
    """
    start, length = _read_start(path)
    found = identify(start)
    if format == "raw":
        if found is not None or length == 0:
            raise BoxError(f"{path} is {found or 'empty'}, not a raw disk image")
        size = length
    else:
        header = parse_header(start, length, str(path))
        _refuse_foreign(header, path)
        size = header.virtual_size
    if size > max_virtual_size:
        raise BoxError(
            f"{path} claims to be a disk of {format_size(size)}; the most is"
            f" {format_size(max_virtual_size)}"
        )
    return size


def find_format(path: Path) -> str | None:
    """``qcow2`` if a regular file has the header of one, else None.

    Raises:
        BoxError: it can't be read, or isn't a regular file.
    """
    start, _ = _read_start(path)
    return "qcow2" if start.startswith(QCOW2_MAGIC) else None


def inspect_data(path: Path, *, read_only: bool) -> None:
    """Accept or refuse a file as a raw disk of somebody's own, whatever is on it.

    Args:
        path: the file.
        read_only: nobody will write to it: then it may be a CD.

    Raises:
        BoxError: it is empty, or an image of another format.
    """
    start, length = _read_start(path)
    found = identify(start)
    if length == 0:
        raise BoxError(f"{path} is empty", hint="a disk has a size: truncate -s 1G FILE")
    if found in _OTHER_IMAGES:
        hint = f"convert it: qemu-img convert -O qcow2 {path} disk.qcow2"
        if found == _SIGNATURES[0][2]:
            hint = "leave 'format' out, or write format = \"qcow2\""
        raise BoxError(f"{path} is {found}, not a raw disk image", hint=hint)
    if found == _SIGNATURES[-1][2] and not read_only:
        raise BoxError(f"{path} is {found}", hint="write read-only = true")


def inspect_image(path: Path) -> str:
    """Find out what a foreign disk image is, and accept or refuse it.

    Returns:
        ``qcow2`` or ``raw``.

    Raises:
        BoxError: see :func:`inspect_header`.
    """
    start, _ = _read_start(path)
    found = "qcow2" if start.startswith(QCOW2_MAGIC) else "raw"
    inspect_header(path, found)
    return found


def inspect_iso(path: Path) -> str:
    """Accept or refuse an ISO that somebody else made, by its primary volume descriptor
    (ECMA-119, 8.4).

    Returns:
        Its volume label.

    Raises:
        BoxError: it is something else, or has been cut off.
    """
    start, length = _read_start(path)
    found = identify(start)
    if length == 0:
        raise BoxError(f"{path} is empty, not an ISO", hint="fetch it again")
    if start[_PVD + 1 : _PVD + 6] != b"CD001" or len(start) < _PVD + 130:
        raise BoxError(
            f"{path} is {found or 'something else'}, not an ISO", hint="check 'box' in the Qupfile"
        )
    blocks, block = struct.unpack_from("<I", start, _PVD + 80)[0], start[_PVD + 128 : _PVD + 130]
    claimed = blocks * int.from_bytes(block, "little")
    if claimed > length:
        raise BoxError(
            f"{path} was cut off: it has {format_size(length)} of {format_size(claimed)}",
            hint="fetch it again",
        )
    return clean_line(start[_PVD + 40 : _PVD + 72].decode("ascii", errors="replace")).strip()


def check_overlay(path: Path, base: Path | None) -> None:
    """Make sure that a machine's disk is what :func:`create_overlay` made for it.

    A project may come from anybody, with a ``.qup`` folder in it: a disk with another backing
    file would show the guest whatever file of the host it names.

    Args:
        path: the disk.
        base: the file it has to be based on; None for no file.

    Raises:
        StateError: the disk is damaged, or based on another file.
    """
    hint = "'qup destroy' removes the machine; to rescue its data, copy the disk first"
    if path.is_symlink():
        raise StateError(f"the machine's disk {path} is a link, which qup never makes", hint=hint)
    try:
        start, length = _read_start(path)
        header = parse_header(start, length, str(path))
    except BoxError as exc:
        raise StateError(f"the machine's disk is damaged: {exc.message}", hint=hint) from exc
    offset, size = struct.unpack_from(">QI", start, 8)
    named = start[offset : offset + size]
    wanted = os.fsencode(base) if base is not None else b""
    based = header.backing == (base is not None) and (named == wanted or not header.backing)
    its = f"its box's {base}" if base is not None else "itself alone"
    if not based or header.incompatible & _DATA_FILE:
        raise StateError(
            f"the machine's disk {path} is based on {os.fsdecode(named) or 'nothing'},"
            f" not on {its}",
            hint=hint,
        )


def _refuse_foreign(header: Header, path: Path) -> None:
    flatten = f"make it whole: qemu-img convert -O qcow2 {path} whole.qcow2"
    if header.backing:
        raise BoxError(f"{path} needs a backing file, which could be any file", hint=flatten)
    if header.incompatible & _DATA_FILE:
        raise BoxError(f"{path} keeps its data in another file", hint=flatten)
    if header.encrypted:
        raise BoxError(f"{path} is encrypted", hint=flatten)
    if unknown := header.incompatible & ~_KNOWN:
        raise BoxError(f"{path} needs qcow2 features that are unknown ({unknown:#x})")
    if header.incompatible & (_DIRTY | _CORRUPT):
        raise BoxError(
            f"{path} is in use, was not closed properly, or is damaged",
            hint=f"stop what uses it, then look: qemu-img check -f qcow2 {path}",
        )


def _read_start(path: Path) -> tuple[bytes, int]:
    """The first 33 KiB of a regular file, and its size."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise BoxError(f"can't open the image {path}: {exc.strerror}") from exc
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BoxError(f"{path} is not a regular file")
        return os.pread(fd, 33 * 1024, 0), info.st_size
    except OSError as exc:
        raise BoxError(f"can't read the image {path}: {exc.strerror}") from exc
    finally:
        os.close(fd)


def identify(start: bytes) -> str | None:
    """Name what a file is by its first 33 KiB: ``an xz file``; None for anything else."""
    for offset, signature, name in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return name
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page"
    return None


class _Fields(NamedTuple):
    """The fields of the header in their order; those after ``snapshots_at`` are version 3's."""

    magic: bytes
    version: int
    backing_at: int
    backing_bytes: int
    cluster_bits: int
    size: int
    encryption: int
    l1_entries: int
    l1_at: int
    refcounts_at: int
    refcount_clusters: int
    snapshots: int
    snapshots_at: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_bytes: int = _VERSION_2.size


def parse_header(start: bytes, length: int, name: str) -> Header:
    """Read a qcow2 header, with the limits that QEMU itself sets (``block/qcow2.c``).

    Args:
        start: the file's first bytes, 105 or more unless the file is shorter.
        length: the file's size in bytes.
        name: what messages call it.

    Raises:
        BoxError: it isn't a qcow2 image, or one that was cut off or tampered with.
    """
    if start[:4] != QCOW2_MAGIC:
        what = "empty" if not start else identify(start) or "something else"
        raise BoxError(f"{name} is not a qcow2 image, it is {what}")
    version = int.from_bytes(start[4:8], "big")
    layout = {2: _VERSION_2, 3: _VERSION_3}.get(version)
    if layout is None:
        raise BoxError(f"{name} has version {version} of qcow2, which is unknown")
    if len(start) < layout.size or not _is_sound(
        fields := _Fields(*layout.unpack_from(start)), start[layout.size : layout.size + 1], length
    ):
        raise BoxError(f"{name} is a damaged qcow2 image", hint="fetch it again")
    return Header(
        version=version,
        virtual_size=fields.size,
        cluster_size=1 << fields.cluster_bits,
        backing=fields.backing_at != 0,
        encrypted=fields.encryption != 0,
        incompatible=fields.incompatible,
    )


def _is_sound(header: _Fields, compression: bytes, length: int) -> bool:
    if not 9 <= header.cluster_bits <= 21:
        return False
    cluster = 1 << header.cluster_bits
    extended = bool(header.incompatible & _EXTENDED_L2)
    per_l1_entry = cluster * (cluster // (16 if extended else 8))
    tables = (header.l1_at, header.refcounts_at, header.snapshots_at)
    return (
        header.size < 1 << 63
        and header.size % 512 == 0
        and all(table % cluster == 0 and table < length for table in tables)
        and header.l1_entries * 8 <= _MAX_L1_BYTES
        and header.l1_entries * per_l1_entry >= header.size
        and header.l1_at + header.l1_entries * 8 <= length
        and header.refcounts_at > 0
        and 0 < header.refcount_clusters * cluster <= _MAX_REFCOUNT_BYTES
        and header.refcount_order <= 6
        and header.snapshots <= _MAX_SNAPSHOTS
        and header.backing_bytes <= 1023
        and header.backing_at + header.backing_bytes <= cluster
        and (not extended or header.cluster_bits >= 14)
        and _is_sound_version_3(header, compression, cluster)
    )


def _is_sound_version_3(header: _Fields, compression: bytes, cluster: int) -> bool:
    if header.version == 2:
        return True
    if not _VERSION_3.size <= header.header_bytes <= cluster or header.header_bytes % 8:
        return False
    # The byte behind the fields, if the header has one, must agree with the feature bit.
    named = compression[0] if compression and header.header_bytes > _VERSION_3.size else 0
    return named == (_ZSTD if header.incompatible & _COMPRESSION else _ZLIB)
