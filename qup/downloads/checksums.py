"""Digests of files: given, or found in lists beside the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

from qup.downloads.addresses import redact_url
from qup.downloads.documents import fetch_text
from qup.downloads.errors import MissingError, RefusedError
from qup.errors import BoxError

LENGTHS = {64: "sha256", 96: "sha384", 128: "sha512"}
"""Hexadecimal digits of the algorithms that are trusted; MD5 and SHA-1 are not."""

BESIDE = ("{name}.sha256", "{name}.sha256sum", "SHA256SUMS", "sha256sum.txt", "SHA512SUMS",
          "CHECKSUM")  # fmt: skip
"""Where a file's digest may be, beside it; the first that has it counts."""

_COREUTILS = re.compile(r"\\?([0-9a-fA-F]{64,128})[ \t]+\*?(.+)")
_BSD = re.compile(r"SHA-?(?:256|384|512) ?\((.+)\) ?= ?([0-9a-fA-F]{64,128})")
_BARE = re.compile(r"([0-9a-fA-F]{64,128})")


@dataclass(frozen=True)
class Digest:
    """A file's digest.

    Attributes:
        algorithm: ``sha256``, ``sha384`` or ``sha512``.
        value: in lower case hexadecimal.
        origin: who said so: a URL, or empty for whoever asked.
    """

    algorithm: str
    value: str
    origin: str = ""

    @classmethod
    def parse(cls, text: str, origin: str = "") -> Digest:
        """Read ``sha256:<hex>`` or the digits alone.

        Raises:
            BoxError: it is no digest of a kind that is trusted.
        """
        algorithm, _, value = text.strip().lower().rpartition(":")
        known = LENGTHS.get(len(value))
        if known is None or not _BARE.fullmatch(value) or algorithm not in ("", known):
            raise BoxError(
                f"{text[:80]!r} is not a SHA-256 or SHA-512 digest",
                hint="write 'sha256:' (in an address '#sha256=') and 64 hexadecimal digits",
            )
        return cls(known, value, origin)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"

    def start(self) -> hashlib._Hash:
        """A hash object of its algorithm."""
        return hashlib.new(self.algorithm)


def parse_sums(text: str, name: str, *, alone: bool = False) -> str | None:
    """Find a file's digest in a list of checksums.

    Args:
        text: as sha256sum(1) writes it, plain or with ``--tag``; a signature around it and
            other lines do no harm.
        name: the file's name, without folders.
        alone: the list is about this file only, so a digest without a name is its, and so is the
            only one under another name: "latest" links have lists that name what they lead to.

    Returns:
        ``sha256:<hex>`` or the like, or None.
    """
    found = [(value.lower(), named) for value, named in _entries(text) if len(value) in LENGTHS]
    fitting = [value for value, named in found if named == name or (alone and named is None)]
    if not fitting and alone and len(found) == 1:
        fitting = [found[0][0]]
    return f"{LENGTHS[len(fitting[0])]}:{fitting[0]}" if fitting else None


def _entries(text: str) -> Iterator[tuple[str, str | None]]:
    for line in text.splitlines():
        line = line.strip()  # noqa: PLW2901
        if match := _COREUTILS.fullmatch(line):
            yield match[1], match[2].rpartition("/")[2]
        elif match := _BSD.fullmatch(line):
            yield match[2], match[1].rpartition("/")[2]
        elif match := _BARE.fullmatch(line):
            yield match[1], None


def find_digest(url: str) -> Digest | None:
    """Look for a file's digest beside it, in the places where distributors put it.

    Args:
        url: the file's address.

    Returns:
        The digest, or None if nobody says.

    Raises:
        OfflineError: the network is not to be used.
        BoxError: the server can't be asked.
    """
    path = urlsplit(url).path
    name = unquote(path.rpartition("/")[2])
    for pattern in BESIDE:
        place = urljoin(url, pattern.format(name=path.rpartition("/")[2]))
        try:
            text = fetch_text(place)
        except (MissingError, RefusedError):  # some servers say so of what isn't there
            continue
        found = parse_sums(text, name, alone="{name}" in pattern)
        if found is not None:
            return Digest.parse(found, redact_url(place))
    return None
