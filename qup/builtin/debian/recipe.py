"""How a Debian box is made: ``build`` turns a release into kernel, initrd and root disk.

``mmdebstrap`` installs Debian's packages into a folder, as root, in a user namespace, or under
fakechroot, whichever this computer allows. The root file system is made from that folder by
``mke2fs -d`` in the same namespace, where files have their owners. Kernel and initrd are beside
the disk: QEMU enters the kernel directly, and the initrd is ours (``guest/init``).

The kernel is Debian's for all computers, not the one for clouds: it has VMGENID, 9p, AHCI and
graphics. What is only good for real hardware is left out of the root.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from qup.api import HostError, Result, follow
from qup.builtin.debian import archive, boot
from qup.builtin.debian.workplace import Workplace, in_namespace, open_workplace
from qup.builtin.tiny import debs
from qup.builtin.tiny.debs import Report
from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.recipe import DISK_FEATURES

RECIPE = "1.0"
"""The version of this recipe."""

USER = "debian"

SUITES = {"12": "bookworm", "13": "trixie"}
"""Releases by number."""

PACKAGES = (
    *("systemd-sysv", "systemd-resolved", "udev", "dbus", "libpam-systemd", "kmod"),
    *("openssh-server", "openssh-client", "cloud-init", "qemu-guest-agent", "sudo"),
    # sudo asks for the guest's own name; Debian 13's resolved doesn't know it after a change.
    "libnss-myhostname",
    *("ca-certificates", "iproute2", "netbase", "procps", "less", "e2fsprogs", "rsync"),
    "busybox-static",  # the initrd's
)
"""What every machine needs, besides what is essential to Debian."""

KERNEL = "linux-image-{arch}"

UNWANTED = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"),
    *("/usr/share/lintian/*", "/usr/share/bug/*"),
)
WANTED = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
DRIVERS = (
    *("bluetooth", "comedi", "cpufreq", "edac", "firewire", "gpu", "hwmon", "iio", "infiniband"),
    *("isdn", "leds", "media", "memstick", "mfd", "mmc", "mtd", "net/ethernet", "net/wireless"),
    *("net/wwan", "net/can", "nfc", "parport", "pcmcia", "platform", "scsi/*", "staging"),
    *("thunderbolt", "usb/gadget", "usb/serial", "media", "accel", "crypto/*", "input/*"),
)
"""Drivers of real hardware, below ``drivers/``: two thirds of the kernel's package."""
USEFUL = (
    *("gpu/drm/drm*", "gpu/drm/ttm/*", "gpu/drm/virtio/*", "gpu/drm/bochs*", "gpu/drm/tiny/*"),
    *("gpu/drm/qxl/*", "crypto/ccp/*", "net/ethernet/intel/e1000*", "net/ethernet/realtek/8139*"),
    *("net/ethernet/intel/igb*", "crypto/virtio/*", "input/serio/*", "input/mouse/*"),
)
"""Those of QEMU's devices among them."""

CMDLINE = (
    # As box tiny's, see there; eth0 is eth0, whatever slot the card is in.
    "console={console} quiet panic=1 cryptomgr.notests noreplace-smp no_timer_check net.ifnames=0"
)


@dataclass(frozen=True)
class Machine:
    """What differs between processors: Debian's name of it, and the console."""

    debian: str
    console: str


ARCHES = {"x86_64": Machine("amd64", "ttyS0"), "aarch64": Machine("arm64", "ttyAMA0")}
"""Processors by QEMU's names; the second is made the same way but is not tested."""

DISK_SIZE = 2 << 30
"""The smallest disk (in bytes) of a machine; systemd grows the file system to the real one."""

CLEANUP = ("apt", "mmdebstrap", "reproducible", "run", "tmp")
"""All that mmdebstrap cleans up in the root at the end."""

SPACE = 2_500_000_000
"""Bytes that unpacked packages take while the box is made."""

TIMEOUT = 3600.0
"""Seconds for the whole of mmdebstrap: a slow mirror on a slow computer."""

_WORDS = re.compile(r"^I: (.*?)(\.\.\.)?$")
_FAILURES = ("E:", "Err:", "dpkg: error")
_ECHOES = ("E: setup failed", "E: command failed", "E: mmdebstrap failed to run")
"""What mmdebstrap says when something has said more before."""
_SHELL = re.compile(r"(?:exec|sh|mke2fs|tar|mount|chroot)(?:: \d+)?: ")
_TOLD = ("running apt-get update", "downloading", "extracting", "installing", "running")


@dataclass(frozen=True)
class Manifest:
    """What was made, for the box's details.

    Attributes:
        recipe: the recipe's version.
        suite: the release's code name.
        kernel: the kernel's release, as ``uname -r`` in the guest prints it.
        sources: the archives that the packages came from.
        packages: ``name version`` of each.
    """

    recipe: str
    suite: str
    kernel: str
    sources: tuple[str, ...]
    packages: tuple[str, ...]


