"""Small texts from servers: lists of checksums, answers of releases APIs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qup.downloads.addresses import redact_url
from qup.downloads.errors import Transient
from qup.downloads.http import get, insist, open_session
from qup.errors import BoxError

LIMIT = 4 << 20
"""Bytes: the most that such a text may have."""


def fetch_text(url: str, headers: Mapping[str, str] | None = None) -> str:
    """A small text.

    Args:
        url: its address.
        headers: more headers for the request.

    Raises:
        OfflineError: the network is not to be used.
        BoxError: it can't be had, or is not small. A :class:`MissingError` if there is none.
    """
    return insist(lambda: _fetch(url, headers or {}))


def fetch_json(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """A small JSON document; see :func:`fetch_text`."""
    text = fetch_text(url, {"Accept": "application/json", **(headers or {})})
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BoxError(f"{redact_url(url)} does not return JSON") from exc


def _fetch(url: str, headers: Mapping[str, str]) -> str:
    import requests
    import urllib3

    with open_session() as session, get(session, url, headers) as response:
        parts: list[bytes] = []
        size = 0
        try:
            for chunk in response.iter_content(1 << 16):
                parts.append(chunk)
                size += len(chunk)
                if size > LIMIT:
                    raise BoxError(f"{redact_url(url)} is far too large for what it should be")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise Transient(f"{redact_url(url)} breaks off") from exc
    return b"".join(parts).decode(errors="replace")


def has_changed(url: str, etag: str | None, last_modified: str | None) -> bool:
    """Ask whether a file is another one than when these were its headers.

    Raises:
        OfflineError: the network is not to be used.
        BoxError: the server can't be asked.
    """
    headers: dict[str, str] = {}
    if etag:
        headers["If-None-Match"] = etag
    if last_modified:
        headers["If-Modified-Since"] = last_modified

    def ask() -> bool:
        with open_session() as session, get(session, url, headers, ok=(200, 304)) as response:
            if response.status_code == 304:
                return False
            fresh = response.headers
            same = etag is not None and fresh.get("ETag") == etag
            return not same

    return insist(ask)
