"""What ``qup doctor`` looks at on this computer, besides the accelerators.

Every check only looks: it creates nothing, and starts nothing but ``--version`` questions.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qup.api import Check, Finding, Host, HostError, hookimpl, run

OLDEST_PYTHON = (3, 11)
OLDEST_QEMU = (6, 2, 0)
"""Ubuntu 22.04's; nobody has tried qup with an older one."""
TESTED_QEMU = (7, 2, 0)
"""The oldest that qup's own tests run on."""
OLDEST_SSH = (6, 8)
"""The first that knows ``UpdateHostKeys``, which qup writes into its configuration."""

GIB = 1024  # MiB
LITTLE_SPACE, NO_SPACE = 2 * GIB, 256
"""MiB of cache below which boxes may not, or can't, be made."""
LITTLE_MEMORY, NO_MEMORY = GIB, 192
"""MiB that are free: one machine by default takes 1 GiB, ``tiny`` is content with 128 MiB."""

SOCKET_NAME = len("/0123456789ab/ssh.sock.1234567890123456")
SOCKET_PATH_LIMIT = 107
"""Bytes of a unix socket's path, without the final NUL (``unix(7)``)."""

KVM = Path("/dev/kvm")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

INSTALL = {
    "debian": "apt install",
    "fedora": "dnf install",
    "suse": "zypper install",
    "arch": "pacman -S",
    "alpine": "apk add",
    "macos": "brew install",
}
"""How a family of systems installs a package."""

PACKAGES = {
    "qemu-system-x86_64": {
        "debian": "qemu-system-x86",
        "fedora": "qemu-system-x86-core",
        "suse": "qemu-x86",
        "arch": "qemu-system-x86",
        "alpine": "qemu-system-x86_64",
        "macos": "qemu",
    },
    "qemu-system-aarch64": {
        "debian": "qemu-system-arm",
        "fedora": "qemu-system-aarch64-core",
        "suse": "qemu-arm",
        "arch": "qemu-system-aarch64",
        "alpine": "qemu-system-aarch64",
        "macos": "qemu",
    },
    "qemu-img": {
        "debian": "qemu-utils",
        "fedora": "qemu-img",
        "suse": "qemu-img",
        "arch": "qemu-img",
        "alpine": "qemu-img",
        "macos": "qemu",
    },
    "ssh": {
        "debian": "openssh-client",
        "fedora": "openssh-clients",
        "suse": "openssh-clients",
        "arch": "openssh",
        "alpine": "openssh-client-default",
        "macos": "openssh",
    },
    "apt-get": {"debian": "apt"},
    "dpkg-deb": {"debian": "dpkg"},
    "mke2fs": {"debian": "e2fsprogs"},
    "mmdebstrap": {"debian": "mmdebstrap"},
}
"""The package that brings a program, by family."""

TINY_TOOLS = ("apt-get", "dpkg-deb", "mke2fs")
"""What the box ``tiny`` is made with, from the packages of this system's own archive."""


@hookimpl
def qup_checks() -> Sequence[Check]:
    """Everything below, in the order a person would look at it."""
    return (
        Check("python", "Python runs qup", check_python),
        Check("qemu", "QEMU for this computer's processor", check_qemu),
        Check("qemu-img", "The tool for disk images", check_qemu_img),
        Check("ssh", "The OpenSSH client", check_ssh),
        Check("kvm-device", "Access to hardware virtualisation", check_kvm_device),
        Check("memory", "Memory for machines", check_memory),
        Check("runtime-folder", "The folder for sockets", check_runtime_folder),
        Check("cache-folder", "The folder for boxes", check_cache_folder),
        Check("tiny-tools", "What the box 'tiny' is made with", check_tiny_tools),
        Check("debian-tools", "What the box 'debian/12' is made with", check_debian_tools),
        Check("user", "Who runs qup", check_user),
        Check("encoding", "The terminal's characters", check_encoding),
    )


# --- installing ---------------------------------------------------------------------------


def find_family(system: str) -> str | None:
    """The family of systems this one belongs to, or None if it is none that we know.

    By ``ID`` and ``ID_LIKE`` of ``os-release(5)``.
    """
    if system == "darwin":
        return "macos"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    words = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    aliases = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora", "opensuse": "suse"}
    for word in words:
        family = aliases.get(word, word)
        if family in INSTALL:
            return family
    return None


def advise_package(host: Host, program: str) -> tuple[str, tuple[str, ...]]:
    """The hint that says how to get a program, and the Debian packages that bring it."""
    names = PACKAGES.get(program) or {"debian": "qemu-system", "macos": "qemu"}
    family = find_family(host.system)
    if family == "debian":
        return f"qup doctor --fix, or: apt install {names['debian']}", (names["debian"],)
    if family in names:
        return f"{INSTALL[family]} {names[family]}", ()
    return f"install what Debian calls {names['debian']}", ()


