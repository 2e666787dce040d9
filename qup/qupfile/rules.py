"""What no single value can be blamed for: rules over all machines, and what needs trust."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from qup.model.config import Config
from qup.model.network import Forward
from qup.model.units import shorten
from qup.qupfile.layers import Stack
from qup.qupfile.problems import Collector

ANY_ADDRESS = "0.0.0.0"  # noqa: S104  compared with, never bound to

TRUSTED_PROGRAM = re.compile(r"qemu-system-[a-z0-9_]+", re.ASCII)
"""A QEMU that is found on PATH: what it runs was installed by the user."""


class Untrusted(NamedTuple):
    """Something in a Qupfile that could run code on the host."""

    machine: str
    key: str
    description: str


def find_untrusted(config: Config) -> list[Untrusted]:
    """What the user has to trust before it is used.

    Only values of the Qupfile count: the environment and the command line are the user's own
    words.
    """
    found = []
    for name, machine in config.machines.items():
        qemu = machine.settings.qemu
        if qemu.args:
            words = " ".join(map(shorten, qemu.args[:8])) + (" …" if len(qemu.args) > 8 else "")
            found.append(Untrusted(name, "qemu.args", words))
        if not TRUSTED_PROGRAM.fullmatch(qemu.program):
            found.append(Untrusted(name, "qemu.program", shorten(qemu.program)))
    return [item for item in found if config.origins[item.machine][item.key].layer == "Qupfile"]


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


def check_ports(
    networks: Mapping[str, object], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """No two forwards of a project listen at the same place."""
    taken: dict[tuple[str, int], list[tuple[str, Forward]]] = {}
    for name, index, forward in _forwards(networks):
        others = taken.setdefault((forward.protocol, forward.host), [])
        for owner, other in others:
            if forward.address == other.address or ANY_ADDRESS in (forward.address, other.address):
                problems.add(
                    stacks[name].problem(
                        ("network", "forward", index),
                        f"host port {forward.host}/{forward.protocol} is forwarded twice:"
                        f" {_owners(owner, other, name, forward)}",
                        hint="take another port for one of them, or 0 for any that is free",
                    )
                )
                break
        else:
            others.append((name, forward))


def _owners(owner: str, other: Forward, name: str, forward: Forward) -> str:
    if owner == name:
        return f"by {str(other)!r} and by {str(forward)!r}"
    return f"by machine {owner!r} and by machine {name!r}"


def _forwards(networks: Mapping[str, object]) -> Iterator[tuple[str, int, Forward]]:
    for name, options in networks.items():
        for index, forward in enumerate(getattr(options, "forward", ())):
            if isinstance(forward, Forward) and forward.host:
                yield name, index, forward
