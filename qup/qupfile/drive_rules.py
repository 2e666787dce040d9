"""Rules over the drives of the machines: what excludes what, and who may share."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from qup.model.config import DiskSettings, MachineSettings, QemuSettings
from qup.model.drives import DIRECT_MODES
from qup.qupfile.layers import Stack
from qup.qupfile.problems import Collector
from qup.toml_positions import KeyPath

NATIVE = "native"


def check_drives(
    machines: Mapping[str, object], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """Contradictions of cache and io, names given twice, images that two would write to."""
    known = {name: item for name, item in machines.items() if isinstance(item, MachineSettings)}
    for name, settings in known.items():
        _check_modes(settings.qemu, ("qemu",), stacks[name], problems)
        for index, disk in enumerate(settings.disks):
            _check_modes(disk, ("disks", index), stacks[name], problems)
        _check_names(settings.disks, stacks[name], problems)
    _check_sharing(known, stacks, problems)


def _check_modes(
    item: QemuSettings | DiskSettings, path: KeyPath, stack: Stack, problems: Collector
) -> None:
    if item.io == NATIVE and item.cache not in DIRECT_MODES:
        wanted = " or ".join(f'cache = "{mode}"' for mode in DIRECT_MODES)
        problems.add(
            stack.problem(
                (*path, "io"),
                f'io = "native" needs {wanted}, and the cache is {item.cache!r}',
                hint='the host\'s kernel does it only past its page cache; "io_uring" needs none'
                " of that",
            )
        )


def _check_names(disks: tuple[DiskSettings, ...], stack: Stack, problems: Collector) -> None:
    taken: set[str] = set()
    for index, disk in enumerate(disks):
        name = disk.name_at(index)
        if name in taken:
            key = "name" if disk.name else "image" if disk.image else "size"
            message = f"two disks are called {name!r}"
            problems.add(stack.problem(("disks", index, key), message, hint="give each a name"))
        taken.add(name)


class _Use(NamedTuple):
    machine: str
    place: int
    disk: DiskSettings


def _check_sharing(
    machines: Mapping[str, MachineSettings], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """No image has two users of which one writes: QEMU would refuse the second one's start."""
    users: dict[str, list[_Use]] = {}
    for use in _images(machines):
        assert use.disk.image is not None
        others = users.setdefault(os.path.normpath(use.disk.image), [])
        for other in others:
            if use.disk.read_only and other.disk.read_only:
                continue
            same = other.machine == use.machine
            whom = "this machine has it" if same else f"machine {other.machine!r} uses it"
            problems.add(
                stacks[use.machine].problem(
                    ("disks", use.place, "image"),
                    f"two disks can't be one image that is written to: {whom} as"
                    f" {other.disk.name_at(other.place)!r}",
                    hint="'read-only = true' for all of them, or a copy for each",
                )
            )
            break
        others.append(use)


def _images(machines: Mapping[str, MachineSettings]) -> Iterator[_Use]:
    for name, settings in machines.items():
        for index, disk in enumerate(settings.disks):
            if disk.image is not None:
                yield _Use(name, index, disk)
