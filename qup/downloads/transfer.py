"""One file, from a server to the disk: resumed, verified, and put in place as a whole."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qup.downloads.addresses import check_url, redact_url, require_network
from qup.downloads.body import Hashes, read_chunks
from qup.downloads.checksums import Digest, find_digest
from qup.downloads.errors import Transient
from qup.downloads.http import get, give_up, open_session, pause_for
from qup.downloads.partial import Partial
from qup.downloads.progress import Meter, Report
from qup.errors import BoxError, HostError
from qup.files import explain_os_error
from qup.images import identify
from qup.locks import lock
from qup.model.units import GIB, MIB, format_size
from qup.ownership import make_private
from qup.paths import downloads_root

if TYPE_CHECKING:
    import requests

LIMIT = 64 * GIB
"""Bytes: the most that a file may have."""
LOCK_TIMEOUT = 6 * 3600.0
"""Seconds to wait for another process that fetches the same file."""
PROGRESS = MIB
"""Bytes after which a server counts as well again."""
PAGE_START = 512
"""Bytes in which a web page has shown what it is."""
RESERVE = 64 * MIB
"""Bytes to leave free on the file system."""


@dataclass(frozen=True)
class Downloaded:
    """A file that was fetched.

    Attributes:
        url: its address, as it was asked for.
        sha256: its SHA-256 in hexadecimal.
        size: bytes.
        etag: the server's name for this version of it, if it has one.
        last_modified: since when the server has it, in HTTP's form.
        vouched: who said what its digest has to be: ``given``, a URL, or None if nobody did.
    """

    url: str
    sha256: str
    size: int
    etag: str | None = None
    last_modified: str | None = None
    vouched: str | None = None


def download(
    url: str,
    target: Path,
    *,
    digest: Digest | str | None = None,
    beside: bool = True,
    limit: int = LIMIT,
    report: Report | None = None,
) -> Downloaded:
    """Fetch a file. What was fetched before an interruption or an error is used again.

    Args:
        url: its address.
        target: where it is put when it is whole; on the same file system as the cache.
        digest: what its digest has to be.
        beside: without a digest, look for one beside the file (:func:`find_digest`).
        limit: bytes that it may have at the most.
        report: takes lines about how far it is, with numbers.

    Returns:
        What there is to know about it. Without ``vouched``, nobody has said what it should be.

    Raises:
        OfflineError: the network is not to be used.
        BoxError: it can't be had, is not what it should be, or is a web page.
        HostError: there is no room for it.
    """
    wanted = Digest.parse(digest) if isinstance(digest, str) else digest
    require_network(url)
    check_url(url, vouched=wanted is not None)
    say = report or _say_nothing
    folder = make_private(downloads_root())
    partial = Partial.of(folder, url, str(wanted) if wanted else None)
    with lock(
        partial.lock,
        what=f"the download of {redact_url(url)}",
        timeout=LOCK_TIMEOUT,
        on_wait=say,
    ):
        if wanted is None and beside:
            wanted = find_digest(url)
        work = _Transfer(url, partial, wanted, limit, say)
        found = work.run()
        try:
            _put(partial.data, target)
        except OSError as exc:
            raise explain_os_error("write", target, exc) from exc
        partial.discard()
        return found


def _say_nothing(text: str, **_: object) -> None:
    pass


def _put(source: Path, target: Path) -> None:
    """Flush a file to disk and move it into place, on whatever file system that is."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.replace(source, target)
    except OSError:
        shutil.copyfile(source, target)