def build(
    out: Path, *, suite: str, arch: str, report: Report, packages: Sequence[str] = (),
    disabled: Sequence[str] = (),
) -> Manifest:  # fmt: skip
    """Make the box in an empty folder.

    Args:
        out: the folder.
        suite: the release's code name.
        arch: QEMU's word for the processor, which must be this computer's.
        report: called with one line about each step that takes time.
        packages: more of them.
        disabled: units of these that don't start by themselves.

    Raises:
        RecipeError: the host lacks a tool, a source, space or a permission, or a download failed.
    """
    arch = ARCHES[arch].debian
    for tool, package in (("mmdebstrap", "mmdebstrap"), ("qemu-img", "qemu-utils")):
        debs.find_tool(tool, package)
    with debs.open_apt(arch, out, report) as apt:
        if not apt.serves():
            raise RecipeError(
                f"a Debian for {arch} can't be made on a computer with another processor",
                f"make it on one with {arch}, and copy the box",
            )
        sources = archive.find_sources(apt, suite, arch)
        settings = archive.find_settings(apt.settings())
    root, parts = out / "root.raw", out / "boot.tar"
    with open_workplace(_choose_workplace(out)) as place:
        overlay = place.folder / "overlay.tar"
        overlay.write_bytes(make_overlay(sources))
        words = [*in_namespace(), *_arguments(suite, arch, sources, settings, overlay, packages)]
        _bootstrap(words, (root, parts), place, report, disabled)
    report("writing the box")
    release, installed = boot.make_boot(parts, out)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-W", "-m", "4"]
    convert += ["-o", "compression_type=zstd", str(root), str(out / "disk.qcow2")]
    debs.run_tool(convert, cwd=out, timeout=TIMEOUT)
    for path in (root, parts):
        path.unlink()
    lines = tuple(source.line(keyring=False) for source in sources)
    return Manifest(RECIPE, suite, release, lines, installed)


def _arguments(
    suite: str, arch: str, sources: Sequence[archive.Source], settings: Sequence[str],
    overlay: Path, packages: Sequence[str],
) -> Iterator[str]:  # fmt: skip
    """Mmdebstrap's words (``mmdebstrap(1)``)."""
    yield from ("mmdebstrap", "--mode=auto", "--format=null", "--variant=minbase")
    # The hook has made the image by then, and the folder goes: nothing is left to clean up.
    yield f"--skip={','.join(f'cleanup/{what}' for what in CLEANUP)}"
    yield f"--architectures={arch}"
    yield f"--include={','.join([KERNEL.format(arch=arch), *PACKAGES, *packages])}"
    for setting in settings:
        yield f"--aptopt={setting}"
    # Nothing is lost if the power fails: it is made anew.
    yield "--dpkgopt=force-unsafe-io"
    for kind, patterns in (("exclude", UNWANTED), ("include", WANTED)):
        yield from (f"--dpkgopt=path-{kind}={pattern}" for pattern in patterns)
    modules = "*/lib/modules/*/kernel"
    for pattern in ("sound", "net/bluetooth", "net/mac80211", "net/wireless"):
        yield f"--dpkgopt=path-exclude={modules}/{pattern}/*"
    for kind, names in (("exclude", DRIVERS), ("include", USEFUL)):
        for name in names:
            pattern = name if name.endswith("*") and kind == "include" else f"{name}/*"
            yield f"--dpkgopt=path-{kind}={modules}/drivers/{pattern}"
    yield f"--customize-hook=tar-in {overlay} /"
    yield f"--customize-hook={_resource('customize.sh').read_text(encoding='utf-8')}"
    yield from (suite, "/dev/null")
    yield from (source.line() for source in sources)


