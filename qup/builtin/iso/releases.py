"""Releases APIs, as GitHub and GitHub Enterprise have them (REST API, "Releases").

The answer names the release's tag and its files; since 2025 also their digests.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from qup.api import BoxError, fetch_json, redact_url

TOKENS = ("QUP_GITHUB_TOKEN", "MACHINE_GITHUB_API_TOKEN")
"""Variables with a token for the API; the second one is docker-machine's."""

_API = re.compile(
    r"(?:/api/v3)?/repos/[^/]+/[^/]+/releases(?:/latest|/tags/[^/]+|/[0-9]+)?/?", re.ASCII
)


@dataclass(frozen=True)
class Release:
    """A file of a release.

    Attributes:
        tag: the release's name, such as ``v19.03.12``.
        url: where the file is.
        digest: ``sha256:<hex>``, if the API tells it.
    """

    tag: str
    url: str
    digest: str | None = None


def is_api(url: str) -> bool:
    """Whether an address has the form of a releases API's."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    enterprise = parts.path.startswith("/api/v3/")
    return bool(_API.fullmatch(parts.path)) and (enterprise or parts.hostname == "api.github.com")


def ask(url: str, asset: str | None = None) -> Release:
    """Ask for the newest release.

    Args:
        url: the API's address: of the newest release, of one by its tag, or of all.
        asset: the file's name; without one, the only ISO of the release.

    Raises:
        OfflineError: the network is not to be used.
        BoxError: the API can't be asked, or has no such file.
    """
    answer = fetch_json(url, _headers())
    shown = redact_url(url)
    if isinstance(answer, list):  # all releases, the newest first
        answer = next((one for one in answer if not _is_draft(one)), None)
    if not isinstance(answer, dict) or not isinstance(answer.get("tag_name"), str):
        raise BoxError(f"{shown} has no release", hint="is it the address of a releases API?")
    files = answer.get("assets")
    isos = [_read(answer["tag_name"], item) for item in files or () if _is_iso(item)]
    named = [found for name, found in isos if name == asset] or (
        [found for _, found in isos] if len(isos) == 1 else []
    )
    if len(named) != 1:
        there = ", ".join(name for name, _ in isos) or "none"
        wanted = f"no {asset}" if asset else "not one ISO but several, or none"
        raise BoxError(f"release {answer['tag_name']} of {shown} has {wanted}; ISOs: {there}")
    return named[0]


def _is_draft(release: Any) -> bool:
    return not isinstance(release, dict) or bool(release.get("draft") or release.get("prerelease"))


def _is_iso(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("browser_download_url"), str)
        and isinstance(item.get("name"), str)
        and item["name"].lower().endswith(".iso")
    )


def _read(tag: str, item: dict[str, Any]) -> tuple[str, Release]:
    digest = item.get("digest")
    known = isinstance(digest, str) and digest.startswith("sha256:")
    return item["name"], Release(tag, item["browser_download_url"], digest if known else None)


def _headers() -> dict[str, str]:
    headers = {"Accept": "application/vnd.github+json"}
    token = next((os.environ[name] for name in TOKENS if os.environ.get(name)), None)
    if token:
        headers["Authorization"] = f"token {token}"
    return headers
