"""How box ``tiny`` is made: ``build`` turns Debian packages into kernel, initrd and base disk.

What is in the box:

- ``kernel``: Debian's cloud kernel, unpacked where QEMU can enter it directly;
- ``initrd``: ``/init`` and, below ``/box``, the whole guest. It is not compressed: unpacking
  in emulation takes longer than reading a few more megabytes;
- ``disk.qcow2``: an empty ext4, the base of each machine's own disk.

The same packages give the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from qup.builtin.tiny import debs, elf, kernel
from qup.builtin.tiny.debs import Package
from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.tree import MTIME, Entry, Tree

__all__ = ["ARCHES", "FILES", "Manifest", "RecipeError", "build"]

RECIPE = "1.0"
"""The version of this recipe; the box's version adds a digest of all that went into it."""

FILES = ("kernel", "initrd", "disk.qcow2")

CMDLINE = (
    # Kernel messages stay in `dmesg` unless they are errors; the console belongs to userland.
    "console=ttyS0 quiet"
    # A panic ends the machine (QEMU's -no-reboot) or restarts it, after the message is out.
    " panic=1"
    # The kernel's self-tests of its cipher code take a fifth of the boot in emulation.
    " cryptomgr.notests"
    # Keep the code for several processors: patching it away takes longer than it saves.
    " noreplace-smp"
    # Skip an interrupt test that is known to fail now and then on a busy host.
    " no_timer_check"
)
"""What the kernel should be told; safe with every accelerator."""

CMDLINE_TCG = (
    # Emulation does not speculate: there is nothing to mitigate.
    "mitigations=off"
)
"""What may be added to :data:`CMDLINE` in emulation, and only there."""


@dataclass(frozen=True)
class Machine:
    """What differs between architectures: Debian's names and where libraries are."""

    kernel: str
    libraries: str


ARCHES: Mapping[str, Machine] = {
    "amd64": Machine("linux-image-cloud-amd64", "x86_64-linux-gnu"),
    "arm64": Machine("linux-image-cloud-arm64", "aarch64-linux-gnu"),
}
"""Architectures by Debian's names. arm64 is made the same way but is not tested."""

ALIASES = {"x86_64": "amd64", "aarch64": "arm64"}

ROOTS = ("busybox-static", "daemontools", "dropbear-bin", "e2fsprogs", "openssh-sftp-server")

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

MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_rng", "virtio_blk", "virtio_net"),
    *("virtio_console", "virtiofs", "vmw_vsock_virtio_transport", "virtio_balloon"),
    *("overlay", "isofs", "vfat", "nls_cp437", "nls_ascii", "squashfs"),
    *("evdev", "button", "pvpanic_pci", "pvpanic_mmio", "qemu_fw_cfg"),
    *("bridge", "veth", "tun"),
)
"""What the guest can load; what it does load is up to ``guest/init``."""

DIRECTORIES = ("dev", "home", "mnt", "opt", "proc", "run", "srv", "sys", "var/log")
"""Empty ones that the guest's root has."""

HIDDEN_APPLETS = frozenset({"init", "linuxrc", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "busybox"})
"""Applets without a link: replaced by our own, or useless without what they serve."""

DISK_SIZE = 1 << 30
"""The smallest disk (in bytes) of a machine; the guest grows the file system to the real one."""

