"""Folder type ``tar``: a copy by an archive, made while it is sent."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence

from qup.api import FolderGuest, FolderType, Host, Parcel, Problem, hookimpl

CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""What was a file a moment ago may be a link or a pipe now."""


class Tar:
    """An archive on the standard input of the guest's tar."""

    name = "tar"
    summary = "a copy by tar, which the guest needs"
    priority = 20
    programs = ("tar",)

    def problems(self, host: Host, program: str) -> Sequence[Problem]:  # noqa: ARG002  it needs none
        return []

    def send(self, guest: FolderGuest, parcel: Parcel) -> None:
        script = 'tar -x -p -o -f - -C "$1"'
        guest.call("copying into the guest", script, parcel.target, input=write_archive(parcel))


@hookimpl
def qup_folder_types() -> Sequence[FolderType]:
    return [Tar()]


def write_archive(parcel: Parcel) -> Iterator[bytes]:
    """A tar archive of some entries of a folder, piece by piece."""
    top = os.fsencode(parcel.root)
    total = 0
    for count, name in enumerate(parcel.names, 1):
        try:
            for part in _write_member(top, name, parcel.unsure):
                total += len(part)
                yield part
        except OSError as exc:
            parcel.unsure.add(name)
            if not isinstance(exc, FileNotFoundError):
                parcel.failed.add(name, str(exc.strerror))
        parcel.report(count, total)
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
