"""Boxes: what a machine boots from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qup.model.seed import NOCLOUD


@dataclass(frozen=True)
class BoxSpec:
    """What is known about a box before any of its files is here.

    Attributes:
        name: the name or reference the Qupfile uses.
        source: the box source that provides it.
        arch: QEMU's word for the guest's processor, such as ``x86_64``.
        version: the source's own version.
        key: what the box is made from, as a short digest; a finished box with the same key
            is used as it is.
        user: the account that qup's key is given to unless the Qupfile names one.
        cmdline: the kernel's command line when the box brings a kernel.
        disk: whether the box has a base disk (``disk.qcow2``).
        kernel: whether it boots by ``kernel`` and ``initrd`` instead of from the disk.
        efi: whether it has ``kernel.efi``, the same kernel as UEFI starts it.
        iso: whether it boots from ``boot.iso``, a CD; the disk then belongs to the guest alone.
        seeder: the guest seeder that it reads, unless the Qupfile names one; empty if that is
            known only when the box is here.
        disk_first: whether the guest looks for its disk in the first drive only, so that the CD
            has to come behind it.
        buses: the drives it has drivers for, of ``virtio``, ``ide`` and ``sata``; empty if
            that isn't known.
        mounts: the types of folders that its kernel can mount, such as ``9p``; None if that
            isn't known.
        cloud_init: whether what reads a NoCloud seed is cloud-init itself, with all that it can.
    """

    name: str
    source: str
    arch: str
    version: str
    key: str
    user: str = "qup"
    cmdline: str = ""
    disk: bool = True
    kernel: bool = True
    efi: bool = False
    iso: bool = False
    seeder: str = NOCLOUD
    disk_first: bool = False
    buses: tuple[str, ...] = ()
    mounts: tuple[str, ...] | None = None
    cloud_init: bool = True


@dataclass(frozen=True)
class Fetched:
    """What a box source has made, where that is more than it knew before.

    Attributes:
        spec: the box as it turned out; its name, source, arch and key stay.
        details: what is worth remembering.
    """

    spec: BoxSpec
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class BoxFile:
    """One file of a box: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Box:
    """A finished box in the cache.

    Attributes:
        spec: what it was made from.
        digest: SHA-256 over the digests of its files; names its folder.
        files: the files by name.
        details: what the source wants to be remembered (package versions and the like).
        created: when, in ISO 8601, UTC.
    """

    spec: BoxSpec
    digest: str
    files: dict[str, BoxFile]
    details: dict[str, object] = field(default_factory=dict)
    created: str = ""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files.values())
