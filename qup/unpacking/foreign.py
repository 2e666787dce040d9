"""Headers of other people's image formats: what QEMU would open on their word is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from qup.errors import BoxError

VMDK, VDI, VHDX, VHD = b"KDMV", b"\x7f\x10\xda\xbe", b"vhdxfile", b"conectix"
VDI_AT = 0x40
"""Where a VDI has its signature (``block/vdi.c`` in QEMU's source)."""
FOOTER = 512
"""Bytes of a VHD's footer; a dynamic one has a copy in front."""
SECTOR = 512
DESCRIPTOR = 64 * 1024
"""Bytes: the most that a VMDK's description may have."""

FIXED, DYNAMIC = 2, 3
"""Types of VHD that stand for themselves; 4 is a difference to another file."""


def find_format(path: Path) -> str:
    """What an image is, as ``qemu-img`` names it: ``raw`` if it is none that we know."""
    with path.open("rb") as file:
        start = file.read(SECTOR)
        file.seek(max(0, file.seek(0, os.SEEK_END) - FOOTER))
        end = file.read(FOOTER)
    if start.startswith(b"QFI\xfb"):
        return "qcow2"
    if start.startswith(VMDK):
        return "vmdk"
    if start[VDI_AT : VDI_AT + 4] == VDI:
        return "vdi"
    if start.startswith(VHDX):
        return "vhdx"
    return "vpc" if start.startswith(VHD) or end.startswith(VHD) else "raw"


def check_foreign(path: Path, format: str, name: str) -> None:
    """Refuse an image that is a part of something, or names other files.

    Args:
        path: the image.
        format: what :func:`find_format` found.
        name: what messages call it.

    Raises:
        BoxError: it does.
    """
    try:
        found = {"vmdk": _find_in_vmdk, "vdi": _find_in_vdi, "vpc": _find_in_vhd}.get(format)
        # VHDX: QEMU itself refuses one that has a parent (``block/vhdx.c``).
        problem = found(path) if found else None
    except (struct.error, OSError) as exc:
        raise BoxError(f"{name} ends in the middle of its header", hint="fetch it again") from exc
    if problem:
        raise BoxError(
            f"{name} is {problem}, which could be any file",
            hint="make it whole where it comes from: qemu-img convert -O qcow2 IT whole.qcow2",
        )


def _find_in_vmdk(path: Path) -> str | None:
    """Only one that keeps its data itself, whose description QEMU reads for its parent alone."""
    with path.open("rb") as file:
        # SparseExtentHeader, little-endian: magic, version, flags, capacity, grain size, where
        # the description is and how long, in sectors (VMware's "Virtual Disk Format 5.0").
        _, _, _, capacity, _, at, length = struct.unpack("<4sIIQQQQ", file.read(44))
        if capacity == 0:
            return "a VMDK that only describes other files"
        if not 0 <= length * SECTOR <= DESCRIPTOR or at > 1 << 20:
            raise struct.error
        # Without a place QEMU looks right behind the header.
        file.seek((at or 1) * SECTOR)
        text = file.read(length * SECTOR or DESCRIPTOR).partition(b"\0")[0].lower()
    parent = next((line for line in text.splitlines() if line.startswith(b"parentcid=")), b"")
    if b"parentfilenamehint" in text or parent.strip() not in (b"", b"parentcid=ffffffff"):
        return "a VMDK that needs another one below it"
    return "a VMDK of several parts" if text.count(b'.vmdk"') > 1 else None


def _find_in_vdi(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(0x4C)
        (kind,) = struct.unpack("<I", file.read(4))
    # 1 and 2 are dynamic and static; 3 undoes, 4 is a difference.
    return None if kind in (1, 2) else "a VDI that needs another one below it"


def _find_in_vhd(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(FOOTER)
        if not start.startswith(VHD):
            file.seek(-FOOTER, os.SEEK_END)
            start = file.read(FOOTER)
    (kind,) = struct.unpack_from(">I", start, 0x3C)
    return None if kind in (FIXED, DYNAMIC) else "a VHD that needs another one below it"
