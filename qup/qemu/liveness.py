"""Which QEMU process is a machine's, and whether it lives.

A process id alone proves nothing: it is used again after a crash or a reboot, and a QEMU that
died but was not reaped still has one. What does prove it are locks, which the kernel drops
when their holder ends, zombie or not: the flock on ``alive.lock`` that QEMU inherits from qup,
and the POSIX lock QEMU itself takes on its ``-pidfile`` (``util/oslib-posix.c``). Nothing is
signalled before its command line was seen to carry the machine's UUID.

``qup status`` imports this module: nothing slow is imported here.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import time
from itertools import pairwise
from pathlib import Path

from qup.errors import MachineError, StateError

_POLL = 0.02
_PATIENCE = 1.0
_LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""How to open what may be a fifo in somebody else's project: without waiting for a writer."""

# struct flock (fcntl(2), <sys/fcntl.h>): Linux has type and whence first, the BSDs last.
_LOCK_FIRST = struct.Struct("hhqqi4x")
_LOCK_LAST = struct.Struct("qqihh")


def holder(pidfile: Path) -> int | None:
    """The process that holds QEMU's lock on its pidfile.

    None when there is no file or no lock on it: then no QEMU runs with it. None as well when
    the holder lives in another PID namespace, where its number would mean nothing.
    """
    try:
        fd = os.open(pidfile, _LOOK)
    except OSError:
        return None
    try:
        pid = _lock_holder(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return pid if pid > 0 else None


def _lock_holder(fd: int) -> int:
    if sys.platform == "linux":
        asked = _LOCK_FIRST.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _LOCK_FIRST.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    else:
        asked = _LOCK_LAST.pack(0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
        _, _, pid, kind, _ = _LOCK_LAST.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the exclusive lock that :func:`open_alive_lock` takes.

    The file is neither made nor changed. The look itself is a shared lock for a moment.
    """
    try:
        fd = os.open(path, _LOOK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def wait_unlocked(path: Path, timeout: float) -> bool:
    """Wait until nobody holds that lock any more; whether it came so in time.

    A process that ends has neither a command line nor a pidfile for a moment, and holds its
    locks still.
    """
    deadline = time.monotonic() + timeout
    while is_locked(path):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def open_alive_lock(path: Path) -> int:
    """Make the file if need be, lock it, and return its descriptor.

    Give it to QEMU with ``pass_fds`` and close it: the lock lives as long as QEMU does.

    Raises:
        StateError: somebody holds it: the machine runs. Or it can't be made.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise StateError(f"can't open the lock {path}: {exc.strerror}") from exc
    deadline = time.monotonic() + _PATIENCE  # is_locked() elsewhere holds it for a moment
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise StateError(f"the machine runs: {path} is locked") from None
            time.sleep(_POLL)
        except BaseException:
            os.close(fd)
            raise
        else:
            return fd


def is_machine(pid: int, uuid: str) -> bool:
    """Whether a live process is a QEMU that was started with ``-uuid <uuid>``.

    A zombie has no command line any more, so it is none. Where there is no ``/proc`` the
    answer comes from ``ps``.
    """
    return _names_uuid(_command_line(pid), uuid)


def find_by_uuid(uuid: str) -> int | None:
    """Look through all processes for a machine's QEMU: the last resort, when its folder is gone.

    Linux only; None anywhere else.
    """
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return None
    return next((pid for pid in pids if is_machine(pid, uuid)), None)


def _names_uuid(command_line: list[bytes], uuid: str) -> bool:
    wanted = uuid.encode()
    return any(
        option in (b"-uuid", b"--uuid") and value == wanted
        for option, value in pairwise(command_line)
    )


def _command_line(pid: int) -> list[bytes]:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return []
    else:
        from qup.process import run

        return run(["ps", "-o", "command=", "-p", str(pid)], check=False).stdout.encode().split()


def signal_process(pid: int, uuid: str, number: signal.Signals) -> bool:
    """Send a signal to a machine's QEMU, and to no other process.

    On Linux there is no race: the process is pinned by a pidfd (``pidfd_open(2)``) first,
    looked at next, and signalled through the pidfd.

    Returns:
        Whether it was sent; False when the process is gone or is another one.

    Raises:
        MachineError: it belongs to another user.
    """
    try:
        if sys.platform == "linux":
            pidfd = os.pidfd_open(pid)
            try:
                if not is_machine(pid, uuid):
                    return False
                signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)
        else:
            if not is_machine(pid, uuid):
                return False
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError as exc:
        raise MachineError(f"QEMU's process {pid} belongs to another user") from exc
    return True


def wait_gone(pid: int, timeout: float) -> bool:
    """Wait until a process has ended; a zombie has.

    Args:
        pid: any process, child or not.
        timeout: seconds; 0 only looks.

    Returns:
        Whether it has ended.
    """
    if sys.platform == "linux":
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            return bool(poller.poll(timeout * 1000))
        finally:
            os.close(pidfd)
    else:
        deadline = time.monotonic() + timeout
        while _exists(pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
