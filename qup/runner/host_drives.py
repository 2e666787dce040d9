"""Whether this computer can serve a machine's drives as they are asked for: read-only looks."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qup.model.drives import CACHE_MODES
from qup.model.plan import Plan
from qup.paths import MachineFolder
from qup.runner.drives import disk_file, further_disks


class Found(NamedTuple):
    """A problem, and what to do about it."""

    problem: str
    hint: str


_IO_URING_SETUP = 425
"""The system call's number, the same on every architecture (``asm-generic/unistd.h``)."""

_F_OFD_GETLK = 36
_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` with 64-bit offsets: type, whence, start, length, pid."""

_WRITES, _WRITES_ALONE = 101, 201
"""Bytes that QEMU locks in an image's file (``block/file-posix.c``): by one who writes to it, and
by one who lets nobody else write to it."""


def find_problems(plan: Plan, folder: MachineFolder, box: Path) -> Iterator[Found]:
    """What this computer can't do for the plan's drives.

    Args:
        plan: the plan.
        folder: the machine's folder.
        box: the box's folder; the disk's data that was never written is read there.
    """
    direct = [disk for disk in plan.disks if disk.cache and CACHE_MODES[disk.cache].direct]
    for disk in direct:
        places = [disk_file(folder, disk)] if disk.image else [folder.root]
        places += [box] if disk.role == "disk" else []
        for place in places:
            if not can_pass_cache(place):
                yield Found(
                    f"cache = {disk.cache!r} of {disk.serial} needs a file system that can pass by"
                    f" the page cache (O_DIRECT), and that of {place} can't",
                    'leave cache out, or use "writeback" or "writethrough"',
                )
    if any(disk.io == "io_uring" for disk in plan.disks) and (reason := _refuses_io_uring()):
        yield Found(f'io = "io_uring" does not work here: {reason}', 'use "threads" or "native"')


def find_conflicts(plan: Plan, folder: MachineFolder) -> Iterator[Found]:
    """Images of the plan that another QEMU has open in a way that excludes this one.

    The machine itself must not run. QEMU would say it, too, but not who it is.
    """
    for disk in further_disks(plan):
        if disk.image is None:
            continue
        path = disk_file(folder, disk)
        if is_in_use(path, to_write=not disk.read_only):
            who = ", ".join(find_users(path)) or "another program"
            yield Found(
                f"disk {disk.serial!r}: {path} is in use by {who}",
                "an image that is written to serves one machine at a time: stop that one, or make"
                " the disk 'read-only' in both",
            )


def can_pass_cache(place: Path) -> bool:
    """Whether a file, or a file in a folder, can be opened with ``O_DIRECT``."""
    if not hasattr(os, "O_DIRECT"):
        return True  # QEMU knows what there is instead
    try:
        if place.is_dir():
            return _try_folder(place)
        os.close(os.open(place, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno != errno.EINVAL
    return True


def _try_folder(folder: Path) -> bool:
    if not os.access(folder, os.W_OK):
        file = next((path for path in folder.iterdir() if path.is_file()), None)
        return file is None or can_pass_cache(file)
    with tempfile.NamedTemporaryFile(prefix=".qup-", dir=folder) as probe:
        return can_pass_cache(Path(probe.name))


def _refuses_io_uring() -> str | None:
    """Why the kernel lets nobody set up an io_uring; None if it does."""
    if sys.platform != "linux":
        return "it is Linux's"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(_IO_URING_SETUP), ctypes.c_uint(0), None)  # always fails
    match ctypes.get_errno():
        case errno.ENOSYS:
            return "this kernel, or the container around it, has none"
        case errno.EPERM | errno.EACCES:
            return "the kernel forbids it (sysctl kernel.io_uring_disabled, or a container's rules)"
    return None


def is_in_use(path: Path, *, to_write: bool) -> bool:
    """Whether another QEMU's locks exclude a reader, or a writer, of an image."""
    if sys.platform != "linux":
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        wanted = (_WRITES, _WRITES_ALONE) if to_write else (_WRITES,)
        return any(_is_byte_locked(fd, byte) for byte in wanted)
    finally:
        os.close(fd)


def _is_byte_locked(fd: int, byte: int) -> bool:
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        answer = fcntl.fcntl(fd, _F_OFD_GETLK, question)
    except OSError:
        return False
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def find_users(path: Path) -> list[str]:
    """The processes of this user that have a file open, in words: ``qemu-img (pid 12)``."""
    try:
        file = path.stat()
    except OSError:
        return []
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        try:
            opened = (entry.stat() for entry in (process / "fd").iterdir())
            if any((one.st_dev, one.st_ino) == (file.st_dev, file.st_ino) for one in opened):
                found.append(_describe(process))
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def _describe(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    name = words[0].rsplit("/", 1)[-1]
    guest = next((word[6:] for word in words if word.startswith("guest=")), "")
    machine = f"machine {guest.split(',')[0]}, " if guest else ""
    return f"{name} ({machine}pid {process.name})"
