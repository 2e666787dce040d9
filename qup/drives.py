"""From what was asked to the disks of a plan. Pure, a part of the planner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from qup.errors import ConfigError
from qup.model.box import BoxSpec
from qup.model.drives import CDROM, DEFAULT, FURTHER, IDE, ide_places, is_sata
from qup.model.plan import Disk
from qup.model.seed import SeedForm

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

DISK_SERIAL = "qup-disk"
SEED_SERIAL = "qup-seed"
ISO_SERIAL = "qup-iso"


def plan_disks(
    config: MachineConfig,
    box: BoxSpec,
    machine_type: str,
    formats: Mapping[str, str],
    seed: SeedForm,
) -> tuple[Disk, ...]:
    """The machine's disks in the order in which the guest finds them.

    On virtio the first is ``/dev/vda``: the box's CD if it boots from one (or the disk, if that
    is where its guest looks for one), then the machine's disk, the seed's CD if there is one, and
    further disks.

    Args:
        config: what was asked.
        box: the machine's box.
        machine_type: QEMU's name for it.
        formats: the formats of the further disks' images, by the disk's name.
        seed: how the seed reaches the guest.

    Raises:
        ConfigError: the machine type has no IDE drives, or too few, or the box no driver.
    """
    disks = (*_own_disks(config, box, seed), *_further_disks(config, formats))
    if config.settings.qemu.virtio_drives:
        return disks
    _check_ide(config, box, machine_type, len(disks))
    return tuple(_as_ide(disk) for disk in disks)


def _own_disks(config: MachineConfig, box: BoxSpec, seed: SeedForm) -> Iterator[Disk]:
    settings = config.settings
    disk = Disk(
        "disk",
        DISK_SERIAL,
        "qcow2",
        size=settings.disk,
        cache=_given(settings.qemu.cache),
        io=_given(settings.qemu.io),
        boot=None if box.kernel or box.iso else 1,
    )
    if box.iso:
        iso = Disk("iso", ISO_SERIAL, "raw", read_only=True, media=CDROM, boot=1)
        yield from (disk, iso) if box.disk_first else (iso, disk)
    else:
        yield disk
    if seed.label is not None:
        yield Disk("seed", SEED_SERIAL, "raw", read_only=True, media=CDROM)


def _further_disks(config: MachineConfig, formats: Mapping[str, str]) -> Iterator[Disk]:
    for index, disk in enumerate(config.settings.disks):
        name = disk.name_at(index)
        yield Disk(
            role=FURTHER + name,
            serial=name,
            format=formats.get(name, "qcow2"),
            size=disk.size,
            read_only=disk.read_only,
            cache=_given(disk.cache),
            io=_given(disk.io),
            image=disk.image,
        )


def _as_ide(disk: Disk) -> Disk:
    """The same as an IDE drive: what can't be written to is a CD, as IDE has no other word."""
    return replace(disk, bus=IDE, media=CDROM if disk.read_only else disk.media)


def _given(mode: str) -> str | None:
    return None if mode == DEFAULT else mode


def _check_ide(config: MachineConfig, box: BoxSpec, machine_type: str, count: int) -> None:
    places = len(ide_places(machine_type))
    text = f"machine {config.name}: qemu.virtio-drives = false"
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
    if box.kernel and kind == IDE and config.settings.qemu.firmware != "bios":
        # It turns a channel on when it looks for something to boot there. With a kernel from
        # elsewhere it doesn't look, and the kernel's driver takes the channels for unused.
        raise ConfigError(
            f"{text}, but UEFI firmware that starts the kernel of a box leaves the IDE drives of"
            f" {machine_type} turned off",
            hint="leave one of qemu.firmware and virtio-drives out",
        )
