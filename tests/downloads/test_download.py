"""Downloads from a server on loopback that does all that servers do."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qup.downloads import (
    Downloaded,
    OfflineError,
    download,
    fetch_json,
    find_digest,
    has_changed,
    http,
    partial,
    sweep_partials,
    transfer,
)
from qup.downloads.errors import MissingError
from qup.errors import BoxError, HostError
from qup.locks import lock
from qup.paths import downloads_root
from tests.conftest import ROOT
from tests.fakes.web import File, Web, serve, wait_for

DATA = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()
FILE = "/pub/guest.iso"


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("QUP_DOWNLOAD_TIMEOUT", "5")


def get(web: Web, tmp_path: Path, path: str = FILE, **more: Any) -> Downloaded:
    return download(web.url(path), tmp_path / "out", **more)


def leftovers() -> list[str]:
    """What is kept of downloads, but for locks."""
    if not downloads_root().is_dir():
        return []
    return sorted(path.suffix for path in downloads_root().iterdir() if path.suffix != ".lock")


def test_a_file_arrives_whole(web: Web, tmp_path: Path) -> None:
    file = web.put(FILE, DATA)
    said: list[tuple[str, dict[str, Any]]] = []
    found = get(web, tmp_path, report=lambda text, **numbers: said.append((text, numbers)))
    assert (tmp_path / "out").read_bytes() == DATA
    assert (found.sha256, found.size, found.etag) == (SHA256, len(DATA), file.version)
    assert found.vouched is None
    assert leftovers() == []
    text, numbers = said[-1]
    assert text.startswith("2M of 2M")
    assert (numbers["done"], numbers["total"]) == (len(DATA), len(DATA))


def test_speed_and_time_left_are_told(web: Web, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("qup.downloads.progress.EVERY", 0.0)
    web.put(FILE, DATA, pace=0.01, piece=1 << 18)
    said: list[dict[str, Any]] = []
    get(web, tmp_path, report=lambda text, **numbers: said.append(numbers))
    assert any(numbers.get("speed") and numbers.get("left") is not None for numbers in said)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (f"{FILE}.sha256", SHA256),
        (f"{FILE}.sha256", f"{SHA256}  build/guest.iso\n"),
        (f"{FILE}.sha256sum", f"{SHA256} *guest.iso\n"),
        ("/pub/SHA256SUMS", f"# sums\n{'0' * 64}  other.iso\n{SHA256}  guest.iso\n"),
        ("/pub/sha256sum.txt", f"{SHA256}  ./guest.iso\n"),
        ("/pub/SHA512SUMS", f"{hashlib.sha512(DATA).hexdigest()}  guest.iso\n"),
        ("/pub/CHECKSUM", f"-----BEGIN PGP\nHash: x\n\nSHA256 (guest.iso) = {SHA256.upper()}\n"),
    ],
)
def test_a_digest_beside_the_file_counts(web: Web, tmp_path: Path, place: str, text: str) -> None:
    web.put(FILE, DATA)
    web.put(place, text)
    assert get(web, tmp_path).vouched == web.url(place)


def test_a_list_about_other_files_says_nothing(web: Web) -> None:
    web.put("/pub/SHA256SUMS", f"{SHA256}  guest.iso.old\n{SHA256}\nnonsense\n")
    assert find_digest(web.url(FILE)) is None


@pytest.mark.parametrize("beside", [False, True])
def test_a_wrong_digest_is_shown_and_nothing_is_kept(
    web: Web, tmp_path: Path, beside: bool
) -> None:
    web.put(FILE, DATA)
    web.put(f"{FILE}.sha256", "0" * 64)
    digest = None if beside else "sha256:" + "0" * 64
    with pytest.raises(BoxError, match="not what it should be") as caught:
        get(web, tmp_path, digest=digest)
    assert "0" * 64 in str(caught.value.details)
    assert SHA256 in str(caught.value.details)
    assert leftovers() == []
    assert not (tmp_path / "out").exists()


# --- going on ------------------------------------------------------------------------------


def test_a_broken_connection_is_resumed(web: Web, tmp_path: Path) -> None:
    file = web.put(FILE, DATA, breaks=[1_500_000, 100_000])
    assert get(web, tmp_path).sha256 == SHA256
    asked = web.requests(FILE)
    assert [headers.get("Range") for headers in asked] == [
        None,
        "bytes=1500000-",
        "bytes=1600000-",
    ]
    assert asked[1]["If-Range"] == file.version


def test_what_is_here_is_kept_after_the_last_try(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, breaks=[1000, 0, 0, 0])
    with pytest.raises(BoxError, match="breaks off") as caught:
        get(web, tmp_path)
    assert "kept" in str(caught.value.hint)
    assert leftovers() == [".json", ".part"]
    assert get(web, tmp_path).sha256 == SHA256
    assert web.requests(FILE)[-1]["Range"] == "bytes=1000-"


def test_a_server_without_ranges_starts_over(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, breaks=[1_000_000], ranges=False)
    assert get(web, tmp_path).sha256 == SHA256


def test_another_version_starts_over(web: Web, tmp_path: Path) -> None:
    web.put(FILE, b"x" * len(DATA), breaks=[1_000_000, 0, 0, 0])
    with pytest.raises(BoxError):
        get(web, tmp_path)
    web.put(FILE, DATA)
    assert get(web, tmp_path).sha256 == SHA256


def test_without_a_version_nothing_is_joined(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, etag="", breaks=[1_000_000])
    assert get(web, tmp_path).sha256 == SHA256
    assert "Range" not in web.requests(FILE)[1]


def test_a_digest_makes_joining_safe(web: Web, tmp_path: Path) -> None:
    web.put(FILE, b"x" * len(DATA), etag="", breaks=[1_000_000, 0, 0, 0])
    with pytest.raises(BoxError):
        get(web, tmp_path, digest=SHA256)
    web.put(FILE, DATA, etag="")
    assert get(web, tmp_path, digest=SHA256).sha256 == SHA256
    assert [headers.get("Range") for headers in web.requests(FILE)][-2:] == ["bytes=1000000-", None]


def test_416_means_that_all_is_here(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA)
    place = partial.Partial.of(downloads_root(), web.url(FILE), f"sha256:{SHA256}")
    place.folder.mkdir(parents=True, mode=0o700)
    place.data.write_bytes(DATA)
    assert get(web, tmp_path, digest=SHA256).size == len(DATA)


def test_416_starts_over_when_the_file_shrank(web: Web, tmp_path: Path) -> None:
    file = web.put(FILE, DATA)
    place = partial.Partial.of(downloads_root(), web.url(FILE), None)
    place.folder.mkdir(parents=True, mode=0o700)
    place.data.write_bytes(b"x" * (len(DATA) + 1))
    place.note({"ETag": file.version})
    assert get(web, tmp_path).sha256 == SHA256


def lie(web: Web, claims: int, behind: dict[str, str]) -> None:
    """Serve less than is promised; asked for the rest, there is none."""

    def answer() -> File:
        if "Range" in web.asked[-1][1]:
            return File(status=[416], headers=behind)
        return File(DATA, etag='"1"', claims=claims)

    web.files[FILE] = answer


def test_416_does_not_make_a_part_the_whole(web: Web, tmp_path: Path) -> None:
    """Without a digest nobody knows; with one it does no harm."""
    lie(web, len(DATA) + 1, {"Content-Range": f"bytes */{len(DATA)}"})
    with pytest.raises(BoxError, match="has promised .* before") as caught:
        get(web, tmp_path)
    assert "#sha256=" in str(caught.value.hint)
    assert leftovers() == []
    assert get(web, tmp_path, digest=SHA256).size == len(DATA)


def test_a_server_that_takes_everything_back_is_left(web: Web, tmp_path: Path) -> None:
    """It sends megabytes each time, and then says that the file is another one."""
    lie(web, len(DATA) + 1, {"Content-Range": f"bytes */{len(DATA) + 1}"})
    with pytest.raises(BoxError, match="breaks off|has changed"):
        get(web, tmp_path, digest=SHA256)
    assert len(web.requests(FILE)) < 20


def test_a_server_that_is_ill_gets_well(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, status=[503, 429], headers={"Retry-After": "0"})
    assert get(web, tmp_path).sha256 == SHA256


def test_an_interrupt_keeps_what_is_here(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, pace=0.05, piece=1 << 15)
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from pathlib import Path; from qup.downloads import download\n"
    script += "download(sys.argv[1], Path(sys.argv[2]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, web.url(FILE), tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    place = partial.Partial.of(downloads_root(), web.url(FILE), None)
    wait_for(lambda: place.size() > 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    have = place.size()
    assert 0 < have < len(DATA)
    web.put(FILE, DATA)
    assert get(web, tmp_path).sha256 == SHA256
    assert web.requests(FILE)[-1]["Range"] == f"bytes={have}-"


def test_one_at_a_time_by_whoever_is_first(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, pace=0.02, piece=1 << 18)
    said: list[str] = []
    found: list[Downloaded] = []

    def fetch(name: str) -> None:
        found.append(
            download(web.url(FILE), tmp_path / name, report=lambda text, **_: said.append(text))
        )

    threads = [threading.Thread(target=fetch, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.sha256 for item in found] == [SHA256, SHA256]
    (waited,) = [text for text in said if text.startswith("waiting for")]
    assert f"pid {os.getpid()}" in waited


# --- what is no good ------------------------------------------------------------------------


def test_nothing_there(web: Web, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="HTTP 404"):
        get(web, tmp_path)
    assert leftovers() == []


def test_a_web_page_is_noticed_at_once(web: Web, tmp_path: Path) -> None:
    web.put(FILE, b"\n<!DOCTYPE html><title>Log in</title>" + DATA, piece=20)
    with pytest.raises(BoxError, match="web page"):
        get(web, tmp_path)
    assert leftovers() == []


def test_an_empty_file(web: Web, tmp_path: Path) -> None:
    web.put(FILE, b"")
    with pytest.raises(BoxError, match="is empty"):
        get(web, tmp_path)


def test_more_is_promised_than_sent(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, claims=len(DATA) + 5, ranges=False)
    with pytest.raises(BoxError, match="breaks off after 2M"):
        get(web, tmp_path)


def test_an_unknown_length_needs_a_digest(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, claims=-1)
    with pytest.raises(BoxError, match="how long"):
        get(web, tmp_path)
    assert get(web, tmp_path, digest=SHA256).vouched == "given"


def test_chunks_have_an_end(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, chunked=True)
    assert get(web, tmp_path).sha256 == SHA256
    web.put(FILE, DATA, chunked=True, breaks=[1000] * 9, ranges=False)
    with pytest.raises(BoxError, match="breaks off"):
        get(web, tmp_path)


def test_a_stalled_server_is_left(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUP_DOWNLOAD_TIMEOUT", "0.2")
    monkeypatch.setattr(http, "PAUSES", (0.01,))
    web.put(FILE, DATA, pace=30)
    with pytest.raises(BoxError, match="stalled"):
        get(web, tmp_path)


def test_a_trickle_counts_as_stalled(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUP_DOWNLOAD_TIMEOUT", "0.5")
    monkeypatch.setattr(http, "PAUSES", (0.01,))
    web.put(FILE, DATA, pace=0.1, piece=1)
    with pytest.raises(BoxError, match=r"stalled: \d+ bytes"):
        get(web, tmp_path)


def test_a_packed_answer_is_refused(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, headers={"Content-Encoding": "gzip"})
    with pytest.raises(BoxError, match="compresses"):
        get(web, tmp_path)


def test_the_size_has_a_limit(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA)
    with pytest.raises(BoxError, match="the most is 1M"):
        get(web, tmp_path, limit=1 << 20)
    web.put(FILE, DATA, chunked=True)
    with pytest.raises(BoxError, match="sends more"):
        get(web, tmp_path, limit=1 << 20)
    assert leftovers() == []


def test_no_room_is_told_before(web: Web, tmp_path: Path, monkeypatch: Any) -> None:
    web.put(FILE, DATA)
    monkeypatch.setattr(transfer, "RESERVE", 1 << 60)
    with pytest.raises(HostError, match="no room"):
        get(web, tmp_path)


def test_nobody_there(tmp_path: Path) -> None:
    with serve() as gone:
        pass
    with pytest.raises(BoxError, match="Connection refused"):
        download(gone.url(FILE), tmp_path / "out")


# --- redirects and addresses ------------------------------------------------------------------


def test_a_redirect_is_followed(web: Web, tmp_path: Path) -> None:
    web.put("/real", DATA)
    web.files[FILE] = File(location="/real")
    assert get(web, tmp_path).sha256 == SHA256


@pytest.mark.parametrize(
    ("location", "match"),
    [
        (FILE, "in circles"),
        ("file:///etc/passwd", "not an http or https"),
        ("ftp://127.0.0.1/x", "not an http or https"),
        ("http://user:secret@127.0.0.1/x", "user or password"),
        ("http://example.org/x", "plain http"),
        ("http://[::1", "can't be asked|not an address"),
    ],
)
def test_bad_redirects(web: Web, tmp_path: Path, location: str, match: str) -> None:
    web.files[FILE] = File(location=location)
    with pytest.raises(BoxError, match=match) as caught:
        get(web, tmp_path)
    assert "secret" not in f"{caught.value.message} {caught.value.hint} {caught.value.details}"


def test_endless_redirects(web: Web, tmp_path: Path) -> None:
    for number in range(60):
        web.files[f"/{number}"] = File(location=f"/{number + 1}")
    with pytest.raises(BoxError, match="more than 10 times"):
        get(web, tmp_path, "/0")


def test_a_token_stays_with_its_server(web: Web) -> None:
    with serve() as other:
        other.put_json("/x", {"ok": 1})
        web.files["/x"] = File(location=other.url("/x"))
        assert fetch_json(web.url("/x"), {"Authorization": "token t"}) == {"ok": 1}
        assert web.requests("/x")[0]["Authorization"] == "token t"
        assert "Authorization" not in other.requests("/x")[0]


def test_json_that_is_none(web: Web) -> None:
    web.put("/x", "<html>")
    with pytest.raises(BoxError, match="not return JSON"):
        fetch_json(web.url("/x"))


def test_a_change_is_noticed(web: Web) -> None:
    file = web.put(FILE, DATA)
    assert not has_changed(web.url(FILE), file.version, None)
    web.put(FILE, DATA + b"x")
    assert has_changed(web.url(FILE), file.version, None)


def test_offline_asks_nobody(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.put(FILE, DATA)
    monkeypatch.setenv("QUP_OFFLINE", "1")
    for ask in (
        lambda: get(web, tmp_path),
        lambda: find_digest(web.url(FILE)),
        lambda: has_changed(web.url(FILE), None, None),
    ):
        with pytest.raises(OfflineError, match="--offline"):
            ask()
    assert web.asked == []


def test_a_proxy_is_asked(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, web.url(""))
    url = "http://mirror.invalid/guest.iso"
    web.files[url] = File(DATA)
    assert download(url, tmp_path / "out", digest=SHA256).sha256 == SHA256


def test_a_full_disk_keeps_what_is_here(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put(FILE, DATA, piece=1 << 16)
    real = transfer._write
    written = 0

    def write(handle: int, data: bytes) -> None:
        nonlocal written
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = len(data)
        real(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_write", write)
        with pytest.raises(HostError, match="No space left") as caught:
            get(web, tmp_path)
        assert "free some space" in str(caught.value.hint)
    assert get(web, tmp_path).sha256 == SHA256
    assert web.requests(FILE)[-1]["Range"] == f"bytes={written}-"


def test_what_was_given_up_can_be_swept_away(web: Web, tmp_path: Path) -> None:
    web.put(FILE, DATA, breaks=[1000, 0, 0, 0])
    with pytest.raises(BoxError):
        get(web, tmp_path)
    assert sweep_partials(downloads_root(), dry_run=True) == 1000
    place = partial.Partial.of(downloads_root(), web.url(FILE), None)
    with lock(place.lock, what="it", timeout=0):
        assert sweep_partials(downloads_root()) == 0
    assert sweep_partials(downloads_root()) == 1000
    assert leftovers() == []