@dataclass
class _Transfer:
    url: str
    partial: Partial
    wanted: Digest | None
    limit: int
    report: Report
    _headers: dict[str, str] = field(default_factory=dict)
    _hashes: Hashes = field(init=False)

    def __post_init__(self) -> None:
        self._hashes = Hashes(self.wanted)

    @property
    def where(self) -> str:
        return redact_url(self.url)

    def run(self) -> Downloaded:
        """Get all of it, with as many tries as make sense.

        Raises:
            BoxError, HostError: see :func:`download`.
        """
        tries, fresh = 0, False
        most = self.partial.size()
        with open_session() as session:
            while True:
                resumed = self.partial.size() > 0
                try:
                    self._fetch(session)
                    return self._verify()
                except Transient as exc:
                    # Only what never was here is progress: who starts over again and again
                    # gets nowhere.
                    size = self.partial.size()
                    tries = 1 if size - most >= PROGRESS else tries + 1
                    most = max(most, size)
                    pause = pause_for(exc, tries)
                    if pause is None:
                        raise give_up(exc) from exc
                    self.report(f"{exc.reason}; trying again in {pause:g} s")
                    time.sleep(pause)  # nothing tells when a server is well again
                except _WrongDigest as exc:
                    self.partial.discard()
                    if fresh or not resumed:
                        raise exc.explain(self.where) from None
                    fresh = True  # the beginning may have been another version's
                    self.report("what was here already does not fit; fetching all of it")

    # --- one try ---

    def _fetch(self, session: requests.Session) -> None:
        """Fetch what is missing; what has arrived is on disk, whatever happens."""
        have, headers = self._plan_resume()
        ok = (200, 206, 416) if have else (200,)
        with get(session, self.url, headers, vouched=self.wanted is not None, ok=ok) as response:
            if response.status_code == 416:
                self._settle_416(response, have)
                return
            if response.status_code == 206 and not _continues(response, have):
                self.partial.discard()
                raise Transient(f"{self.where} answers with another part than was asked for")
            if response.status_code == 200:
                have = 0
            self._headers = {
                name: value
                for name in ("ETag", "Last-Modified")
                if (value := response.headers.get(name))
            }
            total = self._total(response, have)
            self._check_room(total, have)
            self.partial.note(self._headers, total)
            self._receive(response, have, total)

    def _plan_resume(self) -> tuple[int, dict[str, str]]:
        """How much is here that can be gone on with, and the headers that ask for the rest."""
        have = self.partial.size()
        if not have:
            return 0, {}
        validators = self.partial.validators()
        etag = validators.get("ETag", "")
        # A weak ETag may not be used here (RFC 9110, 13.1.5).
        match = etag if etag and not etag.startswith("W/") else validators.get("Last-Modified")
        headers = {"Range": f"bytes={have}-"}
        if match:
            headers["If-Range"] = match
        elif self.wanted is None:  # two versions could be joined, and nobody would notice
            return 0, {}
        return have, headers

    def _settle_416(self, response: requests.Response, have: int) -> None:
        """There is nothing behind what is here: either that is all, or it was another file.

        Raises:
            Transient: it was another file.
            BoxError: it should have been more, and nobody has said what it has to be.
        """
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total != str(have):
            self.partial.discard()
            raise Transient(f"{self.where} has changed meanwhile")
        promised = self.partial.promised()
        if self.wanted is None and promised != have:
            self.partial.discard()
            before = "no length" if promised is None else format_size(promised)
            raise BoxError(
                f"{self.where} ends after {format_size(have)}, and the server has promised"
                f" {before} before: what is here may be a part of it",
                hint="try again later, or pin its digest: add '#sha256=' and the digest to the"
                " address",
            )
        self._headers = self.partial.validators()
        self._hashes = Hashes(self.wanted).read(self.partial.data, have)

    def _total(self, response: requests.Response, have: int) -> int | None:
        """Bytes that the whole file has.

        Raises:
            BoxError: it is too large, is coded, or its end could not be told from a break.
        """
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise BoxError(f"{self.where}: the server compresses the file on the way, unasked")
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            chunked = response.headers.get("Transfer-Encoding", "") == "chunked"
            if not chunked and self.wanted is None:
                raise BoxError(
                    f"{self.where}: the server does not say how long the file is, so a part of"
                    " it would look like all of it",
                    hint="pin its digest: add '#sha256=' and the digest to the address",
                )
            return None
        total = have + int(length)
        if total > self.limit:
            raise BoxError(
                f"{self.where} has {format_size(total)}; the most is {format_size(self.limit)}"
            )
        if total == 0:
            raise BoxError(f"{self.where} is empty")
        return total

    def _check_room(self, total: int | None, have: int) -> None:
        free = shutil.disk_usage(self.partial.folder).free
        need = (total or 0) - have + RESERVE
        if free < need:
            raise HostError(
                f"no room for {self.where}: it needs {format_size(need)}, and"
                f" {self.partial.folder} has {format_size(free)} left",
                hint="free some space, or set QUP_CACHE_DIR to a folder on another disk",
            )

    def _receive(self, response: requests.Response, have: int, total: int | None) -> None:
        meter = Meter(self.report, total)
        meter.count(have)
        start = b""
        with self._writing(have) as handle:
            # What is here already is hashed first: it may be of an earlier day.
            self._hashes = Hashes(self.wanted).read(self.partial.data, have)
            for chunk in read_chunks(response, self.where, have):
                if have < PAGE_START:
                    start += chunk[:PAGE_START]
                    self._refuse_page(start)
                have += len(chunk)
                if have > (total or self.limit):
                    raise _NotTheFile(f"{self.where} sends more than it should")
                _write(handle, chunk)
                self._hashes.update(chunk)
                meter.count(have)
        meter.say()
        if have == 0:
            raise BoxError(f"{self.where} is empty")
        if total is not None and have < total:
            raise Transient(f"{self.where} breaks off after {format_size(have)}")

    def _refuse_page(self, start: bytes) -> None:
        if identify(start) == "a web page":
            raise _NotTheFile(
                f"{self.where} is a web page, not a file to boot from",
                hint="it may want a login, or be the page about the file: open the address in a"
                " browser and take the address of the download itself",
            )

    @contextmanager
    def _writing(self, offset: int) -> Iterator[int]:
        try:
            handle = self.partial.open_at(offset)
        except OSError as exc:
            raise explain_os_error("write", self.partial.data, exc) from exc
        try:
            yield handle
        except _NotTheFile:
            self.partial.discard()
            raise
        except OSError as exc:
            raise explain_os_error("write", self.partial.data, exc) from exc
        finally:
            os.close(handle)

    # --- the whole ---

    def _verify(self) -> Downloaded:
        """Compare what was hashed while it was written.

        Raises:
            _WrongDigest: it isn't what it should be.
        """
        hashes = self._hashes
        if self.wanted is not None and hashes.own.hexdigest() != self.wanted.value:
            raise _WrongDigest(self.wanted, hashes.own.hexdigest())
        return Downloaded(
            url=self.url,
            sha256=hashes.sha256.hexdigest(),
            size=hashes.size,
            etag=self._headers.get("ETag"),
            last_modified=self._headers.get("Last-Modified"),
            vouched=(self.wanted.origin or "given") if self.wanted else None,
        )


class _NotTheFile(BoxError):
    """What comes is certainly not the file; nothing of it is kept."""


class _WrongDigest(Exception):
    def __init__(self, wanted: Digest, found: str) -> None:
        super().__init__(found)
        self.wanted, self.found = wanted, found

    def explain(self, where: str) -> BoxError:
        said = self.wanted.origin or "as asked for"
        return BoxError(
            f"{where} is not what it should be: its {self.wanted.algorithm} is another one",
            details=f"expected {self.wanted.value} ({said})\nreceived {self.found}",
            hint="it was removed. Somebody changed the file or broke it on the way, or the digest"
            " is an older version's: compare it with what the publisher says",
        )


def _continues(response: requests.Response, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
