"""ISOs that boot a guest which reads what boot2docker and RancherOS read.

The real ones aren't shipped with these tests. These are made of Debian's packages: its full
kernel (with SATA, CD drives and 9p), busybox, dropbear and mke2fs, and isolinux with a hybrid
boot record, as the real ones have it. What takes long is done once and kept in the tests' cache.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from qup.builtin.tiny import contents, debs, kernel, recipe
from qup.builtin.tiny.tree import Entry, Tree
from qup.locks import lock

HERE = Path(__file__).parent
BOOT_RECORD = Path("/usr/lib/ISOLINUX/isohdpfx.bin")
LOADER = Path("/usr/lib/ISOLINUX/isolinux.bin")
LIBRARY = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
MACHINE = replace(recipe.ARCHES["amd64"], kernels=("linux-image-amd64",))
PROGRAMS = {
    **{
        source: target
        for source, target in contents.PROGRAMS.items()
        if target in ("/usr/bin/busybox", "/usr/bin/dropbear", "/usr/bin/dropbearkey")
    },
    "/sbin/mke2fs": "/usr/bin/mke2fs",
    "/usr/sbin/mke2fs": "/usr/bin/mke2fs",
}
"""A small root is read quickly from an emulated CD."""
MODULES = (
    *("virtio_pci", "virtio_rng", "virtio_blk", "virtio_net", "ahci", "ata_piix", "sd_mod"),
    *("sr_mod", "isofs", "crc32c_generic", "ext4", "9pnet_virtio", "9p", "evdev", "button"),
    "pvpanic_pci",
)
ENGINE = {
    "/usr/bin/openssl": "/usr/bin/openssl",
    "/usr/bin/setuidgid": contents.ROOT_HELPER,
}
"""What else it takes to stand in for a Docker engine, and to be root by sudo."""
SCRIPTS = {
    "dockerd": "/usr/bin/dockerd",
    "docker": "/usr/bin/docker",
    "init.d-docker": "/etc/init.d/docker",
    "system-docker": "/usr/bin/system-docker",
}
"""Where the files of ``engine/`` are in the guest."""
USERS = {"root": 0, "docker": 1000, "rancher": 1100}


def require_tools() -> None:
    """Skip the test where the tools that make ISOs are missing."""
    missing = [str(path) for path in (BOOT_RECORD, LOADER, LIBRARY) if not path.exists()]
    if shutil.which("xorriso") is None:
        missing.append("xorriso")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: see tests/packages.txt")


def make_iso(cache: Path, target: Path, label: str, *, engine: bool = False, **words: str) -> Path:
    """An ISO that boots the guest.

    Args:
        cache: where the parts are kept.
        target: the ISO.
        label: its volume label.
        engine: whether there is something in the place of Docker's engine.
        words: for the kernel's command line: ``guest``, ``version``, ``broken``.
    """
    parts = ensure_parts(cache)
    cmdline = " ".join(f"{key}={value}" for key, value in words.items())
    tree = target.with_suffix(".tree")
    tree.mkdir()
    roots = ["initrd", "engine"] if engine else ["initrd"]
    initrd = ",".join(f"/{name}" for name in roots)
    (tree / "isolinux.cfg").write_text(
        "SERIAL 0 115200\nDEFAULT guest\nPROMPT 0\nTIMEOUT 0\nLABEL guest\n"
        f"  KERNEL /vmlinuz\n  INITRD {initrd}\n"
        f"  APPEND console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check mitigations=off"
        f" {cmdline}\n"
    )
    for name in ("vmlinuz", *roots):
        (tree / name).hardlink_to(parts / name)
    for path in (LOADER, LIBRARY):
        shutil.copy(path, tree)
    subprocess.run(
        [
            *("xorriso", "-as", "mkisofs", "-quiet", "-o", target, "-V", label),
            *("-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4"),
            *("-boot-info-table", "-isohybrid-mbr", BOOT_RECORD, "-R", tree),
        ],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(tree)
    return target


def ensure_parts(cache: Path) -> Path:
    """The kernel and the first root of the guest; made by whoever comes first."""
    sources = [Path(__file__), HERE / "init", *sorted((HERE / "engine").iterdir())]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    folder = cache / "iso-guest" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.parent / "lock", what="the guest on a CD", timeout=600):
        if not folder.is_dir():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            build_parts(draft)
            draft.rename(folder)
    return folder


def build_parts(folder: Path) -> None:
    """Make ``vmlinuz``, ``initrd`` and ``engine`` out of Debian's packages."""
    roots = (*recipe.ROOTS, "openssl")
    with (
        debs.open_apt("amd64", folder, print) as apt,
        own_programs(PROGRAMS | ENGINE),
        mock.patch.object(recipe, "ROOTS", roots),
    ):
        images, fetched = recipe.fetch_packages(apt, MACHINE, print)
        boot: dict[str, Entry] = {}
        for name in images:
            boot |= debs.read_deb(fetched[name].path, is_kernel_file)
        files = {
            name: debs.read_deb(deb.path, lambda path: contents.is_taken(path, MACHINE))
            for name, deb in fetched.items()
            if name not in images
        }
        whole, _ = contents.assemble(files, MACHINE)
        with own_programs(PROGRAMS):
            box, _ = contents.assemble(files, MACHINE)
    release = next(path for path in boot if path.startswith("/boot/vmlinuz-"))[14:]
    tree = unbox(box.items())
    add_modules(tree, boot, release)
    add_files(tree)
    (folder / "vmlinuz").write_bytes(boot[f"/boot/vmlinuz-{release}"].data)
    (folder / "initrd").write_bytes(tree.to_cpio())
    more = unbox(pair for pair in whole.items() if pair[0] not in box)
    add_engine(more)
    (folder / "engine").write_bytes(more.to_cpio())


