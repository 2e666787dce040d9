"""What is in the initrd: programs with their libraries, kernel modules, the guest's own files.

Below ``/box`` is the guest as it will see itself; ``guest/init`` says why.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from qup.builtin.tiny import elf, kernel
from qup.builtin.tiny.debs import Package
from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.tree import Entry, Tree


@dataclass(frozen=True)
class Machine:
    """What differs between architectures: kernels, where libraries are, console."""

    kernels: tuple[str, ...]
    libraries: str
    console: str


ROOT_HELPER = "/usr/lib/qup/setuidgid"
"""Runs a command as any user, setuid root; only group sudo may execute it."""

SUDO_GROUP = 27
"""As in guest/root/etc/group (and in Debian)."""

PROGRAMS: Mapping[str, str] = {
    "/bin/busybox": "/usr/bin/busybox",
    "/usr/bin/busybox": "/usr/bin/busybox",
    "/usr/sbin/dropbear": "/usr/bin/dropbear",
    "/usr/bin/dropbearkey": "/usr/bin/dropbearkey",
    "/usr/bin/dropbearconvert": "/usr/bin/dropbearconvert",
    "/usr/bin/dbclient": "/usr/bin/dbclient",
    # dropbear was compiled with this path.
    "/usr/lib/openssh/sftp-server": "/usr/lib/sftp-server",
    # How sudo becomes root; the rights are in ROOT_HELPER.
    "/usr/bin/setuidgid": ROOT_HELPER,
    "/sbin/e2fsck": "/usr/bin/e2fsck",
    "/usr/sbin/e2fsck": "/usr/bin/e2fsck",
    "/sbin/resize2fs": "/usr/bin/resize2fs",
    "/usr/sbin/resize2fs": "/usr/bin/resize2fs",
}
"""Where a package has a program, and where the guest has it: one directory serves all."""

REQUIRED_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "overlay", "isofs")
"""What the guest cannot do without; what it does load is up to ``guest/init``."""

MODULES = (
    *("crc32c_generic", "virtio_mmio", "virtio_rng", "virtio_console", "virtiofs"),
    *("vmw_vsock_virtio_transport", "virtio_balloon"),
    *("vfat", "nls_cp437", "nls_ascii", "squashfs"),
    *("evdev", "button", "pvpanic_pci", "pvpanic_mmio", "qemu_fw_cfg"),
    *("bridge", "veth", "tun"),
    *("sd_mod", "sr_mod", "ata_piix", "efivarfs"),
)
"""What the guest has if the kernel's packages have it. ext4's checksums need the first one, in
kernels that have it."""

_USELESS_MODULES = re.compile(
    r"/kernel/(sound|drivers/(scsi/(?!(scsi_mod|scsi_common|sd_mod|sr_mod)\.ko)|"
    "(gpu|media|staging|infiniband|usb|iio|hwmon|net/(ethernet|wireless|wwan|can))/))"
)
"""Three quarters of a kernel for real computers, which need not be held in memory."""

DIRECTORIES = ("dev", "home", "mnt", "opt", "proc", "run", "srv", "sys", "var/log")
"""Empty ones that the guest's root has."""

HIDDEN_APPLETS = frozenset({"init", "linuxrc", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "busybox"})
"""Applets without a link: replaced by our own, or useless without what they serve."""


def is_taken(path: str, machine: Machine) -> bool:
    """Whether a package's file may go into the guest: a program of ours or a library."""
    directory = f"/lib/{machine.libraries}/"
    library = path.startswith((directory, f"/usr{directory}")) and ".so" in path
    loader = path.startswith(("/lib64/ld-", "/lib/ld-", "/usr/lib64/ld-", "/usr/lib/ld-"))
    return path in PROGRAMS or library or loader


def assemble(files: Mapping[str, Mapping[str, Entry]], machine: Machine) -> tuple[Tree, set[str]]:
    """Programs and exactly the libraries they need, below ``/box``; and who provided them.

    Raises:
        RecipeError: a program or a library is in none of the packages.
    """
    tree, used = Tree(), set()
    where = {path: name for name, members in files.items() for path in members}
    contents = {path: entry for members in files.values() for path, entry in members.items()}
    pending: list[str] = []
    for source, target in PROGRAMS.items():
        if source in contents:
            data = contents[source].data
            if target == ROOT_HELPER:
                tree.add_file(f"/box{target}", data, 0o4750, group=SUDO_GROUP)
            else:
                tree.add_file(f"/box{target}", data, 0o755)
            used.add(where[source])
            pending += elf.read_needed(data)
            _add_loader(tree, contents, elf.read_interpreter(data), machine)
    absent = {target for target in PROGRAMS.values() if f"/box{target}" not in tree}
    if absent:
        raise RecipeError(
            f"the packages have no {', '.join(sorted(absent))}",
            "this release of the distribution is newer than qup: tell qup's developers",
        )
    while pending:
        soname = pending.pop()
        target = f"/box/lib/{machine.libraries}/{soname}"
        if target not in tree:
            path = _find_library(contents, soname, machine)
            tree.add_file(target, contents[path].data, 0o755)
            used.add(where[path])
            pending += elf.read_needed(contents[path].data)
    add_applets(tree)
    return tree, used


def is_kernel_file(path: str) -> bool:
    """Whether a file of a kernel's package is used: the kernel, and what modules are made of."""
    if "/lib/modules/" not in path:
        return path.startswith("/boot/vmlinuz-")
    module = "/kernel/" in path and not _USELESS_MODULES.search(path)
    return module or path.endswith("/modules.builtin")


