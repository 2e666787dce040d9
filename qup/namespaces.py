"""A view of this computer for one program: its own mounts, and its own numbers of users.

A program that is started with such a view sees folders at places where nobody else does, without
what is hidden in them, and takes its own user for another one. No privileges are needed, and all
of it is gone when the program is: ``user_namespaces(7)``, ``mount_namespaces(7)``.

Everything here happens in a child between ``fork`` and ``exec``.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE, MS_RELATIME = 4096, 16384, 1 << 19, 1 << 21
"""``<linux/sched.h>`` and ``<linux/mount.h>``"""
ST_RELATIME = 4096
"""``statvfs(3)`` has another number for this one; the others are the same."""
KEPT = 0x40E
"""Flags of a mount that a new user namespace has to leave as they are: no set-uid, no devices,
no programs, no times of access."""
PR_SET_SECUREBITS, SECBIT_NOROOT, SECBIT_NOROOT_LOCKED = 28, 1, 2
"""``capabilities(7)``: a program gets no privilege for being started by user 0."""
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAPABILITIES = 47, 2, 38
"""``capabilities(7)``: these are kept by a program that isn't started by user 0. Linux has had
so many of them since 3.16, and three more since 5.9 that serve nobody here."""
CAPABILITY_VERSION = 0x20080522
"""Of ``capget(2)``: two sets of 32 bits."""
TRIAL_TIMEOUT = 10.0


@dataclass(frozen=True)
class Bind:
    """A folder that is seen at another place.

    Attributes:
        source: the folder.
        place: an empty folder where it is seen.
        hidden: folders in it, seen from it, in whose place there is an empty one.
        read_only: it can't be written to.
    """

    source: Path
    place: Path
    hidden: tuple[Path, ...] = ()
    read_only: bool = False


@dataclass(frozen=True)
class View:
    """What a program is to see.

    Attributes:
        uid: the number that it takes our user's for.
        gid: the same of our group.
        binds: folders at other places.
        privileged: it has all rights over its own view, and none beyond; for one that gives up
            by itself what it doesn't need.
    """

    uid: int
    gid: int
    binds: tuple[Bind, ...] = ()
    privileged: bool = False


def prepare_view(view: View) -> Callable[[], None]:
    """What gives the calling process a view, for good; it raises OSError if that fails.

    It is for a child that is about to become another program, which then has no privilege,
    unless the view says so.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()

    def mount(source: Path | str, place: Path, kind: str, flags: int, data: str = "") -> None:
        words = [os.fsencode(word) for word in (source, place, kind)]
        if libc.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(place))

    def bind(item: Bind) -> None:
        mount(item.source, item.place, "", MS_BIND | MS_REC)
        for path in item.hidden:
            flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
            mount("hidden", item.place / path, "tmpfs", flags, "size=4k,mode=555")
        if item.read_only:
            old = os.statvfs(item.place).f_flag
            flags = old & KEPT | (MS_RELATIME if old & ST_RELATIME else 0)
            mount("", item.place, "", MS_BIND | MS_REMOUNT | MS_RDONLY | flags)

    def enter() -> None:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "a user namespace")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{view.uid} {uid} 1")
        _write("/proc/self/gid_map", f"{view.gid} {gid} 1")
        mount("", Path("/"), "", MS_REC | MS_SLAVE)
        for item in view.binds:
            bind(item)
        if view.privileged:
            _keep_rights(libc)
            return
        # Whoever is root's number in there would keep all rights over it, and unveil things.
        if libc.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "its privileges")

    return enter


def enter_or_explain(view: View) -> Callable[[], None]:
    """As :func:`prepare_view`, for a child whose standard error is a log: it says there what
    failed.
    """
    enter = prepare_view(view)

    def attempt() -> None:
        try:
            enter()
        except OSError as exc:
            os.write(2, f"{exc.filename}: {exc.strerror}\n".encode(errors="surrogateescape"))
            raise

    return attempt


def _keep_rights(libc: ctypes.CDLL) -> None:
    """Have the next program keep the rights over its namespace, whatever number its user has."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the same of the higher
    done = libc.capget(header, sets)
    for low in (0, 3):
        sets[low + 2] = sets[low + 1]
    done = done or libc.capset(header, sets)
    for number in range(CAPABILITIES):
        done = done or libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "its privileges")


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


@cache
def find_obstacle() -> str | None:
    """Why programs can't be given a view of their own here; None if they can. It is tried."""
    if sys.platform != "linux":
        return "only Linux has user namespaces"
    with tempfile.TemporaryDirectory() as name:
        source, place = Path(name, "source"), Path(name, "place")
        (source / "hidden").mkdir(parents=True)
        place.mkdir()
        trial = View(1000, 1000, (Bind(source, place, (Path("hidden"),), read_only=True),))
        enter = prepare_view(trial)

        def attempt() -> None:
            try:
                enter()
            except OSError as exc:
                os.write(1, str(exc.strerror).encode())
                os._exit(1)

        done = subprocess.run(
            ["true"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
            timeout=TRIAL_TIMEOUT, preexec_fn=attempt,
        )  # fmt: skip
    if done.returncode == 0:
        return None
    reason = done.stdout.decode(errors="replace") or "not allowed"
    return f"this computer lets you have no user namespace ({reason})"