def unbox(box: Iterable[tuple[str, Entry]]) -> Tree:
    """What is below ``/box``, as a root of its own."""
    tree = Tree()
    for path, entry in box:
        if entry.mode & 0o170000 == 0o100000:
            tree.add_file(path.removeprefix("/box"), entry.data, entry.mode & 0o7777, entry.group)
        elif entry.mode & 0o170000 == 0o120000:
            tree.add_link(path.removeprefix("/box"), entry.data.decode())
    return tree


def add_engine(tree: Tree) -> None:
    """What stands in for Docker's engine, and users who may be root; unpacked over the rest."""
    for name, target in SCRIPTS.items():
        tree.add_file(target, (HERE / "engine" / name).read_bytes(), 0o755)
    sudo = Path(contents.__file__).parent / "guest/root/usr/bin/sudo"
    tree.add_file("/usr/bin/sudo", sudo.read_bytes(), 0o755)
    tree.add_directory("/var/log")
    tree.add_link("/var/run", "../run")
    groups = ["root:x:0:", "docker:x:1000:rancher", "rancher:x:1100:"]
    groups += [f"sudo:x:{contents.SUDO_GROUP}:docker,rancher", ""]
    tree.add_file("/etc/group", "\n".join(groups).encode())


@contextmanager
def own_programs(programs: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.object(contents, "PROGRAMS", programs):
        yield


def is_kernel_file(path: str) -> bool:
    return path.startswith("/boot/vmlinuz-") or "/lib/modules/" in path


def add_modules(tree: Tree, boot: Mapping[str, Entry], release: str) -> None:
    base = f"/lib/modules/{release}"
    if not any(path.startswith(f"{base}/") for path in boot):
        base = f"/usr{base}"
    available = {
        path.removeprefix(f"{base}/"): entry.data
        for path, entry in boot.items()
        if path.startswith(f"{base}/kernel/")
    }
    builtin = boot[f"{base}/modules.builtin"].data.decode().split()
    modules, absent = kernel.select_modules(available, MODULES[:1], MODULES[1:], builtin)
    assert not absent, absent
    for module in modules:
        tree.add_file(f"/lib/modules/{release}/{module.path}", module.data)
    text = kernel.format_modules_dep(modules)
    tree.add_file(f"/lib/modules/{release}/modules.dep", text.encode())


def add_files(tree: Tree) -> None:
    tree.add_file("/init", (HERE / "init").read_bytes(), 0o755)
    homes = {name: "/root" if number == 0 else f"/home/{name}" for name, number in USERS.items()}
    passwd = [
        f"{name}:x:{number}:{number}::{homes[name]}:/bin/sh" for name, number in USERS.items()
    ]
    tree.add_file("/etc/passwd", "\n".join([*passwd, ""]).encode())
    tree.add_file("/etc/shadow", "".join(f"{name}:*:::::::\n" for name in USERS).encode(), 0o600)
    tree.add_file("/etc/group", "".join(f"{n}:x:{i}:\n" for n, i in USERS.items()).encode())
    tree.add_file("/etc/shells", b"/bin/sh\n")
    for link in ("bin", "sbin"):
        tree.add_link(f"/{link}", "usr/bin")
    tree.add_link("/usr/sbin", "bin")
    for directory in (
        "dev",
        "proc",
        "sys",
        "root",
        "home",
        "tmp",
        "run",
        "var/lib",
        "etc/dropbear",
    ):
        tree.add_directory(f"/{directory}")
