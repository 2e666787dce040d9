"""A web server on loopback whose files misbehave as a test wants them to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class File:
    """A file on the server, and what is wrong with it.

    Attributes:
        data: its bytes.
        etag: its version; made from the data unless given. Empty: the server tells none.
        ranges: whether a part can be asked for.
        breaks: after so many bytes the connection is cut, for each of the next requests.
        claims: the length that is told, if not the real one; -1 tells none.
        pace: seconds of silence before each piece.
        piece: bytes of a piece.
        hangs: after so many bytes it is silent, for as long as the server runs.
        status: a status instead of the file, for each of the next requests.
        headers: more headers.
        location: where a redirect leads.
        chunked: send it in chunks, without a length.
    """

    data: bytes = b""
    etag: str | None = None
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    claims: int | None = None
    pace: float = 0.0
    piece: int = 1 << 16
    hangs: int | None = None
    status: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    location: str | None = None
    chunked: bool = False

    @property
    def version(self) -> str:
        return self.etag if self.etag is not None else f'"{hashlib.md5(self.data).hexdigest()}"'


@dataclass
class Web:
    """The server.

    Attributes:
        files: by path; a function makes one for each request.
        asked: what was asked for: the path, and the request's headers.
    """

    port: int = 0
    files: dict[str, File | Callable[[], File]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def put(self, path: str, data: bytes | str, **more: Any) -> File:
        file = File(data.encode() if isinstance(data, str) else data, **more)
        self.files[path] = file
        return file

    def put_json(self, path: str, data: object) -> File:
        return self.put(path, json.dumps(data), headers={"Content-Type": "application/json"})

    def requests(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for a path so far."""
        return [headers for asked, headers in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.web.asked.append((self.path, dict(self.headers)))
        found = self.web.files.get(self.path.partition("?")[0])
        file = found() if callable(found) else found
        with contextlib.suppress(ConnectionError):
            if file is None:
                self._answer(404, b"<html>not found</html>", {})
            elif file.status:
                self._answer(file.status.pop(0), b"<html>sorry</html>", file.headers)
            elif file.location is not None:
                self._answer(302, b"", {"Location": file.location})
            else:
                self._send(file)

    def end_headers(self) -> None:
        self.send_header("Connection", "close")
        super().end_headers()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send(self, file: File) -> None:
        if file.version and self.headers.get("If-None-Match") == file.version:
            self.send_response(304)
            self.end_headers()
            return
        start = self._start(file)
        if start is not None and start >= len(file.data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(file.data)}"})
            return
        self.send_response(200 if start is None else 206)
        data = file.data[start or 0 :]
        if file.version:
            self.send_header("ETag", file.version)
        if start is not None:
            end = len(file.data) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(file.data)}")
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif file.claims != -1:
            length = len(data) if file.claims is None else file.claims
            self.send_header("Content-Length", str(length))
        for name, value in file.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send_pieces(file, data)

    def _start(self, file: File) -> int | None:
        asked = self.headers.get("Range", "")
        if not file.ranges or not asked.startswith("bytes="):
            return None
        if self.headers.get("If-Range", file.version) != file.version:
            return None
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _send_pieces(self, file: File, data: bytes) -> None:
        limit = file.breaks.pop(0) if file.breaks else len(data)
        for offset in range(0, limit, file.piece):
            if file.pace and self.web.stop.wait(file.pace):
                return
            if file.hangs is not None and offset >= file.hangs:
                self.web.stop.wait()
                return
            piece = data[offset : min(offset + file.piece, limit)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if file.chunked else piece)
        if file.chunked and limit == len(data):
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serve() -> Iterator[Web]:
    """A server that runs until the end of the block."""
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        web.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield web
        finally:
            web.stop.set()
            server.shutdown()
            thread.join()


def wait_for(check: Callable[[], object], seconds: float = 10.0) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