DISK_FEATURES = (
    "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)
"""Those of ext4 in e2fsprogs 1.47, without what kernels before 6.1 or resizing have no use for."""

DISK_LABEL = "qup-data"
DISK_UUID = "71757074-696e-7900-8000-000000000001"
"""Constant, as the image must be; nothing in the guest looks for it."""


@dataclass(frozen=True)
class Manifest:
    """What was made.

    Args:
        version: the recipe's version and a digest of all packages and guest files.
        arch: Debian's name of the architecture.
        kernel: the kernel's release, as ``uname -r`` in the guest prints it.
        packages: the packages that gave at least one file, by name.
        sha256: digest by file name, for each of :data:`FILES`.
        cmdline: the recommended kernel command line.
        cmdline_tcg: what to add to it in emulation.
    """

    version: str
    arch: str
    kernel: str
    packages: tuple[Package, ...]
    sha256: Mapping[str, str]
    cmdline: str = CMDLINE
    cmdline_tcg: str = CMDLINE_TCG


def build(out: Path, *, arch: str, report: Callable[[str], None]) -> Manifest:
    """Make the box in a directory.

    Args:
        out: an existing or new directory; files of the same names are replaced.
        arch: ``amd64`` or ``x86_64`` (or, untested, ``arm64`` or ``aarch64``).
        report: called with one line about each step that takes time.

    Raises:
        RecipeError: the host lacks a tool or a package, or a download failed.
    """
    machine, arch = _find_machine(arch)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    mke2fs = debs.find_tool("mke2fs", "e2fsprogs")
    qemu_img = debs.find_tool("qemu-img", "qemu-utils")
    report("choosing packages")
    with debs.open_apt(arch, report) as apt:
        apt.prepare(machine.kernel)
        image, names = choose_packages(apt.dependencies([machine.kernel, *ROOTS]), machine.kernel)
        fetched = {deb.package.name: deb for deb in apt.download([image, *names])}
        report("unpacking the kernel")
        boot = debs.read_deb(fetched[image].path, _is_kernel_file)
        files = {
            name: debs.read_deb(fetched[name].path, lambda path: is_taken(path, machine))
            for name in names
        }
    release = _find_release(boot)
    tree, used = assemble(files, machine)
    packages = tuple(
        sorted((fetched[name].package for name in {*used, image}), key=lambda package: package.name)
    )
    add_modules(tree, boot, release)
    version = add_guest(tree, packages, arch)
    report("writing the box")
    (out / "kernel").write_bytes(kernel.extract_kernel(boot[f"/boot/vmlinuz-{release}"].data))
    (out / "initrd").write_bytes(tree.to_cpio())
    make_disk(out / "disk.qcow2", mke2fs, qemu_img)
    digests = {name: _digest(out / name) for name in FILES}
    return Manifest(version, arch, release, packages, digests)


def choose_packages(
    depends: Mapping[str, tuple[str, ...]], kernel_name: str
) -> tuple[str, list[str]]:
    """The real kernel package behind its metapackage, and the others in which files may be.

    Below our roots only libraries are followed: what else they depend on (an ssh client, PAM's
    modules) is for computers that are set up with debconf and have users who type passwords.

    Raises:
        RecipeError: the metapackage leads nowhere.
    """
    images = [name for name in depends.get(kernel_name, ()) if name.startswith("linux-image-")]
    if not images:
        raise RecipeError(
            f"package {kernel_name} names no kernel", f"look at: apt-cache depends {kernel_name}"
        )
    chosen = dict.fromkeys(ROOTS)
    queue = list(ROOTS)
    while queue:
        for name in depends.get(queue.pop(0), ()):
            if name.startswith(("lib", "zlib")) and name not in chosen:
                chosen[name] = None
                queue.append(name)
    return images[0], sorted(chosen)


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


def add_modules(tree: Tree, boot: Mapping[str, Entry], release: str) -> None:
    """The kernel modules of :data:`MODULES` and what they depend on, ready for ``modprobe``."""
    base = _module_directory(boot, release)
    available = {
        path.removeprefix(f"{base}/"): entry.data
        for path, entry in boot.items()
        if path.startswith(f"{base}/kernel/")
    }
    builtin = boot.get(f"{base}/modules.builtin", Entry(0)).data.decode().split()
    modules = kernel.select_modules(available, MODULES, builtin)
    for path in modules:
        # The signature says that Debian made the module, which the initrd cannot prove anyway;
        # checking it takes some 5 ms a module in emulation.
        tree.add_file(f"/box/lib/modules/{release}/{path}", elf.strip_signature(available[path]))
    tree.add_file(
        f"/box/lib/modules/{release}/modules.dep", kernel.format_modules_dep(modules).encode()
    )


def add_guest(tree: Tree, packages: Iterable[Package], arch: str) -> str:
    """The files of ``guest/``: ``init`` starts, ``root/`` is laid over the tree; the version."""
    guest = importlib.resources.files("qup.builtin.tiny") / "guest"
    own = dict(_walk(guest))
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.name} {package.version} {arch}\n".encode())
    for path, data in sorted(own.items()):
        digest.update(f"{path} {hashlib.sha256(data).hexdigest()}\n".encode())
    version = f"{RECIPE}-{digest.hexdigest()[:8]}"
    for path, data in own.items():
        if path == "/init" or path.startswith("/root/"):
            target = path if path == "/init" else path.replace("/root/", "/box/", 1)
            tree.add_file(
                target,
                data.replace(b"@VERSION@", version.encode()),
                0o755 if data.startswith(b"#!") else 0o644,
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
    return version


def make_disk(path: Path, mke2fs: str, qemu_img: str) -> None:
    """An empty ext4 as a small qcow2; the same bytes each time.

    Every feature is named, because the host's ``mke2fs.conf`` is not asked.
    """
    with tempfile.TemporaryDirectory(prefix="qup-tiny-") as name:
        work = Path(name)
        raw = work / "disk.raw"
        raw.touch()
        os.truncate(raw, DISK_SIZE)
        mkfs = [
            *(mke2fs, "-q", "-F", "-t", "ext4", "-L", DISK_LABEL, "-U", DISK_UUID),
            *("-O", f"none,{DISK_FEATURES}", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"),
            *("-J", "size=16", "-E", f"hash_seed={DISK_UUID},root_owner=0:0,lazy_itable_init=1"),
            str(raw),
        ]
        # e2fsprogs takes the time from here, as its own tests make it do.
        clock = {"E2FSPROGS_FAKE_TIME": str(MTIME), "MKE2FS_CONFIG": os.devnull}
        debs.run_tool(mkfs, cwd=work, timeout=debs.DEB_TIMEOUT, env=clock)
        convert = [qemu_img, "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)]
        debs.run_tool(convert, cwd=work, timeout=debs.DEB_TIMEOUT)


def _find_machine(arch: str) -> tuple[Machine, str]:
    name = ALIASES.get(arch, arch)
    if name not in ARCHES:
        raise RecipeError(
            f"there is no box 'tiny' for architecture {arch!r}",
            f"it can be made for: {', '.join(ARCHES)}",
        )
    return ARCHES[name], name


def _is_kernel_file(path: str) -> bool:
    return path.startswith("/boot/vmlinuz-") or (
        "/lib/modules/" in path and ("/kernel/" in path or path.endswith("/modules.builtin"))
    )


def _find_release(boot: Mapping[str, Entry]) -> str:
    for path in boot:
        if path.startswith("/boot/vmlinuz-"):
            return path.removeprefix("/boot/vmlinuz-")
    raise RecipeError(
        "the kernel package has no /boot/vmlinuz-*",
        "this release of the distribution is newer than qup: tell qup's developers",
    )


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


def _walk(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for child in directory.iterdir():
        path = f"{prefix}/{child.name}"
        if child.is_dir():
            yield from _walk(child, path)
        else:
            yield path, child.read_bytes()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
