"""Files of a folder as a tar archive, made while it is sent."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from qup.trees import Leftovers

CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""What was a file a moment ago may be a link or a pipe now."""


def write_archive(
    root: Path,
    names: Iterable[bytes],
    failed: Leftovers,
    unsure: set[bytes],
    report: Callable[[int, int], None],
) -> Iterator[bytes]:
    """A tar archive of some entries of a folder, piece by piece.

    Args:
        root: the folder.
        names: the entries.
        failed: takes those that can't be read.
        unsure: takes those that are not, or not as a whole, in the archive.
        report: told how many entries and bytes were written so far.
    """
    top = os.fsencode(root)
    total = 0
    for count, name in enumerate(names, 1):
        try:
            for part in _write_member(top, name, unsure):
                total += len(part)
                yield part
        except OSError as exc:
            unsure.add(name)
            if not isinstance(exc, FileNotFoundError):
                failed.add(name, str(exc.strerror))
        report(count, total)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _write_member(top: bytes, name: bytes, unsure: set[bytes]) -> Iterator[bytes]:
    path = os.path.join(top, name)
    info = os.lstat(path)
    member = tarfile.TarInfo(os.fsdecode(b"./" + name))
    member.mtime = int(info.st_mtime)
    member.mode = info.st_mode & 0o777
    if stat.S_ISDIR(info.st_mode):
        member.type = tarfile.DIRTYPE
        # One that its owner can't write to could not be filled.
        member.mode |= stat.S_IRWXU
        yield _header(member)
    elif stat.S_ISLNK(info.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = os.fsdecode(os.readlink(path))
        yield _header(member)
    elif stat.S_ISREG(info.st_mode):
        yield from _write_file(path, name, member, unsure)
    else:
        unsure.add(name)


def _write_file(
    path: bytes, name: bytes, member: tarfile.TarInfo, unsure: set[bytes]
) -> Iterator[bytes]:
    handle = os.open(path, _READ)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            unsure.add(name)
            return
        member.size = left = info.st_size
        yield _header(member)
        while left:
            part = _read(handle, min(left, CHUNK))
            if not part:  # it is shorter now, or broken: the archive keeps its promise, with zeros
                unsure.add(name)
                part = bytes(min(left, CHUNK))
            left -= len(part)
            yield part
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    finally:
        os.close(handle)


def _read(handle: int, size: int) -> bytes:
    try:
        return os.read(handle, size)
    except OSError:
        return b""


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
