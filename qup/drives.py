"""From what was asked to the disks of a plan. Pure, a part of the planner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from qup.errors import ConfigError
from qup.model.box import BoxSpec
from qup.model.drives import CDROM, DEFAULT, IDE, VIRTIO, ide_places, is_sata
from qup.model.plan import Disk

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

DISK_SERIAL = "qup-disk"
SEED_SERIAL = "qup-seed"
ISO_SERIAL = "qup-iso"


def plan_disks(config: MachineConfig, box: BoxSpec, machine_type: str) -> tuple[Disk, ...]:
    """The machine's disks in the order in which the guest finds them.

    On virtio the first is ``/dev/vda``: the box's CD if it boots from one, then the machine's
    disk, the seed, and further disks.

    Raises:
        ConfigError: the machine type has no IDE drives, or too few, or the box no driver.
    """
    bus = VIRTIO if config.settings.qemu.virtio_drives else IDE
    disks = tuple(replace(disk, bus=bus) for disk in _disks(config, box))
    if bus == IDE:
        _check_ide(config.name, box, machine_type, len(disks))
    return disks


def _disks(config: MachineConfig, box: BoxSpec) -> Iterator[Disk]:
    settings = config.settings
    if box.iso:
        yield Disk("iso", ISO_SERIAL, "raw", read_only=True, media=CDROM, boot=1)
    yield Disk(
        "disk",
        DISK_SERIAL,
        "qcow2",
        size=settings.disk,
        cache=_given(settings.qemu.cache),
        io=_given(settings.qemu.io),
        boot=None if box.kernel or box.iso else 1,
    )
    yield Disk("seed", SEED_SERIAL, "raw", read_only=True, media=CDROM)


def _given(mode: str) -> str | None:
    return None if mode == DEFAULT else mode


def _check_ide(machine: str, box: BoxSpec, machine_type: str, count: int) -> None:
    places = len(ide_places(machine_type))
    text = f"machine {machine}: qemu.virtio-drives = false"
    if not places:
        raise ConfigError(
            f"{text}, but the machine type {machine_type} has no IDE drives",
            hint='leave virtio-drives out, or use qemu.machine = "q35" or "pc"',
        )
    if count > places:
        raise ConfigError(
            f"{text} leaves room for {places} drives on {machine_type}, and there are {count}",
            hint="virtio drives have no such limit",
        )
    kind = "sata" if is_sata(machine_type) else "ide"
    if box.buses and kind not in box.buses:
        others = 'qemu.machine = "pc" has drives that it knows, or ' if IDE in box.buses else ""
        raise ConfigError(
            f"{text}, but box {box.name} has no driver for the {kind.upper()} drives of"
            f" {machine_type}",
            hint=f"{others}leave virtio-drives out",
        )
