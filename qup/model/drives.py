"""What is known about drives: caches, ways of input and output, and where IDE drives go."""

from __future__ import annotations

from typing import NamedTuple

VIRTIO, IDE = "virtio", "ide"
DISK, CDROM = "disk", "cdrom"

FURTHER = "disk-"
"""What the role of a disk of ``[[machine.disks]]`` begins with; its name follows."""


class CacheMode(NamedTuple):
    """A cache mode in the terms of ``-blockdev`` (``qemu(1)``, "cache=cache").

    Attributes:
        writeback: the guest sees a write cache, and flushes it itself.
        direct: the host's page cache is passed by (``O_DIRECT``).
        no_flush: the guest's flushes are ignored: a crash of the host may cost everything.
    """

    writeback: bool
    direct: bool
    no_flush: bool = False


CACHE_MODES = {
    "none": CacheMode(writeback=True, direct=True),
    "writethrough": CacheMode(writeback=False, direct=False),
    "writeback": CacheMode(writeback=True, direct=False),
    "directsync": CacheMode(writeback=False, direct=True),
    "unsafe": CacheMode(writeback=True, direct=False, no_flush=True),
}
DIRECT_MODES = tuple(name for name, mode in CACHE_MODES.items() if mode.direct)

IO_MODES = ("threads", "native", "io_uring")

DEFAULT = "default"
"""As a cache or io mode: QEMU's own choice."""


class IdePlace(NamedTuple):
    """Where an IDE drive is attached: a bus of the machine, and the unit on it if it has two."""

    bus: str
    unit: str | None = None


def is_sata(machine_type: str) -> bool:
    """Whether the machine's own controller is SATA (AHCI) instead of parallel IDE."""
    return "q35" in machine_type


def ide_places(machine_type: str) -> tuple[IdePlace, ...]:
    """The places for IDE drives that a machine type has, in order; none for most.

    Args:
        machine_type: QEMU's name, with its version or without.
    """
    if is_sata(machine_type):  # ich9-ahci: six ports
        return tuple(IdePlace(f"ide.{port}") for port in range(6))
    if machine_type == "pc" or machine_type.startswith("pc-"):  # piix3-ide: two buses of two
        return tuple(IdePlace(f"ide.{bus}", str(unit)) for bus in (0, 1) for unit in (0, 1))
    return ()