def _bootstrap(
    argv: Sequence[str], files: tuple[Path, Path], workplace: Workplace, report: Report,
    disabled: Sequence[str],
) -> None:  # fmt: skip
    """Run mmdebstrap; it fills the two files: the root file system, and what boots it."""
    mke2fs = [
        *(debs.find_tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-L", "qup-root"),
        *("-O", f"none,{DISK_FEATURES}", "-b", "4096", "-I", "256", "-i", "16384", "-m", "1"),
        *("-J", "size=64", "-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"),
    ]
    opened: list[int] = []
    try:
        for path in files:
            opened.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            # In a user namespace we are somebody else, who opens the file anew by /proc; nobody
            # else gets at it, as the folder is closed to them.
            os.fchmod(opened[-1], 0o666)
        os.ftruncate(opened[0], DISK_SIZE)
        environment = {
            "TMPDIR": os.fspath(workplace.folder),
            "LC_ALL": "C.UTF-8",
            "INITRD": "No",  # the kernel's package need not make one: it takes half a minute
            "DEBIAN_FRONTEND": "noninteractive",
            "MKE2FS_CONFIG": os.devnull,
            "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
            "BOX_USER": USER,
            "BOX_DISABLED": " ".join(disabled),
            "BOX_MKE2FS": " ".join(mke2fs),
            "BOX_ROOT_FD": str(opened[0]),
            "BOX_BOOT_FD": str(opened[1]),
        }
        result = follow(
            argv, lambda line: _tell(line, report), env=environment,
            descriptors=[*opened, workplace.handle], timeout=TIMEOUT,
        )  # fmt: skip
    except HostError as exc:
        raise RecipeError(exc.message, exc.hint or "look at the network and at the disk") from exc
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if result.code != 0:
        raise explain_failure(result, workplace.folder.parent)


def _tell(line: str, report: Report) -> None:
    """What mmdebstrap does, in its own words; hooks are named by their whole text."""
    match = _WORDS.match(line)
    if match and match[1].startswith(_TOLD) and "hook" not in match[1]:
        report(match[1])


def explain_failure(result: Result, workplace: Path) -> RecipeError:
    """Why mmdebstrap failed, from its words."""
    said = result.stdout
    lines = [line for line in said.splitlines() if line.startswith(_FAILURES)]
    telling = [line for line in lines if not line.startswith(_ECHOES)]
    shell = [line for line in said.splitlines() if _SHELL.match(line)]
    reason = next(iter([*telling, *shell]), said[-300:].strip())
    reason = reason.removeprefix("E:").strip() or result.outcome
    hint = "its last lines: " + " | ".join(said.splitlines()[-3:])
    if "No space left on device" in said:
        reason = f"no space left in {workplace}"
        hint = f"{SPACE / 1e9:.1f} GB are needed there for a while; TMPDIR names another folder"
    elif re.search(r"Could not resolve|Could not connect|Failed to fetch|Unable to connect", said):
        hint = "does 'apt-get update' work? Look at the network, a proxy, and the apt sources"
    elif re.search(r"Unable to locate package (\S+)", said):
        hint = "the release has no package of that name: look at the list of packages"
    elif re.search(r"NO_PUBKEY|not signed|EXPKEYSIG", said):
        hint = "install the package debian-archive-keyring, which has the keys of Debian's archive"
    elif re.search(r"newuidmap|subuid|unable to pick chroot mode|unshare.* failed", reason):
        hint = (
            "without root it takes a user namespace (install the package uidmap, and have a line"
            " in /etc/subuid and /etc/subgid) or the packages fakechroot and fakeroot;"
            " 'sudo qup box build' makes the box for root alone"
        )
    return RecipeError(f"mmdebstrap failed: {reason}", hint)


def _choose_workplace(out: Path) -> Path:
    """A folder for the unpacked packages: roomy, and open to the user that we are in there.

    Raises:
        RecipeError: none has the space.
    """
    places = [Path(tempfile.gettempdir()), Path("/var/tmp")]
    if os.getuid() == 0:
        places.append(out)
    for place in places:
        if _is_open(place) and shutil.disk_usage(place).free > SPACE:
            return place
    raise RecipeError(
        f"there is no space: {SPACE / 1e9:.1f} GB are needed for a while",
        f"free some in {places[0]}, or set TMPDIR to another folder",
    )


def _is_open(place: Path) -> bool:
    if not place.is_dir():
        return False
    above = all(folder.stat().st_mode & 0o001 for folder in (place, *place.parents))
    return os.getuid() == 0 or (above and bool(place.stat().st_mode & 0o002))


def make_overlay(sources: Sequence[archive.Source]) -> bytes:
    """The files of ``guest/root`` and apt's sources as a tar archive that belongs to root."""
    files = dict(_walk(_resource("guest") / "root"))
    guest = f"[signed-by={archive.KEYRING}] "
    lines = (source.line(keyring=False).replace("deb ", f"deb {guest}", 1) for source in sources)
    files["etc/apt/sources.list"] = "".join(f"{line}\n" for line in lines).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def digest_recipe() -> str:
    """Changes with every file of this recipe."""
    digest = hashlib.sha256(RECIPE.encode())
    for path, data in sorted(_walk(importlib.resources.files("qup.builtin.debian"))):
        digest.update(f"{path}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:12]


def _resource(name: str) -> Traversable:
    return importlib.resources.files("qup.builtin.debian") / name


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for item in folder.iterdir():
        if item.is_dir():
            if item.name != "__pycache__":
                yield from _walk(item, f"{prefix}{item.name}/")
        else:
            yield f"{prefix}{item.name}", item.read_bytes()
