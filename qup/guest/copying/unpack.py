"""A tar archive that a stranger sends, unpacked into a folder of ours that nobody else writes to.

Links are made last, so that nothing can be written through one: a name leads to where it seems to
lead, as long as none of its parts goes up.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from qup.guest.copying.ends import BLOCK, MODE_BITS, Chunks, Notes

_ZEROS = bytes(4096)


class Stream:
    """Chunks as a file that can be read."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """As many bytes as were asked for, unless it ends before."""
        parts, left = [], size
        while left:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            parts.append(self._rest[:left])
            self._rest = self._rest[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def drain(self) -> None:
        """Read to the end: whoever sends may have padding left."""
        for _ in self._chunks:
            pass


def unpack(chunks: Chunks, root: Path, notes: Notes) -> None:
    """Unpack an archive into an empty folder.

    Raises:
        OSError: something can't be written.
        tarfile.TarError: it is no archive, or not all of one.
    """
    stream = Stream(chunks)
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    links: list[tuple[Path, tarfile.TarInfo]] = []
    with tarfile.open(
        fileobj=stream,
        mode="r|",
        encoding="utf-8",
        errors="surrogateescape",  # type: ignore[call-overload]
    ) as archive:
        for member in archive:
            target = _place(root, member.name)
            if target is None:
                notes.failed.append(f"{member.name}: leads out of the folder")
            elif member.isdir():
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                folders.append((target, member))
            elif member.issym():
                links.append((target, member))
            elif member.islnk():
                _link(root, target, member, notes)
            elif member.isreg():
                _write(archive, member, target)
            else:
                notes.left_out.append(f"{member.name}: neither file, folder nor link")
    stream.drain()
    for target, member in links:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(target):
            target.symlink_to(member.linkname)
    for target, member in reversed(folders):  # what is in a folder changes its time
        _adopt(target, member)


def _place(root: Path, name: str) -> Path | None:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or "\0" in name else root.joinpath(*parts)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with target.open("xb") as file:
        if member.issparse():
            write_with_holes(iter(lambda: source.read(BLOCK), b""), file)
        else:
            while block := source.read(BLOCK):
                file.write(block)
    _adopt(target, member)


def _link(root: Path, target: Path, member: tarfile.TarInfo, notes: Notes) -> None:
    """One more name of a file that came before it."""
    source = _place(root, member.linkname)
    if source is None or not source.is_file():
        notes.failed.append(f"{member.name}: another name of a file that did not come")
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(source, target)


def _adopt(target: Path, member: tarfile.TarInfo) -> None:
    mode = member.mode & MODE_BITS
    target.chmod(mode | stat.S_IRWXU if member.isdir() else mode)
    os.utime(target, (member.mtime, member.mtime))


def write_with_holes(chunks: Iterator[bytes], file: IO[bytes]) -> None:
    """Write to the end of a file, with holes where there is nothing but zeros."""
    at = file.seek(0, os.SEEK_END)
    for chunk in chunks:
        for start in range(0, len(chunk), len(_ZEROS)):
            part = chunk[start : start + len(_ZEROS)]
            if part == _ZEROS[: len(part)]:
                file.seek(len(part), os.SEEK_CUR)
            else:
                file.write(part)
            at += len(part)
    file.truncate(at)
