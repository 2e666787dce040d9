"""A box by address: the words of a Qupfile's table, and the one line that stands for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhd", "vhdx")
"""What a disk image may be."""
DIGEST = re.compile(r"(?:sha256:)?[0-9a-fA-F]{64}|(?:sha512:)?[0-9a-fA-F]{128}")
KEYS = ("url", "sha256", "format", "version")
VERSION = re.compile(r"[0-9A-Za-z.<>=!~, -]{1,200}")
"""What ``version`` may be made of: what it means is a catalog's business."""


@dataclass(frozen=True)
class Reference:
    """Where a box is, and what is known about it.

    Attributes:
        url: its address or path.
        digest: ``sha256:<hex>`` or ``sha512:<hex>``.
        format: one of :data:`FORMATS`, when it is named.
        version: which of the versions in a catalog, such as ``~> 1.2``.
    """

    url: str
    digest: str | None = None
    format: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        """``URL#sha256=<hex>&format=raw&version=1.2``: what ``box`` may be, too."""
        words = [self.digest.replace(":", "=", 1)] if self.digest else []
        words += [f"format={self.format}"] if self.format else []
        words += [f"version={quote(self.version)}"] if self.version else []
        return f"{self.url}#{'&'.join(words)}" if words else self.url


def parse_reference(text: str) -> Reference:
    """Read what :class:`Reference` writes; a path or address alone is one, too.

    Raises:
        ValueError: what follows ``#`` is something else.
    """
    url, _, fragment = text.partition("#")
    digest = format = version = None
    for key, value in parse_qsl(fragment, keep_blank_values=True, separator="&"):
        if key in ("sha256", "sha512") and DIGEST.fullmatch(value):
            digest = f"{key}:{value.lower()}"
        elif key == "format" and value in FORMATS:
            format = value
        elif key == "version" and VERSION.fullmatch(value):
            version = value
        else:
            raise ValueError(
                f"'#{fragment[:80]}' is not understood: it may be 'sha256=' and 64 hexadecimal"
                f" digits, 'format=' and one of {', '.join(FORMATS)}, and 'version=' for a catalog"
            )
    if fragment and digest is None and format is None and version is None:
        raise ValueError(f"'#{fragment[:80]}' is not understood")
    if version is not None and not url.partition("?")[0].lower().endswith(".json"):
        raise ValueError("'version' is for a catalog, whose address ends in .json")
    return Reference(url, digest, format, version)


def reference_of(table: Mapping[str, object]) -> str:
    """The one line for ``box = { url = …, sha256 = …, format = … }``.

    Raises:
        ValueError: a key is unknown or has the wrong value.
    """
    for key, value in table.items():
        if key not in KEYS:
            raise ValueError(f"'{key}' is not a key of a box; the keys are {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise ValueError(f"'{key}' has to be text")
    url = str(table.get("url", ""))
    if not url:
        raise ValueError("a box that is a table needs 'url'")
    if "#" in url:
        raise ValueError("the url has a '#' in it: write 'sha256' beside it")
    digest = table.get("sha256")
    if digest is not None and not DIGEST.fullmatch(str(digest)):
        raise ValueError("'sha256' has to be 64 hexadecimal digits")
    format = table.get("format")
    if format is not None and format not in FORMATS:
        raise ValueError(f"'format' is one of {', '.join(FORMATS)}")
    version = table.get("version")
    if version is not None and not VERSION.fullmatch(str(version)):
        raise ValueError("'version' is like '1.2', '~> 1.2' or '>= 1.2, < 2'")
    known = str(digest).lower().rpartition(":")[2] if digest is not None else ""
    algorithm = "sha512" if len(known) == 128 else "sha256"
    named = Reference(
        url,
        f"{algorithm}:{known}" if known else None,
        str(format) if format else None,
        str(version) if version else None,
    )
    return str(parse_reference(str(named)))