def add_applets(tree: Tree) -> None:
    """A link to busybox for each of its applets, as ``busybox --install -s`` would make them."""
    for applet in read_applets(tree["/box/usr/bin/busybox"].data):
        path = f"/box/usr/bin/{applet}"
        if applet not in HIDDEN_APPLETS and path not in tree:
            tree.add_link(path, "busybox")


def read_applets(binary: bytes) -> tuple[str, ...]:
    """The applets of a busybox, from the table of names it carries (``applet_names``).

    Reading beats asking ``busybox --list``: the box may be for another architecture.

    Raises:
        RecipeError: there is no such table.
    """
    start = binary.find(b"\0[\0[[\0")
    end = binary.find(b"\0\0", start + 1)
    if start < 0 or end < 0:
        raise RecipeError(
            "busybox-static carries no list of applets",
            "this release of the distribution is newer than qup: tell qup's developers",
        )
    return tuple(name.decode() for name in binary[start + 1 : end].split(b"\0"))


def add_modules(tree: Tree, boot: Mapping[str, Entry], release: str) -> list[str]:
    """The guest's kernel modules and what they depend on, ready for ``modprobe``.

    Returns:
        The names of :data:`MODULES` that the kernel does not have.
    """
    base = _module_directory(boot, release)
    available = {
        path.removeprefix(f"{base}/"): entry.data
        for path, entry in boot.items()
        if path.startswith(f"{base}/kernel/")
    }
    builtin = boot.get(f"{base}/modules.builtin", Entry(0)).data.decode().split()
    modules, absent = kernel.select_modules(available, REQUIRED_MODULES, MODULES, builtin)
    directory = f"/box/lib/modules/{release}"
    for module in modules:
        # The signature says that Debian made the module, which the initrd cannot prove anyway;
        # checking it takes some 5 ms a module in emulation.
        tree.add_file(f"{directory}/{module.path}", elf.strip_signature(module.data))
    tree.add_file(f"{directory}/modules.dep", kernel.format_modules_dep(modules).encode())
    return absent


def add_guest(tree: Tree, packages: Iterable[Package], recipe: str) -> str:
    """The files of ``guest/``: ``init`` starts the guest, ``root/`` is laid over it.

    Returns:
        A short digest of these files and of the packages: what tells one box from another. The
        guest knows it as part of its version.
    """
    guest = importlib.resources.files("qup.builtin.tiny") / "guest"
    own = dict(_walk(guest))
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.name} {package.version}\n".encode())
    for path, data in sorted(own.items()):
        digest.update(f"{path} {hashlib.sha256(data).hexdigest()}\n".encode())
    short = digest.hexdigest()[:8]
    version = f"{recipe}-{short}"
    for path, data in own.items():
        if path == "/init" or path.startswith("/root/"):
            target = path if path == "/init" else path.replace("/root/", "/box/", 1)
            tree.add_file(
                target,
                data.replace(b"@VERSION@", version.encode()),
                _guest_mode(path, data),
            )
    for link, target in (("bin", "usr/bin"), ("sbin", "usr/bin"), ("usr/sbin", "bin")):
        tree.add_link(f"/box/{link}", target)
    for directory in DIRECTORIES:
        tree.add_directory(f"/box/{directory}")
    # Before the root is laid out, /init finds programs and libraries where they will be.
    for name in ("bin", "lib", "lib64", "sbin", "usr"):
        tree.add_link(f"/{name}", f"box/{name}")
    for directory in ("dev", "proc", "sys", "run", "disk", "ram", "new"):
        tree.add_directory(f"/{directory}")
    tree.add_directory("/box/tmp", 0o1777)
    tree.add_directory("/box/var/tmp", 0o1777)
    for private in ("root", "etc/dropbear", "var/lib/qup"):
        tree.add_directory(f"/box/{private}", 0o700)
    return short


def _module_directory(boot: Mapping[str, Entry], release: str) -> str:
    merged = f"/usr/lib/modules/{release}"
    return merged if any(path.startswith(merged) for path in boot) else f"/lib/modules/{release}"


def _add_loader(
    tree: Tree, contents: Mapping[str, Entry], interpreter: str | None, machine: Machine
) -> None:
    """Put the dynamic loader where programs say it is; packages have it as a chain of links."""
    if interpreter is None or f"/box{interpreter}" in tree:
        return
    path = _find_library(contents, PurePosixPath(interpreter).name, machine)
    tree.add_file(f"/box{interpreter}", contents[path].data, 0o755)


def _find_library(contents: Mapping[str, Entry], soname: str, machine: Machine) -> str:
    for prefix in (f"/lib/{machine.libraries}", f"/usr/lib/{machine.libraries}"):
        path = f"{prefix}/{soname}"
        for _ in range(3):
            entry = contents.get(path)
            if entry is None:
                break
            if elf.is_elf(entry.data):
                return path
            path = os.path.normpath(f"{PurePosixPath(path).parent}/{entry.data.decode()}")
    raise RecipeError(
        f"no package has the library {soname}",
        "this release of the distribution is newer than qup: tell qup's developers",
    )


def _guest_mode(path: str, data: bytes) -> int:
    """Permissions of a file of ours; a wheel does not keep them."""
    if path == "/root/etc/shadow":
        return 0o600
    return 0o755 if data.startswith(b"#!") else 0o644


def _walk(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for child in directory.iterdir():
        path = f"{prefix}/{child.name}"
        if child.is_dir():
            yield from _walk(child, path)
        else:
            yield path, child.read_bytes()
