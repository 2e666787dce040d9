"""What QEMU boots beside the disk: the kernel as it can be entered, and an initrd of ours."""

from __future__ import annotations

import importlib.resources
import re
import tarfile
from pathlib import Path

from qup.builtin.tiny import kernel
from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.tree import Tree

REQUIRED = ("virtio_pci", "virtio_blk", "ext4")
OPTIONAL = ("virtio_rng", "crc32c_generic", "ahci", "ata_piix", "sd_mod", "virtio_scsi", "nvme")
"""Modules by which ``guest/init`` gets at the disk."""

APPLETS = ("sh", "findfs", "mkdir", "modprobe", "mount", "switch_root", "usleep")
DIRECTORIES = ("dev", "new", "proc", "run", "sys")

_MODULE = re.compile(r"^(?:usr/)?lib/modules/([^/]+)/(kernel/.*\.ko(?:\.\w+)?|modules\.builtin)$")
_KERNEL = re.compile(r"^boot/vmlinuz-(.+)$")
_USELESS = re.compile("/(net|sound|gpu|media|usb)/")


def make_boot(parts: Path, out: Path) -> tuple[str, tuple[str, ...]]:
    """Write ``kernel``, ``kernel.efi`` (the same as UEFI starts it) and ``initrd``.

    Args:
        parts: a tar archive of ``/boot``, modules, busybox and dpkg's status.
        out: the folder to write to.

    Returns:
        The kernel's release, and ``name version`` of each package.

    Raises:
        RecipeError: something is missing in the archive.
    """
    release, image, busybox, builtin, status = "", b"", b"", b"", b""
    modules: dict[str, bytes] = {}
    with tarfile.open(parts) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                continue
            name = member.name
            if match := _KERNEL.match(name):
                release, image = match[1], stream.read()
            elif name.endswith("bin/busybox"):
                busybox = stream.read()
            elif name.endswith("dpkg/status"):
                status = stream.read()
            elif (match := _MODULE.match(name)) and match[2] == "modules.builtin":
                builtin = stream.read()
            elif match and not _USELESS.search(name):
                modules[match[2]] = stream.read()
    if not image or not busybox:
        raise RecipeError(
            "the packages have no kernel or no busybox",
            "this release of Debian is newer than qup: tell qup's developers",
        )
    (out / "kernel").write_bytes(kernel.extract_kernel(image))
    (out / "kernel.efi").write_bytes(image)
    tree = make_initrd(release, modules, builtin.decode().split(), busybox)
    (out / "initrd").write_bytes(tree.to_cpio())
    return release, parse_status(status.decode(errors="replace"))


def make_initrd(
    release: str, modules: dict[str, bytes], builtin: list[str], busybox: bytes
) -> Tree:
    """Our initrd, not compressed: unpacking in emulation takes longer than reading it."""
    tree = Tree()
    init = importlib.resources.files("qup.builtin.debian") / "guest" / "init"
    tree.add_file("/init", init.read_bytes(), 0o755)
    tree.add_file("/bin/busybox", busybox, 0o755)
    for applet in APPLETS:
        tree.add_link(f"/bin/{applet}", "busybox")
    for name in DIRECTORIES:
        tree.add_directory(f"/{name}")
    chosen, _ = kernel.select_modules(modules, REQUIRED, OPTIONAL, builtin)
    base = f"/lib/modules/{release}"
    for module in chosen:
        tree.add_file(f"{base}/{module.path}", module.data)
    tree.add_file(f"{base}/modules.dep", kernel.format_modules_dep(chosen).encode())
    return tree


def parse_status(text: str) -> tuple[str, ...]:
    """Read dpkg's status: ``name version`` of each package that is installed."""
    found = []
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"\w[\w-]*: ", line)
        )
        if fields.get("Status", "").endswith(" installed"):
            found.append(f"{fields.get('Package')} {fields.get('Version')}")
    return tuple(sorted(found))
