"""Taps: the host's end of a guest's cable, opened here and handed to QEMU as a descriptor.

QEMU then needs no right of its own and keeps its whole sandbox. An interface that is there is
attached to. One that isn't is made without ``TUNSETPERSIST``: the kernel removes it with its
last descriptor, so that nothing is left behind however QEMU ends.

Sources: ``Documentation/networking/tuntap.rst``, ``drivers/net/tun.c`` and ``netdevice(7)`` of
Linux; ``qemu-bridge-helper.c`` of QEMU.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from qup.errors import HostError
from qup.interfaces import (
    IFF_MULTI_QUEUE,
    IFF_TAP,
    IFF_UP,
    TUN,
    bridge_of,
    exists,
    find_bridge_helper,
    may_administrate,
    read_interface,
)
from qup.model.network import Tap
from qup.model.state import TapLink
from qup.process import run

IFF_NO_PI, IFF_VNET_HDR = 0x1000, 0x4000
TUNSETIFF, TUNGETIFF = 0x400454CA, 0x800454D2
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
SIOCSIFADDR, SIOCSIFNETMASK = 0x8916, 0x891C
SIOCGIFMTU, SIOCSIFMTU = 0x8921, 0x8922
SIOCSIFHWADDR = 0x8924
SIOCBRADDIF = 0x89A2
ARPHRD_ETHER = 1

_NAME_AND_FLAGS = struct.Struct("16sH22x")
_NAME_AND_NUMBER = struct.Struct("16si20x")
_NAME_AND_ADDRESS = struct.Struct("16sHH4s16x")
_NAME_AND_MAC = struct.Struct("16sH6s16x")

HELPER_TIMEOUT = 10.0


@dataclass(frozen=True)
class OpenTap:
    """An open tap: its descriptor, and what the interface is called and connected to."""

    fd: int
    link: TapLink


@contextlib.contextmanager
def open_tap(tap: Tap, mac: str) -> Iterator[OpenTap]:
    """Open a tap, making it if it isn't there; it is closed again when the body ends.

    Args:
        tap: which.
        mac: the guest's address, from which one that is made gets its own.

    Raises:
        HostError: it can't be had. The preflight of the network mode has the better words.
    """
    if tap.helper and not (exists(tap.interface) or may_administrate()):
        fd = _ask_helper(tap.bridge or "")
    else:
        fd = _open(tap, mac)
    try:
        name = _name_of(fd)
        yield OpenTap(fd, TapLink(name, bridge_of(name)))
    finally:
        os.close(fd)


def _open(tap: Tap, mac: str) -> int:
    made = not exists(tap.interface)
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise HostError(f"can't open {TUN}: {exc.strerror}", hint="'modprobe tun'") from exc
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        found = read_interface(tap.interface)
        if found is not None and found.tap is not None and found.tap.multi_queue:
            flags |= IFF_MULTI_QUEUE
        fcntl.ioctl(fd, TUNSETIFF, _NAME_AND_FLAGS.pack(tap.interface.encode(), flags))
        if made:
            _set_up(tap, mac)
    except OSError as exc:
        os.close(fd)
        raise _explain(tap, exc, made=made) from exc
    return fd


def _explain(tap: Tap, exc: OSError, *, made: bool) -> HostError:
    match exc.errno:
        case errno.EBUSY:
            text = "is in use"
            hint = "another machine has it: stop that, or take another 'interface'"
        case errno.EPERM:
            text = "may not be made by you" if made else "belongs to somebody else"
            hint = f"'sudo ip tuntap add dev {tap.interface} mode tap user $USER' makes one for you"
        case _:
            text, hint = f"can't be used: {exc.strerror}", f"'ip -d link show {tap.interface}'"
    return HostError(f"the interface {tap.interface} {text}", hint=hint)


def _set_up(tap: Tap, mac: str) -> None:
    """Give an interface that was just made its address, its bridge, and switch it on."""
    name = tap.interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        # A bridge takes the lowest address of its ports for its own: fe is out of the question.
        own = bytes([0xFE, *bytes.fromhex(mac.replace(":", ""))[1:]])
        fcntl.ioctl(control, SIOCSIFHWADDR, _NAME_AND_MAC.pack(name, ARPHRD_ETHER, own))
        if tap.bridge is not None:
            _join(control, tap.interface, tap.bridge)
        if tap.host_address is not None:
            address = ipaddress.IPv4Interface(tap.host_address)
            for request, value in (
                (SIOCSIFADDR, address.ip.packed),
                (SIOCSIFNETMASK, address.netmask.packed),
            ):
                fcntl.ioctl(control, request, _NAME_AND_ADDRESS.pack(name, 2, 0, value))
        flags = _NAME_AND_FLAGS.unpack(fcntl.ioctl(control, SIOCGIFFLAGS, _flags(name, 0)))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, _flags(name, flags | IFF_UP))


def _flags(name: bytes, flags: int) -> bytes:
    return _NAME_AND_FLAGS.pack(name, flags)


def _join(control: socket.socket, interface: str, bridge: str) -> None:
    """Put an interface on a bridge, with the bridge's MTU: a smaller one would shrink that."""
    index = socket.if_nametoindex(interface)
    mtu = fcntl.ioctl(control, SIOCGIFMTU, _NAME_AND_NUMBER.pack(bridge.encode(), 0))
    number = _NAME_AND_NUMBER.unpack(mtu)[1]
    fcntl.ioctl(control, SIOCSIFMTU, _NAME_AND_NUMBER.pack(interface.encode(), number))
    fcntl.ioctl(control, SIOCBRADDIF, _NAME_AND_NUMBER.pack(bridge.encode(), index))


def _name_of(fd: int) -> str:
    name: bytes = _NAME_AND_FLAGS.unpack(fcntl.ioctl(fd, TUNGETIFF, _flags(b"", 0)))[0]
    return name.rstrip(b"\0").decode()


def _ask_helper(bridge: str) -> int:
    """Have qemu-bridge-helper make a tap on a bridge; it sends the descriptor (``unix(7)``)."""
    helper = find_bridge_helper()
    if helper is None:
        raise HostError("qemu-bridge-helper was not found", hint="it comes with QEMU's packages")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        words = [str(helper), "--use-vnet", f"--fd={theirs.fileno()}", f"--br={bridge}"]
        run(words, timeout=HELPER_TIMEOUT, pass_fds=[theirs.fileno()])
        ours.settimeout(HELPER_TIMEOUT)
        size = array.array("i").itemsize
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(size))
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(data) >= size:
            fd = array.array("i", data[:size])[0]
            os.set_inheritable(fd, False)
            return fd
    raise HostError(f"{helper} sent no descriptor for bridge {bridge}")
