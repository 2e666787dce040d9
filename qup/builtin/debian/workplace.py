"""The folder in which mmdebstrap unpacks a release: a gigabyte that nobody must have to look for.

Each is locked by the process that uses it and by all that it starts, so one without a lock is
what ``kill -9`` has left, and the next who makes a box removes it. What root mounts in there is
mounted in a namespace of its own, which ends with its processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qup.api import HostError, run

PREFIX = "qup-debian-"
TIMEOUT = 300.0
HIGH = 100
"""The least number of the lock's descriptor: mmdebstrap hands the numbers of its own pipes to a
shell, and dash knows those with one digit only."""
MOUNTS = Path("/proc/self/mountinfo")


class Workplace(NamedTuple):
    """A folder to unpack in.

    Attributes:
        folder: the folder; others may write to it, as to any folder for temporary files, since
            mmdebstrap is somebody else in a user namespace.
        handle: the descriptor that has the lock: whoever inherits it keeps it.
    """

    folder: Path
    handle: int


@contextlib.contextmanager
def open_workplace(place: Path) -> Iterator[Workplace]:
    """Make a folder in another one, and remove it; those that were left there go first.

    Raises:
        OSError: it can't be made.
    """
    sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    handle = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(opened)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder.chmod(0o1777)
        yield Workplace(folder, handle)
    finally:
        os.close(handle)
        remove(folder)


def sweep(place: Path) -> None:
    """Remove what was left behind in a folder; never an error."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            info = folder.lstat()
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and _is_left(folder):
                remove(folder)


def _is_left(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, unless something is mounted there that stays."""
    for mounted in reversed(find_mounts(folder)):
        with contextlib.suppress(HostError):
            run(["umount", mounted], check=False, timeout=TIMEOUT)
    if find_mounts(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and shutil.which("mmdebstrap"):
        # Files of the users that there are in a user namespace are for somebody in there.
        words = ["mmdebstrap", "--unshare-helper", "rm", "-rf", "--one-file-system", "--"]
        with contextlib.suppress(HostError):
            run([*words, os.fspath(folder)], check=False, timeout=TIMEOUT)
        shutil.rmtree(folder, ignore_errors=True)


def find_mounts(folder: Path) -> list[str]:
    """What is mounted below a folder, in the order in which it was (proc(5))."""
    below = os.fspath(folder.resolve()) + "/"
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    places = [line.split()[4] for line in lines]
    decoded = [
        place.encode("latin-1", "surrogateescape").decode("unicode_escape") for place in places
    ]
    return [place for place in decoded if place.startswith(below)]


def in_namespace() -> list[str]:
    """Words before a command of root's, so that what it mounts is nobody else's."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return []
    words = ["unshare", "--mount", "--propagation", "private", "--"]
    try:
        allowed = run([*words, "true"], check=False, timeout=TIMEOUT).code == 0
    except HostError:
        allowed = False
    return words if allowed else []
