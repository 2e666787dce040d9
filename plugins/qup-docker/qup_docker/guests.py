"""What a guest is and has: found out in one command, changed in another.

Scripts go through standard input: a key in a command line could be read by everybody in the guest.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qup.api import Guest, Result
from qup_docker.options import is_address

ROOT = ("sudo", "-n", "sh", "-s")
END = "QUP_END_OF_FILE"

_LOOK = """
say() { printf '%s=%s\\n' "$1" "$2"; }
find() { PATH=$PATH:/usr/sbin:/sbin command -v "$1"; }
first() { { read -r word <"$1" && echo "$word"; } 2>/dev/null; }
if [ -r /etc/os-release ]; then . /etc/os-release; fi
say id "$ID"; say title "$PRETTY_NAME"
say hostname "$(first /proc/sys/kernel/hostname)"
say user "${SUDO_USER:-root}"
say groups "$(id -Gn "${SUDO_USER:-root}")"
say engine "$(find dockerd)"
say apt "$(find apt-get)"
say half "$(sed -n '/^Package: \\(docker.io\\|containerd\\|runc\\|iptables\\|apparmor\\)$/{
    n; / \\(unpacked\\|half-[a-z]*\\)$/{ p; q; }
}' /var/lib/dpkg/status 2>/dev/null)"
say parser "$(find apparmor_parser)"
say apparmor "$(first /sys/module/apparmor/parameters/enabled)"
if [ -d /run/systemd/system ]; then
    say systemd yes
    say active "$(systemctl is-active docker.service)"
fi
echo addresses
ip -o address show scope global 2>/dev/null
echo digests
sha256sum "$@" 2>/dev/null
echo lines
set -- /etc/docker/daemon.json /etc/docker/qup.json
for folder in UNITS; do
    set -- "$@" "$folder"/docker.service "$folder"/docker.service.d/*.conf
done
grep -s '' /dev/null "$@"
exit 0
"""
UNITS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
"""Where units are; what is first hides what is later (``systemd.unit(5)``)."""
_NETWORKS_OF_ENGINES = ("docker", "br-", "veth", "virbr", "cni")


@dataclass(frozen=True)
class Facts:
    """What was found out about a guest.

    Attributes:
        values: by name: ``id`` (the distribution's), ``hostname``, ``user``, ``engine`` ...
        addresses: its own, without those of the engine's networks.
        digests: SHA-256 of the files that were looked at, by path; of those that are there.
        texts: contents of files by path: configuration and units of the engine.
    """

    values: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """A value; empty if there is none."""
        return self.values.get(name, "")

    @property
    def names(self) -> tuple[str, ...]:
        """The guest's name and its addresses."""
        hostname = self.get("hostname")
        named = (hostname,) if hostname and not is_address(hostname) else ()
        return (*named, *self.addresses)

    def differs(self, files: Mapping[str, File]) -> list[str]:
        """The paths of the files that are not in the guest as they should be."""
        return [path for path, file in files.items() if self.digests.get(path) != file.digest]


@dataclass(frozen=True)
class File:
    """A file that the guest shall have; it belongs to root."""

    text: str
    mode: str = "644"

    @property
    def digest(self) -> str:
        """As ``sha256sum`` has it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Family(Protocol):
    """A kind of guest, with its own way to configure and to start an engine."""

    def files(
        self, facts: Facts, options: object, ca: str, certificate: str, key: str
    ) -> Mapping[str, File]:
        """The files that make the engine what it shall be, by path.

        Raises:
            ProvisionError: an option can't be told this kind of guest.
        """

    def settle(self) -> str:
        """A script that waits for whoever else writes these files."""

    def restart(self, changed: Sequence[str]) -> str:
        """A script that makes the engine read these files, and ends when it listens."""

    def start(self) -> str:
        """A script that starts the engine unless it runs, and ends when it listens."""

    def complain(self) -> str:
        """A script that prints the engine's own last words."""


def look(guest: Guest, paths: Sequence[str]) -> Facts:
    """Find out about a guest, in one command of few processes: each is some time in emulation.

    Args:
        guest: the guest.
        paths: files whose digests are wanted.

    Raises:
        ProvisionError: the user is not root there and may not become it.
    """
    script = _LOOK.replace("UNITS", " ".join(UNITS))
    return parse_facts(guest.run([*ROOT, *paths], input=script).stdout)


def parse_facts(text: str) -> Facts:
    """Read what the guest said."""
    values: dict[str, str] = {}
    addresses: list[str] = []
    digests: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    part = ""
    for line in text.splitlines():
        # The headings are in the order of the alphabet: a line of a file can't be taken for one.
        if line in ("addresses", "digests", "lines") and line > part:
            part = line
        elif part == "":
            name, _, value = line.partition("=")
            values[name] = value
        elif part == "addresses":
            _, card, _, address, *flags = line.split()
            # One that changes every day would make a new certificate every day.
            if not card.startswith(_NETWORKS_OF_ENGINES) and "temporary" not in flags:
                addresses.append(address.partition("/")[0])
        elif part == "digests":
            digest, _, path = line.partition("  ")
            digests[path] = digest
        else:
            path, _, rest = line.partition(":")
            texts.setdefault(path, []).append(rest)
    joined = {path: "\n".join(lines) for path, lines in texts.items()}
    return Facts(values, tuple(addresses), digests, joined)


def write_files(files: Mapping[str, File]) -> str:
    """A script that puts files in their places, each written aside first."""
    lines = ["set -eu", "umask 077"]
    for path, file in files.items():
        place = shlex.quote(path)
        text = file.text if file.text.endswith("\n") else f"{file.text}\n"
        lines += [
            f"mkdir -p {shlex.quote(path.rpartition('/')[0])}",
            f"cat >{place}.qup-part <<'{END}'\n{text}{END}",
            f"chmod {file.mode} {place}.qup-part",
            f"mv -f {place}.qup-part {place}",
        ]
    return "\n".join(lines) + "\n"


def run_script(guest: Guest, script: str) -> Result:
    """Run a script as root; it need not succeed."""
    return guest.run(ROOT, input=script, check=False)
