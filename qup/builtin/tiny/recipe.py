"""How box ``tiny`` is made: ``build`` turns Debian packages into kernel, initrd and base disk.

What is in the box:

- ``kernel``: the distribution's kernel for virtual machines, unpacked where QEMU can enter it
  directly;
- ``initrd``: ``/init`` and, below ``/box``, the whole guest. It is not compressed: unpacking
  in emulation takes longer than reading a few more megabytes;
- ``disk.qcow2``: an empty ext4, the base of each machine's own disk.

The same packages give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qup.builtin.tiny import contents, debs, dropbear, kernel
from qup.builtin.tiny.contents import Machine
from qup.builtin.tiny.debs import Deb, Package, Report
from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.tree import MTIME, Entry, Tree

__all__ = ["ARCHES", "FILES", "Manifest", "RecipeError", "build"]

RECIPE = "1.0"
"""The version of this recipe; the box's version adds a digest of all that went into it."""

FILES = ("kernel", "kernel.efi", "initrd", "disk.qcow2")

CMDLINE = (
    # Kernel messages stay in `dmesg` unless they are errors; the console belongs to userland.
    "console={console} quiet"
    # A panic ends the machine (QEMU's -no-reboot) or restarts it, after the message is out.
    " panic=1"
    # The kernel's self-tests of its cipher code take a fifth of the boot in emulation.
    " cryptomgr.notests"
    # Keep the code for several processors: patching it away takes longer than it saves.
    " noreplace-smp"
    # Skip an interrupt test that is known to fail now and then on a busy host.
    " no_timer_check"
)
"""What the kernel should be told; safe with every accelerator. ``console`` is the machine's."""

CMDLINE_TCG = (
    # Emulation does not speculate: there is nothing to mitigate.
    "mitigations=off"
)
"""What may be added to :data:`CMDLINE` in emulation, and only there."""


def _kernels(arch: str) -> tuple[str, ...]:
    suffixes = (f"cloud-{arch}", "virtual", arch, "generic")
    return tuple(f"linux-image-{suffix}" for suffix in suffixes)


ARCHES: Mapping[str, Machine] = {
    "amd64": Machine(
        _kernels("amd64"),
        "x86_64-linux-gnu",
        "ttyS0",
    ),
    "arm64": Machine(
        _kernels("arm64"),
        "aarch64-linux-gnu",
        "ttyAMA0",
    ),
}
"""Architectures by Debian's names. arm64 is made the same way but is not tested.

Of the kernels the first that apt offers is taken: Debian's for clouds, Ubuntu's for virtual
machines, and the two for all computers (more to download, but as good).
"""

ALIASES = {"x86_64": "amd64", "aarch64": "arm64"}

ROOTS = ("busybox-static", "daemontools", "dropbear-bin", "e2fsprogs", "openssh-sftp-server")

KERNEL_PARTS = ("linux-image-", "linux-modules-", "linux-binary-")

SSHD = "/box/usr/bin/dropbear"

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
    cmdline: str
    cmdline_tcg: str = CMDLINE_TCG


def build(out: Path, *, arch: str, report: Report) -> Manifest:
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
    with debs.open_apt(arch, out, report) as apt:
        images, fetched = fetch_packages(apt, machine, report)
        report("unpacking the kernel")
        boot: dict[str, Entry] = {}
        for name in images:
            boot |= debs.read_deb(fetched[name].path, contents.is_kernel_file)
        files = {
            name: debs.read_deb(deb.path, lambda path: contents.is_taken(path, machine))
            for name, deb in fetched.items()
            if name not in images
        }
    release = _find_release(boot)
    tree, used = contents.assemble(files, machine)
    mend_sshd(tree, fetched["dropbear-bin"].package, report)
    packages = tuple(
        sorted(
            (fetched[name].package for name in {*used, *images}), key=lambda package: package.name
        )
    )
    if absent := contents.add_modules(tree, boot, release):
        report(f"this kernel has no {', '.join(absent)}")
    version = f"{RECIPE}-{contents.add_guest(tree, packages, RECIPE)}"
    report("writing the box")
    image = boot[f"/boot/vmlinuz-{release}"].data
    (out / "kernel").write_bytes(kernel.extract_kernel(image))
    # UEFI firmware starts the kernel as the package has it, by its EFI stub.
    (out / "kernel.efi").write_bytes(image)
    (out / "initrd").write_bytes(tree.to_cpio())
    make_disk(out / "disk.qcow2", mke2fs, qemu_img)
    digests = {name: _digest(out / name) for name in FILES}
    cmdline = CMDLINE.format(console=machine.console)
    return Manifest(version, arch, release, packages, digests, cmdline)