def lacking(host: Host, program: str, why: str) -> Finding:
    """The finding for a program that isn't there."""
    hint, packages = advise_package(host, program)
    return Finding("problem", f"{program} is missing: {why}", hint, packages)


def find_program(host: Host, program: str) -> Path | None:
    """A program, also where Debian keeps root's: an ordinary PATH doesn't name those folders."""
    places = (program, f"/usr/sbin/{program}", f"/sbin/{program}")
    return next(filter(None, map(host.which, places)), None)


def show_version(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# --- programs -----------------------------------------------------------------------------


def check_python(_host: Host) -> Sequence[Finding]:
    version = sys.version_info[:3]
    said = f"Python {show_version(version)}"
    if version < OLDEST_PYTHON:
        oldest = show_version(OLDEST_PYTHON)
        return [Finding("problem", f"{said} is too old", f"qup needs {oldest} or newer")]
    return [Finding("ok", f"{said}, {sys.executable}")]


def check_qemu(host: Host) -> Sequence[Finding]:
    program = f"qemu-system-{host.arch}"
    path = host.which(program)
    if path is None:
        return [lacking(host, program, "it runs the machines")]
    try:
        version = host.qemu_version(program)
    except HostError as exc:
        return [Finding("problem", f"{path}: {exc.message}", exc.hint)]
    said = f"QEMU {show_version(version)}, {path}"
    if version < OLDEST_QEMU:
        oldest = show_version(OLDEST_QEMU)
        return [Finding("problem", f"{said}: too old", f"qup needs QEMU {oldest} or newer")]
    if version < TESTED_QEMU:
        hint = f"qup is tested with {show_version(TESTED_QEMU)} and newer"
        return [Finding("warning", f"{said}: older than what qup is tested with", hint)]
    return [Finding("ok", said)]


def check_qemu_img(host: Host) -> Sequence[Finding]:
    path = host.which("qemu-img")
    if path is None:
        return [lacking(host, "qemu-img", "it makes the machines' disks")]
    return [Finding("ok", f"{path}")]


def check_ssh(host: Host) -> Sequence[Finding]:
    path = host.which("ssh")
    if path is None:
        return [lacking(host, "ssh", "it is how guests are reached")]
    try:
        said = run([path, "-V"], check=False, timeout=5).stderr.strip()
    except HostError as exc:
        return [Finding("problem", exc.message, exc.hint)]
    match = re.match(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)", said)
    if match is None:
        hint = "qup writes configuration for OpenSSH"
        return [Finding("warning", f"{path} is not OpenSSH: {said[:60]!r}", hint)]
    if (int(match[1]), int(match[2])) < OLDEST_SSH:
        hint = f"qup needs OpenSSH {show_version(OLDEST_SSH)} or newer"
        return [Finding("warning", f"{match[0]} is old, {path}", hint)]
    return [Finding("ok", f"{said.partition(',')[0]}, {path}")]


def check_tiny_tools(host: Host) -> Sequence[Finding]:
    missing = [tool for tool in TINY_TOOLS if find_program(host, tool) is None]
    if not missing:
        return [Finding("ok", "the box 'tiny' can be made here")]
    if find_family(host.system) != "debian":
        message = f"the box 'tiny' can't be made here: no {', '.join(missing)}"
        hint = 'it is made from Debian packages; use a disk image: box = "path/to/image.qcow2"'
        return [Finding("warning", message, hint)]
    return [lacking(host, tool, "the box 'tiny' is made with it") for tool in missing]


def check_debian_tools(host: Host) -> Sequence[Finding]:
    """Not having it is no problem: most machines are of other boxes."""
    if find_program(host, "mmdebstrap") is not None:
        return [Finding("ok", "the box 'debian/12' can be made here")]
    if find_family(host.system) != "debian":
        return []
    message = "the box 'debian/12' can't be made here: no mmdebstrap"
    return [Finding("note", message, "for that box: apt install mmdebstrap")]


# --- the computer -------------------------------------------------------------------------


def check_kvm_device(host: Host) -> Sequence[Finding]:
    """Whether the device may be opened; whether it works is for the accelerators to prove."""
    if host.system != "linux":
        return []
    if not KVM.exists():
        hint = (
            "turn on virtualisation in the firmware, or nested virtualisation for this virtual"
            " machine; for a container: --device /dev/kvm"
        )
        return [Finding("warning", f"no {KVM}: guests are emulated, which is slow", hint)]
    if os.access(KVM, os.R_OK | os.W_OK):
        return [Finding("ok", f"{KVM} may be opened")]
    info = KVM.stat()
    group = _group_name(info.st_gid)
    if info.st_mode & stat.S_IWGRP and info.st_gid != 0:
        hint = f'sudo usermod -aG {group} "$USER", then log in again'
    else:
        hint = f"the administrator has to give group kvm access: chgrp kvm {KVM}; chmod 660 {KVM}"
    return [Finding("warning", f"{KVM} may not be opened: guests are emulated, slowly", hint)]


def _group_name(gid: int) -> str:
    import grp  # absent on Windows

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def check_memory(host: Host) -> Sequence[Finding]:
    free = find_free_memory(host)
    said = f"{free} MiB of {host.memory_mib} MiB are free"
    hint = 'stop other machines, or give them less: memory = "256M"'
    if free < NO_MEMORY:
        return [Finding("problem", f"{said}: too little for any machine", hint)]
    if free < LITTLE_MEMORY:
        return [Finding("warning", f"{said}: less than a machine takes by default", hint)]
    return [Finding("ok", said)]


def find_free_memory(host: Host) -> int:
    """MiB that new programs can have: what the kernel says, and a container's limit.

    See ``proc_meminfo(5)`` and ``memory.max`` of the kernel's ``cgroup-v2.rst``.
    """
    free = host.memory_mib
    if match := re.search(r"^MemAvailable: *(\d+) kB", _read(MEMINFO), re.MULTILINE):
        free = int(match[1]) // 1024
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free = min(free, max(0, int(limit) - int(used)) // (1024 * 1024))
    return free


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


# --- folders ------------------------------------------------------------------------------
# Where they are is qup.paths' decision; tests compare the two.


def find_runtime_folder() -> Path:
    """``$QUP_RUNTIME_DIR``, else one in ``$XDG_RUNTIME_DIR`` or the temporary folder."""
    fallback = Path(tempfile.gettempdir()) / f"qup-{os.getuid()}"
    if named := os.environ.get("QUP_RUNTIME_DIR"):
        return Path(named).absolute()
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and os.access(base, os.W_OK):
        folder = Path(base).absolute() / "qup"
        return folder if fits_sockets(folder) else fallback
    return fallback


def find_cache_folder(system: str) -> Path:
    """``$QUP_CACHE_DIR``, else where this system keeps caches."""
    if named := os.environ.get("QUP_CACHE_DIR"):
        return Path(named).absolute()
    home = Path("~").expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "qup"
    return home / ("Library/Caches/qup" if system == "darwin" else ".cache/qup")


def fits_sockets(folder: Path) -> bool:
    return len(os.fsencode(folder)) + SOCKET_NAME <= SOCKET_PATH_LIMIT


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_runtime_folder(_host: Host) -> Sequence[Finding]:
    folder = find_runtime_folder()
    hint = "set QUP_RUNTIME_DIR to a short path of a folder of your own"
    if not fits_sockets(folder):
        return [Finding("problem", f"{folder}: too long a path for sockets", hint)]
    if not os.path.lexists(folder):
        parent = existing_parent(folder)
        if not os.access(parent, os.W_OK | os.X_OK):
            return [Finding("problem", f"{folder} can't be created: no right to {parent}", hint)]
        return [Finding("ok", f"{folder} (will be created)")]
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        return [Finding("problem", f"{folder} belongs to somebody else or is no folder", hint)]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [Finding("problem", f"{folder} can't be written to", f"chmod 700 {folder}")]
    if stat.S_IMODE(info.st_mode) & 0o077:
        # The sockets in it control machines, with this user's rights.
        fix = ("chmod", "700", str(folder))
        return [Finding("warning", f"others may enter {folder}", "chmod 700 it", fix=fix)]
    return [Finding("ok", f"{folder}")]


def check_cache_folder(host: Host) -> Sequence[Finding]:
    folder = find_cache_folder(host.system)
    hint = "make room, or set QUP_CACHE_DIR to a folder on another disk"
    existing = existing_parent(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return [Finding("problem", f"{folder} can't be written to", hint)]
    free = shutil.disk_usage(existing).free // (1024 * 1024)
    said = f"{folder}, {free / GIB:.1f} GiB free"
    if free < NO_SPACE:
        return [Finding("problem", f"{said}: too little for any box", hint)]
    if free < LITTLE_SPACE:
        return [Finding("warning", f"{said}: little for boxes and disks", hint)]
    return [Finding("ok", said)]


# --- people -------------------------------------------------------------------------------


def check_user(_host: Host) -> Sequence[Finding]:
    if os.geteuid() == 0:
        return [Finding("ok", "root; it works, but nothing in qup needs it")]
    return [Finding("ok", f"an ordinary user (uid {os.getuid()})")]


def check_encoding(_host: Host) -> Sequence[Finding]:
    """File names and messages in anything but UTF-8 come out garbled."""
    files, terminal = sys.getfilesystemencoding(), sys.stdout.encoding or "ascii"
    odd = {name.lower() for name in (files, terminal)} - {"utf-8", "utf8"}
    if odd:
        message = f"file names are {files}, the terminal is {terminal}"
        return [Finding("warning", message, "use UTF-8: export LC_ALL=C.UTF-8")]
    return [Finding("ok", "UTF-8")]
