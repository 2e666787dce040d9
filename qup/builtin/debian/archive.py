"""Where the packages come from: the computer's own apt sources, as apt understands them.

No address is written down here. A computer whose sources have another release of Debian has the
address of its archive, too, and the keys of the package ``debian-archive-keyring`` are good for
all releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qup.builtin.tiny.debs import Apt
from qup.builtin.tiny.errors import RecipeError

COMPONENT = "main"
POCKETS = ("", "-updates", "-security")
"""The parts of a release: itself, its updates, its security updates (``sources.list(5)``)."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""In the package ``debian-archive-keyring``, here and in the guest."""

_SIGNED_BY = re.compile(r"signed-by[=:]\s*(/[^\s\],]+)", re.IGNORECASE)
_SETTING = re.compile(r'^(Acquire::(?:https?|Check-[\w-]+|Retries)\b[^ ]*) "(.*)";$', re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A part of an archive: an address, a release or a pocket of it, and the key's file."""

    uri: str
    release: str
    keyring: str | None

    def line(self, *, keyring: bool = True) -> str:
        """As ``sources.list(5)`` has it."""
        signed = f"[signed-by={self.keyring}] " if keyring and self.keyring else ""
        return f"deb {signed}{self.uri} {self.release} {COMPONENT}"


def find_sources(apt: Apt, suite: str, arch: str) -> list[Source]:
    """The sources of one release of Debian, by this computer's apt.

    Args:
        apt: it is asked, with its own lists if the computer's don't say whose archive is whose.
        suite: the release's code name.
        arch: Debian's word for the processor.

    Raises:
        RecipeError: no source is Debian's.
    """
    targets = list(parse_targets(apt.targets(), arch))
    if not choose_sources(targets, suite):
        # A computer that was made small has no lists, and only they say what is Debian's.
        failed = apt.fetch_lists()
        targets = list(parse_targets(apt.targets(), arch))
        if failed and not targets:
            raise failed
    found = choose_sources(targets, suite)
    if not found:
        known = ", ".join(sorted({uri for uri, *_ in targets})) or "none"
        raise RecipeError(
            f"this computer's apt sources have nothing of Debian for {arch} (there are: {known})",
            "add Debian's archive to /etc/apt/sources.list.d (man 5 sources.list)",
        )
    return found


Target = tuple[str, str, str, str]
"""An archive's address, the release, who it is by, and where the source is written down."""


def parse_targets(listing: str, arch: str) -> Iterator[Target]:
    """Read ``apt-get indextargets``: the lists of packages of our component for a processor."""
    for paragraph in listing.split("\n\n"):
        fields = {
            key: value.strip()
            for key, colon, value in (line.partition(":") for line in paragraph.splitlines())
            if colon
        }
        if fields.get("Component") == COMPONENT and fields.get("Architecture") == arch:
            yield (
                fields.get("Repo-URI", ""),
                fields.get("Release", ""),
                fields.get("Origin", ""),
                fields.get("Sourcesentry", ""),
            )


def choose_sources(targets: Iterable[Target], suite: str) -> list[Source]:
    """Debian's own among the targets, each for the release that is wanted."""
    ours = [target for target in targets if target[2] == "Debian" and target[0]]
    exact = [target for target in ours if target[1] in {suite + pocket for pocket in POCKETS}]
    if any(release == suite for _, release, *_ in exact):
        chosen = [(uri, release, entry) for uri, release, _, entry in exact]
    else:
        chosen = list(_translate(ours, suite))
    sources = [Source(uri, release, _find_keyring(entry)) for uri, release, entry in chosen]
    return list(dict.fromkeys(sources))


def _translate(targets: Iterable[Target], suite: str) -> Iterator[tuple[str, str, str]]:
    """The same archives for another release: only pockets that every release has."""
    for uri, release, _, entry in targets:
        _, dash, pocket = release.partition("-")
        if dash + pocket in POCKETS:
            yield uri, f"{suite}{dash}{pocket}", entry


def _find_keyring(entry: str) -> str | None:
    """The key that a source names (``FILE:N``: its line or its paragraph), or Debian's."""
    name, _, number = entry.rpartition(":")
    try:
        text = Path(name).read_text(encoding="utf-8", errors="replace")
        parts = re.split(r"\n\s*\n", text) if name.endswith(".sources") else text.splitlines()
        if match := _SIGNED_BY.search(parts[int(number) - 1]):
            return match[1]
    except (OSError, ValueError, IndexError):
        pass  # then apt's own default does, as it did for this computer
    return str(KEYRING) if KEYRING.exists() else None


def find_settings(dump: str) -> list[str]:
    """What of apt's settings a download here needs: proxies, certificates, how old it may be."""
    return [f'{key} "{value}";' for key, value in _SETTING.findall(dump) if value]
