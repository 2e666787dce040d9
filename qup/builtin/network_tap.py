"""The network mode ``tap``: an interface of the host is the other end of the guest's cable.

An interface that is there is attached to and left as it is. One that isn't is made by qup where
it may, and is gone when QEMU ends.
"""

from __future__ import annotations

import ipaddress
import pwd
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import (
    Host,
    Interface,
    NetworkMode,
    NicPlan,
    NicRequest,
    Problem,
    Tap,
    TapFacts,
    find_holder,
    hookimpl,
    is_own_address,
    may_administrate,
    read_interface,
)
from qup.builtin.taps import (
    find_common_problems,
    find_device_problems,
    find_route,
    make_command,
    plan_tap,
    user_name,
)

if TYPE_CHECKING:
    from qup.api import Settings


class TapNetwork:
    """A tap of the host's."""

    name = "tap"
    summary = "an interface of this computer (tap0); the guest has an address of its own"

    @property
    def options(self) -> type[Settings]:
        from qup.builtin.tap_options import TapOptions

        return TapOptions

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:
        """Look whether the interface is there and free, or may be made."""
        found = list(find_common_problems(host, options.address))
        if host.system == "linux":
            found += find_device_problems()
            interface = read_interface(options.interface)
            if interface is None:
                found += _find_making_problems(options)
            else:
                found += _find_problems(interface, options)
        return found

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        tap = Tap(options.interface, options.bridge, options.host_address)
        return plan_tap(tap, options, nic)


@hookimpl
def qup_network_modes() -> Iterable[NetworkMode]:
    return [TapNetwork()]


def _find_making_problems(options: Any) -> Iterator[Problem]:
    """Why the interface, which isn't there, can't be made."""
    name, bridge = options.interface, options.bridge
    if not may_administrate():
        commands = [f"ip tuntap add dev {name} mode tap user {user_name()}"]
        if bridge:
            commands.append(f"ip link set {name} master {bridge}")
        if options.host_address:
            commands.append(f"ip address add {options.host_address} dev {name}")
        yield Problem(
            f"there is no interface {name}, and to make one takes root or CAP_NET_ADMIN",
            make_command(*commands, f"ip link set {name} up"),
        )
    if bridge is not None:
        yield from find_bridge_problems(bridge)
    if options.host_address is not None:
        network = ipaddress.IPv4Interface(options.host_address).network
        if taken := find_route(network, ignore=name):
            yield Problem(
                f"network.host-address = {options.host_address}: {network} is behind {taken}",
                "take another private network; 'ip route' shows those that are in use",
            )


def find_bridge_problems(name: str) -> Iterator[Problem]:
    """Why a tap can't be put on a bridge."""
    bridge = read_interface(name)
    if bridge is None:
        yield Problem(
            f"there is no bridge {name}",
            make_command(f"ip link add {name} type bridge", f"ip link set {name} up"),
        )
    elif not bridge.is_bridge:
        yield Problem(
            f"{name} is an interface, but no bridge of the kernel's",
            f"'ip -d link show {name}' says what it is; 'ip link show type bridge' lists bridges."
            ' For one of Open vSwitch, make a tap on it and use network.mode = "tap"',
        )
    elif not bridge.up:
        yield Problem(f"bridge {name} is switched off", make_command(f"ip link set {name} up"))


def _find_problems(interface: Interface, options: Any) -> Iterator[Problem]:
    """Why the interface, which is there, can't be used."""
    name, tap = interface.name, interface.tap
    if tap is None:
        yield Problem(
            f"{name} is an interface, but no tap",
            f"take another network.interface; 'ip -d link show {name}' says what it is",
        )
    elif tap.busy and not tap.multi_queue:
        yield _explain_busy(name)
    elif not tap.is_open_to_me():
        yield _explain_owner(name, tap)
    else:
        yield from _find_differences(interface, options)


def _explain_busy(name: str) -> Problem:
    pid = find_holder(name)
    who = "another program"
    if pid is not None:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8")
            who = f"process {pid} ({command.strip()})"
    return Problem(
        f"the interface {name} is in use by {who}",
        "'qup list' shows your machines; stop the other one, or take another network.interface",
        pid=pid,
    )


def _explain_owner(name: str, tap: TapFacts) -> Problem:
    owner = f"group {tap.group}"
    if tap.owner is not None:
        owner = f"uid {tap.owner}"
        with suppress(KeyError):
            owner = f"user {pwd.getpwuid(tap.owner).pw_name}"
    return Problem(
        f"the interface {name} is not yours: it is for {owner}",
        make_command(
            f"ip tuntap del dev {name} mode tap",
            f"ip tuntap add dev {name} mode tap user {user_name()}",
            f"ip link set {name} up",
        ),
    )


def _find_differences(interface: Interface, options: Any) -> Iterator[Problem]:
    """How an interface that qup did not make, and so doesn't change, is not as it should be."""
    name = interface.name
    if not interface.up:
        yield Problem(f"{name} is switched off", make_command(f"ip link set {name} up"))
    if options.bridge is not None and interface.bridge != options.bridge:
        yield from find_bridge_problems(options.bridge)
        yield Problem(
            f"{name} is there already, and not on bridge {options.bridge}",
            make_command(f"ip link set {name} master {options.bridge}"),
        )
    if options.host_address and not is_own_address(options.host_address.partition("/")[0]):
        yield Problem(
            f"{name} is there already, and {options.host_address} is not on it",
            make_command(f"ip address add {options.host_address} dev {name}"),
        )