def fetch_packages(
    apt: debs.Apt, machine: Machine, report: Report
) -> tuple[list[str], dict[str, Deb]]:
    """The packages by name, and which of them are the kernel's.

    By the lists that this computer has, or else by fresh ones.

    Raises:
        RecipeError: a package is unknown even then, or could not be fetched.
    """

    def fetch() -> tuple[list[str], dict[str, Deb]]:
        report("choosing packages")
        kernel_name = choose_kernel(apt.offered([*machine.kernels, *ROOTS]), machine)
        images, names = choose_packages(apt.dependencies([kernel_name, *ROOTS]), kernel_name)
        return images, {deb.package.name: deb for deb in apt.download([*images, *names])}

    if apt.serves():
        try:
            return fetch()
        except RecipeError as error:
            report(f"this computer's package lists do not serve: {error}")
    failed = apt.fetch_lists()
    try:
        return fetch()
    except RecipeError as error:
        raise failed or error from error


def choose_kernel(offered: Collection[str], machine: Machine) -> str:
    """The best of the kernels that apt offers.

    Raises:
        RecipeError: it offers none, or not all the other packages.
    """
    kernels = [name for name in machine.kernels if name in offered]
    absent = [name for name in ROOTS if name not in offered]
    if not kernels:
        absent.append(" or ".join(machine.kernels))
    if absent:
        raise RecipeError(
            f"apt offers no {', no '.join(absent)}",
            "box 'tiny' needs Debian's archive (main) or Ubuntu's (main and universe) among the"
            " apt sources",
        )
    return kernels[0]


def choose_packages(
    depends: Mapping[str, tuple[str, ...]], kernel_name: str
) -> tuple[list[str], list[str]]:
    """The real kernel packages behind a metapackage, and the others in which files may be.

    A kernel may have its modules in a package of its own.

    Below our roots only libraries are followed: what else they depend on (an ssh client, PAM's
    modules) is for computers that are set up with debconf and have users who type passwords.

    Raises:
        RecipeError: the metapackage leads nowhere.
    """
    images = _follow(depends, [kernel_name], KERNEL_PARTS)
    images = [name for name in images[1:] if not name.startswith("linux-modules-extra-")]
    if not images:
        raise RecipeError(
            f"package {kernel_name} names no kernel", f"look at: apt-cache depends {kernel_name}"
        )
    return images, sorted(_follow(depends, ROOTS, ("lib", "zlib")))


def _follow(
    depends: Mapping[str, tuple[str, ...]], roots: Sequence[str], prefixes: tuple[str, ...]
) -> list[str]:
    """The roots and what they depend on, as far as the names start with one of the prefixes."""
    chosen = list(roots)
    for name in chosen:  # which grows on the way
        for needed in depends.get(name, ()):
            if needed.startswith(prefixes) and needed not in chosen:
                chosen.append(needed)
    return chosen


def mend_sshd(tree: Tree, package: Package, report: Report) -> None:
    """Replace an affected dropbear by a mended one, or say that this wasn't possible."""
    if not dropbear.is_affected(package.version):
        return
    mended = dropbear.mend_sessions(tree[SSHD].data)
    if mended is None:
        report(
            f"warning: {package.name} {package.version} may drop sessions that are opened at"
            " the same time over one connection (see qup/builtin/tiny/dropbear.py)"
        )
    else:
        tree.add_file(SSHD, mended, 0o755)


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


def _find_release(boot: Mapping[str, Entry]) -> str:
    for path in boot:
        if path.startswith("/boot/vmlinuz-"):
            return path.removeprefix("/boot/vmlinuz-")
    raise RecipeError(
        "the kernel package has no /boot/vmlinuz-*",
        "this release of the distribution is newer than qup: tell qup's developers",
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
