"""Fetching files by http(s): whole, verified, resumable, and never twice at once.

Plugins use it through :mod:`qup.api`; everything that qup downloads goes through here.
"""

from __future__ import annotations

from qup.downloads.addresses import (
    check_url,
    is_offline,
    redact_url,
    set_offline,
)
from qup.downloads.checksums import Digest, find_digest, parse_sums
from qup.downloads.documents import fetch_json, fetch_text, has_changed
from qup.downloads.errors import OfflineError
from qup.downloads.partial import sweep_partials
from qup.downloads.progress import Report
from qup.downloads.transfer import Downloaded, download

__all__ = [
    "Digest",
    "Downloaded",
    "OfflineError",
    "Report",
    "check_url",
    "download",
    "fetch_json",
    "fetch_text",
    "find_digest",
    "has_changed",
    "is_offline",
    "parse_sums",
    "redact_url",
    "set_offline",
    "sweep_partials",
]
