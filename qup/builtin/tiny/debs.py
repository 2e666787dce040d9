"""Debian packages: which are needed, fetched by the host's own apt, read without unpacking.

apt chooses, downloads and verifies; nothing is installed and nothing needs root. On a computer
whose apt has no lists (or lists of another architecture) the lists are fetched into a directory
of our own, from the sources that the computer already trusts. So it is where the lists are too
old to download by, or where the computer has a package installed that no source has any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.tree import Entry

Report = Callable[[str], None]

APT_TIMEOUT = 600.0
"""Seconds for one call of apt: it waits for the network."""

DEB_TIMEOUT = 120.0
"""Seconds for reading one package."""

WORK_SPACE = 300_000_000
"""Bytes that packages and lists may take while the box is made; usually it is 50 MB."""


@dataclass(frozen=True)
class Package:
    """A package as it was used."""

    name: str
    version: str


@dataclass(frozen=True)
class Deb:
    """A downloaded package."""

    package: Package
    path: Path


def find_tool(name: str, package: str) -> str:
    """The path of a program, also from the directories that only root has on its PATH.

    Raises:
        RecipeError: it isn't installed.
    """
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    if found is None:
        raise RecipeError(
            f"it is made with {name}, which is not on this computer",
            f"install the package {package}; it exists on Debian and its kin",
        )
    return found


def run_tool(
    argv: Sequence[str],
    *,
    cwd: Path,
    timeout: float,
    env: dict[str, str] | None = None,
    hint: str = "",
) -> str:
    """Run a program and return what it printed.

    Raises:
        RecipeError: it failed; the message has the last line it wrote to stderr.
    """
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RecipeError(
            f"{Path(argv[0]).name} did not finish within {timeout:.0f} s",
            "look at the network, then try again",
        ) from error
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        last = (words or done.stderr.splitlines() or ["it said nothing"])[-1]
        raise RecipeError(
            f"{Path(argv[0]).name} failed: {last.removeprefix('E:').strip()}",
            hint or f"try it yourself: {' '.join(argv)}",
        )
    return done.stdout


class Apt:
    """The host's apt: at first with the host's lists, on demand with lists of its own."""

    def __init__(self, work: Path, arch: str, report: Report) -> None:
        self._get = find_tool("apt-get", "apt")
        self._cache = find_tool("apt-cache", "apt")
        self._work = work
        self._arch = arch
        self._report = report
        self._options: tuple[str, ...] = ("-q",)

    def serves(self) -> bool:
        """Whether the host's own lists are for the architecture that is wanted."""
        dpkg = [find_tool("dpkg", "dpkg"), "--print-architecture"]
        return run_tool(dpkg, cwd=self._work, timeout=DEB_TIMEOUT).strip() == self._arch

    def fetch_lists(self) -> RecipeError | None:
        """From now on use lists of our own.

        Returns:
            What went wrong: the lists that could be fetched may do.
        """
        self._options = ("-q", *self._private_options())
        self._report("fetching package lists")
        argv = [self._get, *self._options, "-o", "APT::Update::Error-Mode=any", "update"]
        try:
            run_tool(argv, cwd=self._work, timeout=APT_TIMEOUT, hint=_APT_HINT)
        except RecipeError as error:
            return error
        return None

    def offered(self, names: Sequence[str]) -> set[str]:
        """Those of the packages that apt would install: known, real, and not pinned away."""
        argv = [self._cache, *self._options, "policy", *names]
        return parse_policy(run_tool(argv, cwd=self._work, timeout=APT_TIMEOUT))

    def dependencies(self, roots: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What each package depends on, for the roots and everything below them."""
        flags = [f"--no-{kind}" for kind in _UNWANTED_RELATIONS]
        argv = [self._cache, *self._options, "depends", "--recurse", *flags, *roots]
        return parse_depends(run_tool(argv, cwd=self._work, timeout=APT_TIMEOUT))

    def download(self, names: Sequence[str]) -> list[Deb]:
        """Fetch and verify packages.

        Raises:
            RecipeError: apt could not.
        """
        target = self._work / "debs"
        target.mkdir(exist_ok=True)
        for line in self._announcements(names):
            self._report(line)
        argv = [self._get, *self._options, "download", *names]
        run_tool(argv, cwd=target, timeout=APT_TIMEOUT, hint=_APT_HINT)
        return [Deb(parse_file_name(path.name), path) for path in sorted(target.glob("*.deb"))]

    def targets(self) -> str:
        """Where packages are listed: ``apt-get indextargets``, with what is known of each."""
        argv = [self._get, *self._options, "indextargets", "Created-By: Packages"]
        return run_tool(argv, cwd=self._work, timeout=APT_TIMEOUT)

    def settings(self) -> str:
        """What apt is set to: ``apt-config dump``."""
        argv = [find_tool("apt-config", "apt"), "dump"]
        return run_tool(argv, cwd=self._work, timeout=APT_TIMEOUT)

    def _announcements(self, names: Sequence[str]) -> Iterator[str]:
        argv = [self._get, *self._options, "download", "--print-uris", *names]
        listing = run_tool(argv, cwd=self._work, timeout=APT_TIMEOUT)
        sizes = {name.partition("_")[0]: int(size) for name, size in _PRINTED_URI.findall(listing)}
        big = {name: size for name, size in sizes.items() if size > _WORTH_A_LINE}
        for name, size in big.items():
            yield f"downloading {name} ({size / 1e6:.0f} MB)"
        rest = sum(sizes.values()) - sum(big.values())
        yield f"downloading {len(sizes) - len(big)} more packages ({rest / 1e6:.0f} MB)"

    def _private_options(self) -> list[str]:
        """Options that keep apt's state here, while its sources and keys stay the system's."""
        status = self._work / "dpkg-status"
        status.touch()
        for directory in ("state/lists/partial", "cache/archives/partial"):
            (self._work / directory).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::State": self._work / "state",
            "Dir::State::Lists": self._work / "state/lists",
            "Dir::State::status": status,
            "Dir::Cache": self._work / "cache",
            "APT::Architecture": self._arch,
            "APT::Architectures": self._arch,
            "Acquire::Languages": "none",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


_APT_HINT = "does 'apt-get update' work? Look at the network, a proxy, and the apt sources"
_UNWANTED_RELATIONS = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
_PRINTED_URI = re.compile(r"^'[^']*' (\S+\.deb) (\d+)", re.MULTILINE)
_WORTH_A_LINE = 2_000_000


def parse_depends(listing: str) -> dict[str, tuple[str, ...]]:
    """Read ``apt-cache depends``; of alternatives the first counts, virtual ones are left out."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    skip = False
    for line in listing.splitlines():
        if line and not line.startswith((" ", "|")):
            current, skip = found.setdefault(line.partition(":")[0], []), False
            continue
        relation, colon, name = line.strip().partition(": ")
        if not colon:
            continue  # a provider of the virtual package above
        chosen, skip = not skip, relation.startswith("|")
        if chosen and relation.lstrip("|") in {"Depends", "PreDepends"} and name[0] != "<":
            current.append(name.partition(":")[0])
    return {name: tuple(dict.fromkeys(needs)) for name, needs in found.items()}


def parse_policy(listing: str) -> set[str]:
    """Read ``apt-cache policy``: the packages that have a candidate."""
    found: set[str] = set()
    current = ""
    for line in listing.splitlines():
        if line and not line.startswith(" "):
            current = line.partition(":")[0]
        elif line.startswith("  Candidate: ") and not line.endswith(" (none)"):
            found.add(current)
    return found


def parse_file_name(name: str) -> Package:
    """``busybox-static_1%3a1.35.0-4_amd64.deb`` is package and version."""
    package, version, _arch = name.split("_")
    return Package(package, version.replace("%3a", ":"))


@contextlib.contextmanager
def open_apt(arch: str, out: Path, report: Report) -> Iterator[Apt]:
    """An :class:`Apt` whose downloads vanish at the end.

    They are in the usual place for temporary files, or below ``out`` if there is little room.
    """
    roomy = shutil.disk_usage(tempfile.gettempdir()).free > WORK_SPACE
    with tempfile.TemporaryDirectory(prefix="qup-tiny-", dir=None if roomy else out) as name:
        work = Path(name)
        # apt drops root's rights for downloads, and then needs to get at the directory.
        work.chmod(0o755)
        yield Apt(work, arch, report)


def read_deb(path: Path, wanted: Callable[[str], bool]) -> dict[str, Entry]:
    """The members of a package that are wanted, by absolute path.

    Hard links are not followed: no package that we use has one among what we take.

    Raises:
        RecipeError: dpkg-deb refuses the file.
    """
    argv = [find_tool("dpkg-deb", "dpkg"), "--fsys-tarfile", str(path)]
    entries = {}
    damaged = RecipeError(f"dpkg-deb cannot read {path.name}", "try again: the file is damaged")
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as unpacker:
        assert unpacker.stdout is not None
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix(".")
                    if not wanted(name):
                        continue
                    if member.issym():
                        entries[name] = Entry(stat.S_IFLNK | 0o777, member.linkname.encode())
                    elif member.isreg() and (content := archive.extractfile(member)) is not None:
                        entries[name] = Entry(stat.S_IFREG | member.mode, content.read())
        except (tarfile.TarError, EOFError) as error:
            raise damaged from error
        unpacker.stdout.read()
    if unpacker.returncode != 0:
        raise damaged
    return entries
