"""What no single value can be blamed for: rules over all machines, and what needs trust."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from qup.model.config import Config, DiskSettings
from qup.model.display import Display, VncAddress, explain_distrust, parse_display
from qup.model.network import ANY_ADDRESS, Forward
from qup.model.units import shorten
from qup.qupfile import explain
from qup.qupfile.folder_rules import leads_out
from qup.qupfile.layers import Stack
from qup.qupfile.problems import Collector
from qup.toml_positions import KeyPath

if TYPE_CHECKING:
    from qup.api import Provisioner

TRUSTED_PROGRAM = re.compile(r"qemu-system-[a-z0-9_]+", re.ASCII)
"""A QEMU that is found on PATH: what it runs was installed by the user."""

_SHOWN = 2000

Nics = Mapping[str, Sequence[tuple[KeyPath, object]]]
"""For each machine the path and the options of its NICs."""


class Untrusted(NamedTuple):
    """Something in a Qupfile that could run code on the host."""

    machine: str
    key: str
    description: str


def find_untrusted(
    config: Config, provisioners: Mapping[str, Provisioner], project: Path
) -> list[Untrusted]:
    """What the user has to trust before it is used.

    Only values of the Qupfile count: the environment and the command line are the user's own
    words.

    Args:
        config: all of it.
        provisioners: they know what their steps could do to this computer.
        project: the Qupfile's folder.
    """
    found = []
    for name, machine in config.machines.items():
        qemu = machine.settings.qemu
        if qemu.args:
            found.append(Untrusted(name, "qemu.args", _show(json.dumps(list(qemu.args)))))
        if not TRUSTED_PROGRAM.fullmatch(qemu.program):
            found.append(Untrusted(name, "qemu.program", _show(json.dumps(qemu.program))))
        if qemu.nographic:
            found.append(Untrusted(name, "qemu.nographic", "true (the guest gets your terminal)"))
        if reason := explain_distrust(parse_display(qemu.display)):
            shown = f"{json.dumps(qemu.display)} ({reason})"
            found.append(Untrusted(name, "qemu.display", _show(shown)))
        for index, disk in enumerate(machine.settings.disks):
            if reason := _reaches_out(disk):
                title = disk.name_at(index)
                text = f"{_show(json.dumps(disk.image))} (disk {title!r}, {reason})"
                found.append(Untrusted(name, "disks", text))
        for folder in machine.settings.folders:
            if leads_out(folder, project):
                text = f"{_show(json.dumps(folder.host))} (a folder outside of the project)"
                found.append(Untrusted(name, "folders", text))
        for number, use in enumerate(machine.provision, 1):
            risk = getattr(provisioners[use.name], "risk", None)
            if risk is not None and (text := risk(use.options, project)):
                found.append(Untrusted(name, "provision", _show(f"step {number} {text}")))
    return [item for item in found if config.origins[item.machine][item.key].layer == "Qupfile"]


def _reaches_out(disk: DiskSettings) -> str | None:
    """Why a disk's image is more than the project's own data; None if it isn't.

    A guest can send what it reads anywhere, and what it writes into a raw file may be the
    host's to run or to read: a script, a configuration.
    """
    if disk.image is None:
        return None
    path = PurePosixPath(posixpath.normpath(disk.image))
    if path.is_absolute() or path.as_posix().startswith(("../", "~")):
        return "a file outside of the project"
    if disk.format == "raw" and not disk.read_only:
        return "a file that the guest fills as it likes"
    return None


def _show(text: str) -> str:
    """All of it, so that nothing hides behind the end; or a word that there is more."""
    rest = len(text) - _SHOWN
    return text if rest <= 0 else f"{text[:_SHOWN]} … ({rest} characters more: read the Qupfile)"


def check_primary(stacks: Mapping[str, Stack], problems: Collector) -> None:
    """At most one machine is the primary one."""
    primary = [name for name, stack in stacks.items() if stack.merged.get("primary") is True]
    for name in primary[1:]:
        problems.add(
            stacks[name].problem(
                ("primary",),
                f"machine {name!r} can't be primary: {primary[0]!r} is",
                hint="set 'primary = true' in the table of one machine only",
            )
        )


def check_order(stacks: Mapping[str, Stack], problems: Collector) -> None:
    """``after`` names machines of this Qupfile, and no machine has to wait for itself."""
    order: dict[str, list[str]] = {}
    for name, stack in stacks.items():
        named = stack.merged.get("after")
        entries = named if isinstance(named, list | tuple) else ()
        for index, other in enumerate(entries):
            if isinstance(other, str) and other not in stacks:
                hint = explain.hint_for_word(other, stacks)
                text = f"there is no machine {shorten(other)}"
                problems.add(stack.problem(("after", index), text, hint=hint))
        order[name] = [other for other in entries if isinstance(other, str) and other in stacks]
    if cycle := _find_cycle(order):
        text = f"these machines wait for each other: {' -> '.join(cycle)}"
        if len(cycle) == 2:
            text = f"machine {cycle[0]!r} can't come after itself"
        problems.add(stacks[cycle[0]].problem(("after",), text))


def _find_cycle(order: Mapping[str, Sequence[str]]) -> list[str]:
    """Names that lead from a machine back to it, or nothing."""
    settled: set[str] = set()
    for start in order:
        path: dict[str, Iterator[str]] = {start: iter(order[start])}
        while path:
            name = next(reversed(path))
            other = next(path[name], None)
            if other is None:
                settled.add(name)
                del path[name]
            elif other in path:
                names = list(path)
                return [*names[names.index(other) :], other]
            elif other not in settled:
                path[other] = iter(order[other])
    return []


def check_ports(nics: Nics, stacks: Mapping[str, Stack], problems: Collector) -> None:
    """No two forwards of a project listen at the same place."""
    taken: dict[tuple[str, int], dict[str, tuple[str, Forward]]] = {}
    for name, path, forward in _forwards(nics):
        listeners = taken.setdefault((forward.protocol, forward.host), {})
        if clash := _find_clash(forward.address, listeners):
            problems.add(
                stacks[name].problem(
                    path,
                    f"host port {forward.host}/{forward.protocol} is forwarded twice:"
                    f" {_owners(*clash, name, forward)}",
                    hint="take another port for one of them, or 0 for any that is free",
                )
            )
        else:
            listeners[forward.address] = (name, forward)


def _find_clash(
    address: str, listeners: Mapping[str, tuple[str, Forward]]
) -> tuple[str, Forward] | None:
    """The one that listens at an address already, or at all of them."""
    if address == ANY_ADDRESS:
        return next(iter(listeners.values()), None)
    return listeners.get(address) or listeners.get(ANY_ADDRESS)


def _owners(owner: str, other: Forward, name: str, forward: Forward) -> str:
    if owner == name:
        return f"by {str(other)!r} and by {str(forward)!r}"
    return f"by machine {owner!r} and by machine {name!r}"


def _forwards(nics: Nics) -> Iterator[tuple[str, KeyPath, Forward]]:
    for name, cards in nics.items():
        for path, options in cards:
            for index, forward in enumerate(getattr(options, "forward", ())):
                if isinstance(forward, Forward) and forward.host:
                    yield name, (*path, "forward", index), forward


def check_displays(
    displays: Mapping[str, str], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """No two machines of a project have their VNC at the same place."""
    taken: list[tuple[str, VncAddress]] = []
    for name, text in displays.items():
        display = parse_display(text)
        address = display.vnc
        if address is None or display.reverse or display.searches:
            continue
        owner = next((owner for owner, other in taken if _meet(address, other)), None)
        if owner is None:
            taken.append((name, address))
            continue
        problems.add(
            stacks[name].problem(
                ("qemu", "display"),
                f"machines {owner!r} and {name!r} have the same place for VNC: {_place(display)}",
                hint='display = "vnc" gives each a socket of its own',
            )
        )


def _meet(one: VncAddress, other: VncAddress) -> bool:
    if one.path or other.path:
        return one.path == other.path
    anywhere = {ANY_ADDRESS, "::"} & {one.host, other.host}
    loopback = {"localhost", "127.0.0.1"}
    same = one.host == other.host or {one.host, other.host} == loopback
    return one.port == other.port and bool(same or anywhere)


def _place(display: Display) -> str:
    return display.target or ""
