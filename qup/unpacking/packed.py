"""The image in what was published: unpacked, and taken out of an archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qup.errors import BoxError
from qup.model.package import METADATA, Packaged, read_metadata
from qup.model.units import format_size
from qup.unpacking.members import is_tar, read_members
from qup.unpacking.streams import Peekable, find_packing, unpack, write_sparse

SUFFIXES = (".qcow2", ".img", ".raw", ".vmdk", ".vdi", ".vhd", ".vhdx", ".qcow")
"""Names of the members of an archive that are taken for a disk."""
METADATA_LIMIT = 1 << 20
"""Bytes that an archive may say about itself."""
BOOT_LIMIT = 1 << 30
"""Bytes that a kernel or an initrd may have."""
TOLD = 128 << 20
"""Bytes between two reports."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """What was in a file.

    Attributes:
        image: the image; the file itself if nothing was around it.
        packing: what was: ``xz``, ``gzip, tar`` or nothing.
        packaged: what an archive says about itself, if it does.
    """

    image: Path
    packing: str = ""
    packaged: Packaged | None = None


def take_out(source: Path, name: str, place: Path, say: Say) -> Taken:
    """Take the image out of a file, and what boots it if an archive of qup's has it.

    Args:
        source: the file.
        name: what messages call it.
        place: where the image is put if it has to be unpacked; what boots it goes beside it.
        say: takes lines about how far it is.

    Raises:
        BoxError: the file is damaged, or has no image or several.
    """
    packing: list[str] = []
    with source.open("rb") as file:
        outer = Peekable(file, name, limit=1 << 62)
        if kind := find_packing(outer.peek(6)):
            packing.append(kind)
        stream = unpack(outer, name)
        if is_tar(stream.peek(512)):
            packing.append("tar")
            packaged = _take_members(stream, name, place, say)
            return Taken(place, ", ".join(packing), packaged)
        if not packing:
            return Taken(source)
        write_sparse(stream, place, _progress(name, say))
    return Taken(place, ", ".join(packing))


def _take_members(stream: Peekable, name: str, place: Path, say: Say) -> Packaged | None:
    taken = ""
    packaged: Packaged | None = None
    missing: set[str] = set()
    for member, content in read_members(stream, name):
        if member == METADATA and packaged is None:
            packaged = _read_metadata(content, name)
            missing = set(packaged.files if packaged else ())
            continue
        if member in missing:
            missing.remove(member)
            bounded = Peekable(content, f"{member} in {name}", BOOT_LIMIT)
            write_sparse(bounded, place.with_name(member), _progress(member, say))
            continue
        if not member.lower().endswith(SUFFIXES):
            continue
        if taken:
            raise BoxError(
                f"{name} has several images: {taken} and {member}",
                hint="take out the one that is meant, and use it as the box",
            )
        taken = member
        shown = f"{member} in {name}"
        inner = unpack(Peekable(content, shown), shown)
        write_sparse(inner, place, _progress(member, say))
    if not taken:
        raise BoxError(
            f"{name} is an archive without a disk image", hint=f"it looks for {', '.join(SUFFIXES)}"
        )
    if missing:
        raise BoxError(
            f"{name} lacks {', '.join(sorted(missing))}, which it says that it has",
            hint="its metadata.json has to be the first file in it; 'qup box export' writes it so",
        )
    return packaged


def _read_metadata(content: IO[bytes], name: str) -> Packaged | None:
    data = content.read(METADATA_LIMIT + 1)
    try:
        if len(data) > METADATA_LIMIT:
            raise ValueError("it is too large")
        return read_metadata(data)
    except ValueError as exc:
        raise BoxError(
            f"{name} can't be used: its metadata.json says why not, or is damaged: {exc}",
            hint="boxes for libvirt and QEMU, and those of 'qup box export', can",
        ) from exc


def _progress(name: str, say: Say) -> Callable[[int], None]:
    told = 0

    def tell(size: int) -> None:
        nonlocal told
        if size - told >= TOLD:
            told = size
            say(f"unpacking {name}: {format_size(size)}")

    say(f"unpacking {name}")
    return tell
