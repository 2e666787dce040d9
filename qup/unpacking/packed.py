"""The image in what was published: unpacked, and taken out of an archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qup.errors import BoxError
from qup.model.units import format_size
from qup.unpacking.members import is_tar, read_members
from qup.unpacking.streams import Peekable, find_packing, unpack, write_sparse

SUFFIXES = (".qcow2", ".img", ".raw", ".vmdk", ".vdi", ".vhd", ".vhdx", ".qcow")
"""Names of the members of an archive that are taken for a disk."""
TOLD = 128 << 20
"""Bytes between two reports."""

Say = Callable[[str], None]


def take_out(source: Path, name: str, place: Path, say: Say) -> tuple[Path, str]:
    """The image in a file, and what was around it; the file itself if nothing was.

    Args:
        source: the file.
        name: what messages call it.
        place: where the image is put if it has to be unpacked.
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
            _take_member(stream, name, place, say)
        elif packing:
            write_sparse(stream, place, _progress(name, say))
        else:
            return source, ""
    return place, ", ".join(packing)


def _take_member(stream: Peekable, name: str, place: Path, say: Say) -> None:
    taken = ""
    for member, content in read_members(stream, name):
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


def _progress(name: str, say: Say) -> Callable[[int], None]:
    told = 0

    def tell(size: int) -> None:
        nonlocal told
        if size - told >= TOLD:
            told = size
            say(f"unpacking {name}: {format_size(size)}")

    say(f"unpacking {name}")
    return tell
