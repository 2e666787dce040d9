"""The cable between a running machine and this computer: whether it is still plugged in.

``qup status`` imports this module: nothing slow is imported here.
"""

from __future__ import annotations

import errno
import socket

from qup.interfaces import bridge_of, exists
from qup.model.state import Launch

PATIENCE = 1.0
"""Seconds that a guest may take to answer a connection; its kernel does, whatever sshd is at."""


def find_trouble(launch: Launch) -> str | None:
    """What is wrong with this computer's end of the cables, and what to do about it."""
    for tap in launch.taps:
        if not exists(tap.interface):
            return f"there is no interface {tap.interface} here any more; 'qup reload' mends it"
        if tap.bridge is None:
            continue
        join = f"'sudo ip link set {tap.interface} master {tap.bridge}' connects the machine again"
        if not exists(tap.bridge):
            return f"the bridge {tap.bridge} is gone; make it anew, and {join}"
        if bridge_of(tap.interface) != tap.bridge:
            return f"{tap.interface} is not on the bridge {tap.bridge} any more; {join}"
    return None


def find_silence(launch: Launch) -> str | None:
    """Why ssh would not get through to a guest with an address of its own."""
    if launch.ssh_source is None or launch.ssh_address is None or launch.ssh_port is None:
        return None
    try:
        socket.create_connection((launch.ssh_address, launch.ssh_port), PATIENCE).close()
    except OSError as exc:
        if exc.errno == errno.ECONNREFUSED:
            return f"{launch.ssh_address} refuses connections: no sshd runs there"
        return (
            f"{launch.ssh_address} does not answer: the guest's network is down, or it has another"
            " address now"
        )
    return None
