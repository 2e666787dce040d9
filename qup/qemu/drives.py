"""From the disks of a plan to QEMU's block nodes and devices. Pure.

Every node names its driver, and the file below it is always a ``file``: QEMU never guesses a
format, and no name is ever taken for a protocol.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from qup.errors import HostError
from qup.model.drives import CACHE_MODES, CDROM, IDE, ide_places
from qup.model.plan import Disk


class Drive(NamedTuple):
    """A disk as QEMU takes it.

    Attributes:
        disk: the plan's disk.
        node: the value of ``-blockdev``.
        driver: the device.
        properties: the device's properties.
    """

    disk: Disk
    node: str
    driver: str
    properties: dict[str, str]


def describe_drives(
    disks: Sequence[Disk], machine_type: str, files: Mapping[str, Path]
) -> Iterator[Drive]:
    """Each disk as QEMU takes it, in the order in which the guest finds them.

    Args:
        disks: the plan's, with no more IDE drives than the machine type has places for.
        machine_type: QEMU's name for it.
        files: where each disk's file is, by role.

    Raises:
        HostError: a path isn't UTF-8, which QEMU's JSON can't express.
    """
    places = iter(ide_places(machine_type))
    for disk in disks:
        properties = {"drive": disk.role, "serial": disk.serial}
        driver = "virtio-blk-pci"
        if disk.bus == IDE:
            driver = "ide-cd" if disk.media == CDROM else "ide-hd"
            place = next(places)
            properties = {"bus": place.bus, **properties}
            if place.unit is not None:
                properties["unit"] = place.unit
        if disk.cache is not None and disk.media != CDROM:
            writeback = CACHE_MODES[disk.cache].writeback
            properties["write-cache"] = "on" if writeback else "off"
        if disk.boot is not None:
            properties["bootindex"] = str(disk.boot)
        yield Drive(disk, block_node(disk, files[disk.role]), driver, properties)


def block_node(disk: Disk, path: Path) -> str:
    """The value of ``-blockdev`` for a disk and the file below it.

    Raises:
        HostError: the path isn't UTF-8.
    """
    both: dict[str, Any] = {} if disk.read_only else {"discard": "unmap"}
    if disk.cache is not None:
        mode = CACHE_MODES[disk.cache]
        # Said of both nodes: each has options of its own once they are written out.
        both["cache"] = {"direct": mode.direct, "no-flush": mode.no_flush}
    return file_node(
        disk.role,
        disk.format,
        path,
        read_only=disk.read_only,
        both=both,
        node={} if disk.read_only else {"detect-zeroes": "unmap"},
        file={"aio": disk.io} if disk.io else {},
    )


def file_node(
    name: str,
    format: str,
    path: Path,
    *,
    read_only: bool,
    both: Mapping[str, Any] = MappingProxyType({}),
    node: Mapping[str, Any] = MappingProxyType({}),
    file: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The value of ``-blockdev`` for an image of a known format in a regular file.

    Args:
        name: the node's name.
        format: ``raw`` or ``qcow2``.
        path: the image.
        read_only: QEMU opens it for reading only.
        both: options of the image's node and the file's.
        node: options of the image's node.
        file: options of the file's.

    Raises:
        HostError: the path isn't UTF-8, which QEMU's JSON can't express.
    """
    both = {"read-only": True, **both} if read_only else both
    below = {"driver": "file", "filename": os.fspath(path), **file, **both}
    text = json.dumps(
        {"node-name": name, "driver": format, **node, **both, "file": below}, ensure_ascii=False
    )
    if any("\udc80" <= char <= "\udcff" for char in text):
        raise HostError(
            f"QEMU can't open a disk whose path is not UTF-8: {os.fsencode(path)!r}",
            hint="move the project to a folder with a plainer name",
        )
    return text
