"""What an archive with a box says about itself: ``metadata.json``.

The file and its first four keys are Vagrant's ("Box file format" in its documentation, and
vagrant-libvirt's). Boxes of qup's have one more key, ``qup``, with what a machine needs besides.
Everything in it is checked, as anybody can write such a file; nothing in it is ever run here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qup.model.box import BoxSpec
from qup.model.units import GIB

METADATA = "metadata.json"
IMAGE, KERNEL, INITRD, EFI_KERNEL = "box.img", "kernel", "initrd", "kernel.efi"
SCHEMA = 1
PROVIDERS = ("libvirt", "qemu")
"""Providers whose boxes are images for QEMU."""
VAGRANT = "vagrant"
"""The user of Vagrant's boxes, and the seeder that lets qup in."""

ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Processors in the kernel's words and in Vagrant's."""
BUSES = ("virtio", "ide", "sata")
MOUNTS = ("9p", "virtiofs")
CMDLINE = re.compile(r"[ -~]{0,2048}")
ARCH = re.compile(r"[a-z0-9_]{1,32}")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
SEEDER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}")


@dataclass(frozen=True)
class Packaged:
    """What is known of a box in an archive.

    Attributes:
        arch: QEMU's word for the processor, if it is said.
        user: the account that gets the key.
        seeder: the guest seeder that it reads.
        version: its maker's word for it; may be empty.
        cmdline: the kernel's command line.
        kernel: whether it has ``kernel`` and ``initrd``.
        efi: whether it has ``kernel.efi``.
        buses: the drives it has drivers for; empty if that isn't known.
        mounts: the types of folders that its kernel can mount; None if that isn't known.
        cloud_init: whether what reads its seed is cloud-init itself.
    """

    arch: str | None = None
    user: str = VAGRANT
    seeder: str = VAGRANT
    version: str = ""
    cmdline: str = ""
    kernel: bool = False
    efi: bool = False
    buses: tuple[str, ...] = ()
    mounts: tuple[str, ...] | None = None
    cloud_init: bool = True

    @property
    def files(self) -> tuple[str, ...]:
        """Its files besides the image."""
        return (KERNEL, INITRD) * self.kernel + (EFI_KERNEL,) * self.efi

    def apply(self, spec: BoxSpec) -> BoxSpec:
        """A box as it turned out to be."""
        return replace(
            spec, user=self.user, seeder=self.seeder, version=self.version or spec.version,
            cmdline=self.cmdline, kernel=self.kernel, efi=self.efi, buses=self.buses,
            mounts=self.mounts, cloud_init=self.cloud_init,
        )  # fmt: skip


def write_metadata(spec: BoxSpec, *, user: str, seeder: str, size: int, made: str) -> str:
    """What an archive says.

    Args:
        spec: the box that the machine was made from.
        user: the account that gets the key.
        seeder: the guest seeder that the machine had.
        size: bytes of the disk, as a guest sees it.
        made: when, in ISO 8601.
    """
    own = {
        "schema": SCHEMA,
        "arch": spec.arch,
        "user": user,
        "seeder": seeder,
        "version": made,
        "cmdline": spec.cmdline,
        "kernel": spec.kernel,
        "efi": spec.efi,
        "buses": list(spec.buses),
        "mounts": None if spec.mounts is None else list(spec.mounts),
        "cloud-init": spec.cloud_init,
    }
    whole = {
        "provider": PROVIDERS[0],
        "format": "qcow2",
        "virtual_size": -(-size // GIB),
        "architecture": ARCHES.get(spec.arch, spec.arch),
        "qup": own,
    }
    return json.dumps(whole, indent=2) + "\n"


def read_metadata(data: bytes) -> Packaged | None:
    """Read what an archive says; None if it says nothing about a box.

    Raises:
        ValueError: it is damaged, of a later qup, or for another hypervisor.
    """
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"it is not JSON: {exc}") from exc
    if not isinstance(whole, dict):
        raise ValueError("it is not a table")
    own, provider = whole.get("qup"), whole.get("provider")
    if own is None and provider is None:
        return None
    if provider is not None and provider not in PROVIDERS:
        raise ValueError(
            f"it is for {str(provider)[:40]!r}, and qup takes {' and '.join(PROVIDERS)}"
        )
    if own is not None:
        return _read_own(own)
    disks = whole.get("disks")  # vagrant-libvirt's second form
    if isinstance(disks, list) and len(disks) > 1:
        raise ValueError(f"it has {len(disks)} disks, and a box of qup's has one")
    names = {name: arch for arch, name in ARCHES.items()}
    said = whole.get("architecture")
    return Packaged(arch=names.get(said, said) if isinstance(said, str) else None)


def _read_own(own: Any) -> Packaged:
    if not isinstance(own, Mapping):
        raise ValueError("'qup' is not a table")
    if own.get("schema") != SCHEMA:
        raise ValueError(f"it has schema {own.get('schema')!r}, and this qup knows {SCHEMA}")
    buses = own.get("buses", [])
    if not isinstance(buses, list) or any(bus not in BUSES for bus in buses):
        raise ValueError(f"'buses' is a list of {', '.join(BUSES)}")
    mounts = own.get("mounts")
    if mounts is not None and (
        not isinstance(mounts, list) or any(kind not in MOUNTS for kind in mounts)
    ):
        raise ValueError(f"'mounts' is a list of {', '.join(MOUNTS)}")
    for key in ("kernel", "efi", "cloud-init"):
        if not isinstance(own.get(key, False), bool):
            raise ValueError(f"{key!r} is neither true nor false")
    return Packaged(
        arch=_text(own, "arch", ARCH.pattern, "x86_64"),
        user=_text(own, "user", USER.pattern, "qup"),
        seeder=_text(own, "seeder", SEEDER.pattern, "nocloud"),
        version=_text(own, "version", VERSION.pattern + "|", ""),
        cmdline=_text(own, "cmdline", CMDLINE.pattern, ""),
        kernel=own.get("kernel", False),
        efi=own.get("efi", False) and own.get("kernel", False),
        buses=tuple(buses),
        mounts=None if mounts is None else tuple(mounts),
        cloud_init=own.get("cloud-init", True),
    )


def _text(own: Mapping[str, Any], key: str, pattern: str, default: str) -> str:
    value = own.get(key, default)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{key!r} has a value that it can't have")
    return value
