"""Facts about this computer's network interfaces, read without changing anything. Linux only.

Sources: ``Documentation/ABI/testing/sysfs-class-net`` and ``drivers/net/tun.c`` of Linux.
``qup status`` imports this module: nothing slow is imported here.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import NamedTuple

CLASS = Path("/sys/class/net")
TUN = Path("/dev/net/tun")

IFF_UP = 0x1
IFF_TAP, IFF_MULTI_QUEUE, IFF_PERSIST = 0x0002, 0x0100, 0x0800
CAP_NET_ADMIN = 12

HELPERS = (
    Path("/usr/lib/qemu/qemu-bridge-helper"),
    Path("/usr/libexec/qemu-bridge-helper"),
    Path("/usr/libexec/qemu/qemu-bridge-helper"),
    Path("/usr/local/libexec/qemu-bridge-helper"),
)
"""Where distributions and QEMU's own ``make install`` put it; nobody has it on PATH."""


class TapFacts(NamedTuple):
    """What is special about an interface that is a tap.

    Attributes:
        persistent: it stays when nobody has it open.
        multi_queue: it wants to be opened as one of several queues.
        owner: the user who may open it, or None.
        group: the group that may open it, or None.
        busy: somebody has it open; with several queues there may be room for more.
    """

    persistent: bool
    multi_queue: bool
    owner: int | None
    group: int | None
    busy: bool

    def is_open_to_me(self) -> bool:
        """Whether this process may attach to it (``tun_not_capable`` in the kernel)."""
        if may_administrate():
            return True
        mine = self.owner is None or self.owner == os.geteuid()
        groups = {os.getegid(), *os.getgroups()}
        return mine and (self.group is None or self.group in groups)


class Interface(NamedTuple):
    """A network interface.

    Attributes:
        name: its name.
        up: it is switched on.
        is_bridge: it is a bridge of the kernel's own.
        bridge: the bridge that it is on.
        tap: set if it is a tap.
    """

    name: str
    up: bool
    is_bridge: bool
    bridge: str | None
    tap: TapFacts | None


def read_interface(name: str) -> Interface | None:
    """Look at an interface; None when there is none of that name."""
    if not exists(name):
        return None
    folder = CLASS / name
    return Interface(
        name,
        up=bool(_number(folder / "flags", 16) & IFF_UP),
        is_bridge=(folder / "bridge").is_dir(),
        bridge=bridge_of(name),
        tap=_read_tap(folder),
    )


def exists(name: str) -> bool:
    """Whether there is an interface of that name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def bridge_of(name: str) -> str | None:
    """The bridge (or another master) that an interface is on."""
    try:
        return Path(os.readlink(CLASS / name / "master")).name
    except OSError:
        return None


def _read_tap(folder: Path) -> TapFacts | None:
    flags = _number(folder / "tun_flags", 16)
    if not flags & IFF_TAP:
        return None
    owner, group = _number(folder / "owner"), _number(folder / "group")
    return TapFacts(
        persistent=bool(flags & IFF_PERSIST),
        multi_queue=bool(flags & IFF_MULTI_QUEUE),
        owner=owner if owner >= 0 else None,
        group=group if group >= 0 else None,
        busy=_number(folder / "carrier") == 1 or find_holder(folder.name) is not None,
    )


def _number(path: Path, base: int = 10) -> int:
    try:
        return int(path.read_text(), base)
    except (OSError, ValueError):  # a carrier of what is switched off can't be read
        return 0


def find_holder(name: str) -> int | None:
    """The process that has a tap open, among those that this user may look at.

    The kernel tells by ``iff:`` in ``/proc/PID/fdinfo/FD``. Another network namespace may have
    a tap of the same name, which is none of ours.
    """
    mark = f"iff:\t{name}\n"
    here = os.readlink("/proc/self/ns/net")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "ns" / "net") != here:
                continue
            for fd in os.listdir(process / "fd"):
                if os.readlink(process / "fd" / fd) != os.fspath(TUN):
                    continue
                if mark in (process / "fdinfo" / fd).read_text():
                    return int(process.name)
    return None


def may_administrate() -> bool:
    """Whether this process has ``CAP_NET_ADMIN`` (``capabilities(7)``)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False


def is_own_address(address: str) -> bool:
    """Whether an IPv4 address is one of this computer's: then the kernel would reach it from
    itself. Nothing is sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
        return str(probe.getsockname()[0]) == address


def find_bridge_helper() -> Path | None:
    """QEMU's setuid program that makes taps on bridges."""
    return next((path for path in HELPERS if path.is_file()), None)
