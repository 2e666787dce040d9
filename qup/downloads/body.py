"""The bytes of a file on their way: read as they come, and hashed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qup.downloads.checksums import Digest
from qup.downloads.errors import Transient
from qup.downloads.http import stall_timeout
from qup.model.units import KIB, MIB, format_size

if TYPE_CHECKING:
    import requests

CHUNK = MIB
SLOWEST = KIB
"""Bytes a second; a server that is slower for as long as it may be silent has stalled."""


class Hashes:
    """SHA-256, and the expected digest's algorithm if that is another, over the same bytes."""

    def __init__(self, wanted: Digest | None) -> None:
        self.sha256 = hashlib.sha256()
        other = wanted is not None and wanted.algorithm != "sha256"
        self.own = wanted.start() if wanted and other else self.sha256
        self.size = 0

    def update(self, data: bytes) -> None:
        self.size += len(data)
        self.sha256.update(data)
        if self.own is not self.sha256:
            self.own.update(data)

    def read(self, path: Path, count: int) -> Hashes:
        """Take in the first bytes of a file."""
        with path.open("rb") as file:
            while self.size < count and (data := file.read(min(CHUNK, count - self.size))):
                self.update(data)
        return self


def read_chunks(response: requests.Response, where: str, have: int) -> Iterator[bytes]:
    """The bytes of a body as they come.

    Raises:
        Transient: the connection broke, or hardly anything comes.
    """
    import urllib3

    raw = response.raw
    patience = stall_timeout()
    began, received = time.monotonic(), 0
    while True:
        try:
            # read1 gives what has arrived; urllib3 1 has none, and there a slow server is
            # noticed later.
            read = getattr(raw, "read1", None) or raw.read
            chunk = read(CHUNK, decode_content=False)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as exc:
            raise Transient(f"{where} has stalled: nothing came for {patience:g} s") from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise Transient(f"{where} breaks off after {format_size(have)}") from exc
        if not chunk:
            return
        yield chunk
        have += len(chunk)
        received += len(chunk)
        now = time.monotonic()
        if now - began >= patience:
            if received < SLOWEST * patience:
                raise Transient(f"{where} has stalled: {received} bytes in {now - began:.0f} s")
            began, received = now, 0
