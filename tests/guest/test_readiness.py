"""Waiting for sshd: scripted servers, scripted events, a console that is only a file."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.errors import GuestError, MachineError, QupError
from qup.guest.discovery import Fixed, Place
from qup.guest.readiness import Console, clean_lines, wait_for_banner
from qup.model.text import clean_line
from tests.conftest import find_free_port


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any] = field(default_factory=dict)


class Monitor:
    """QEMU's events, sent by the test."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._events: list[Event] = []

    def fileno(self) -> int:
        return self._reader

    def poll_events(self) -> Sequence[Event]:
        os.read(self._reader, 4096)
        events, self._events = self._events, []
        return events

    def send(self, name: str, **data: Any) -> None:
        self._events.append(Event(name, data))
        os.write(self._writer, b"x")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor()
    yield made
    made.close()


Behave = Callable[[socket.socket, int], None]


@contextlib.contextmanager
def serve(behave: Behave) -> Iterator[int]:
    """A server that treats the n-th connection (from 0) as told."""
    kept: list[socket.socket] = []

    def accept() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            threading.Thread(target=quietly, args=(connection, number), daemon=True).start()
            number += 1

    def quietly(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            behave(connection, number)

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in kept:
                connection.close()


def wait(
    port: int,
    monitor: Monitor,
    console: Path,
    *,
    seconds: float = 10.0,
    on_slow: Callable[[tuple[str, ...]], None] = lambda lines: None,
) -> float:
    """How long it took."""
    began = time.monotonic()
    wait_for_banner(
        "web",
        Fixed(Place("127.0.0.1", port)),
        monitor=monitor,
        console=Console(console),
        deadline=began + seconds,
        on_slow=on_slow,
    )
    return time.monotonic() - began


def banner(connection: socket.socket, number: int) -> None:
    connection.sendall(b"SSH-2.0-dropbear\r\n")


def slow_banner(connection: socket.socket, number: int) -> None:
    """Slow key exchange under emulation: seconds from the connection to the first byte."""
    time.sleep(3.0)
    connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")


def hang_up_at_first(connection: socket.socket, number: int) -> None:
    if number < 3:
        connection.close()
    else:
        banner(connection, number)


def silent_at_first(connection: socket.socket, number: int) -> None:
    """As slirp's: accepted before anybody listens, and never answered."""
    if number >= 3:
        banner(connection, number)


def garbage_at_first(connection: socket.socket, number: int) -> None:
    if number < 2:
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n")
        connection.close()
    else:
        banner(connection, number)


def silent(connection: socket.socket, number: int) -> None:
    pass


def garbage(connection: socket.socket, number: int) -> None:
    connection.sendall(b"220 mail.example.org ESMTP\r\n")
    connection.close()


def flood(connection: socket.socket, number: int) -> None:
    while True:
        connection.sendall(b"x" * 65536)


@pytest.mark.parametrize(
    ("behave", "most"),
    [(banner, 0.5), (slow_banner, 6.0), (hang_up_at_first, 2.0), (silent_at_first, 3.0),
     (garbage_at_first, 2.0)],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_the_first_banner_wins(
    behave: Behave, most: float, monitor: Monitor, tmp_path: Path
) -> None:
    with serve(behave) as port:
        assert wait(port, monitor, tmp_path / "serial.log") < most


@pytest.mark.parametrize("behave", [silent, garbage, flood])
def test_the_deadline_holds(behave: Behave, monitor: Monitor, tmp_path: Path) -> None:
    console = tmp_path / "serial.log"
    console.write_bytes(b"Linux version\r\n\x1b[31mlast words\x1b[0m\r\n")
    began = time.monotonic()
    with serve(behave) as port, pytest.raises(GuestError, match="not ready after 1 s") as caught:
        wait(port, monitor, console, seconds=1.0)
    assert time.monotonic() - began < 3.0
    stage = "no sshd" if behave is not silent else "no sshd answers"
    assert stage in caught.value.message
    assert "last words" in (caught.value.details or "")
    assert "\x1b" not in (caught.value.details or "")
    assert "qup logs web" in (caught.value.hint or "")


def test_nobody_listens_and_nothing_was_printed(monitor: Monitor, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(GuestError, match="nothing was printed"):
        wait(port, monitor, tmp_path / "none", seconds=0.6)


def test_a_server_that_comes_late_is_found_at_once(monitor: Monitor, tmp_path: Path) -> None:
    port = find_free_port()
    started: list[float] = []

    def later() -> None:
        time.sleep(1.0)
        with socket.create_server(("127.0.0.1", port)) as late:
            started.append(time.monotonic())
            connection, _ = late.accept()
            with connection:
                connection.sendall(b"SSH-2.0-x\r\n")
                time.sleep(0.5)

    thread = threading.Thread(target=later)
    thread.start()
    wait(port, monitor, tmp_path / "serial.log")
    found = time.monotonic()
    thread.join()
    assert found - started[0] < 0.5


@pytest.mark.parametrize(
    ("event", "data", "words"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, "panicked"),
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, "powered off before"),
        ("SHUTDOWN", {"guest": False, "reason": "host-signal"}, "host-signal"),
        ("BLOCK_IO_ERROR", {"nospace": True}, "disk is full"),
        ("BLOCK_IO_ERROR", {"nospace": False, "reason": "Input/output error"}, "Input/output"),
    ],
)
def test_an_event_ends_the_wait_at_once(
    event: str, data: dict[str, Any], words: str, monitor: Monitor, tmp_path: Path
) -> None:
    timer = threading.Timer(0.4, lambda: monitor.send(event, **data))
    timer.start()
    began = time.monotonic()
    with serve(silent) as port, pytest.raises(QupError, match=words) as caught:
        wait(port, monitor, tmp_path / "serial.log")
    assert time.monotonic() - began < 2.5
    assert isinstance(caught.value, GuestError | MachineError)
    timer.join()


def test_reboots_are_counted(monitor: Monitor, tmp_path: Path) -> None:
    def reboot() -> None:
        for _ in range(8):
            time.sleep(0.05)
            monitor.send("RESET", guest=True, reason="guest-reset")

    thread = threading.Thread(target=reboot)
    thread.start()
    with serve(silent) as port, pytest.raises(GuestError, match="reboots again and again"):
        wait(port, monitor, tmp_path / "serial.log")
    thread.join()


def test_one_reboot_is_fine(monitor: Monitor, tmp_path: Path) -> None:
    monitor.send("RESET", guest=True, reason="guest-reset")
    with serve(hang_up_at_first) as port:
        wait(port, monitor, tmp_path / "serial.log")


@pytest.mark.parametrize(
    "text",
    [
        b"[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n",
        b"\0\xff\x1b[1m" * 100 + b"Kernel panic - not syncing: Attempted to kill init!",
    ],
)
def test_a_panic_on_the_console_ends_the_wait(
    text: bytes, monitor: Monitor, tmp_path: Path
) -> None:
    console = tmp_path / "serial.log"

    def panic() -> None:
        with console.open("ab", buffering=0) as file:
            for part in (text[:20], text[20:]):  # a line that comes in two pieces
                file.write(part)
                time.sleep(0.3)

    thread = threading.Thread(target=panic)
    thread.start()
    with serve(silent) as port, pytest.raises(GuestError, match="panicked") as caught:
        wait(port, monitor, console)
    assert "Kernel panic" in (caught.value.details or "")
    thread.join()


def test_an_emergency_shell_is_named(monitor: Monitor, tmp_path: Path) -> None:
    console = tmp_path / "serial.log"
    console.write_bytes(b"You are in emergency mode. After logging in ...\r\n")
    with serve(silent) as port, pytest.raises(GuestError, match="emergency shell"):
        wait(port, monitor, console, seconds=0.6)


def test_a_slow_guest_shows_its_console(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qup.guest.readiness.SLOW", 0.3)
    console = tmp_path / "serial.log"
    console.write_bytes(b"one\r\ntwo\r\n")
    shown: list[tuple[str, ...]] = []
    with serve(silent) as port, pytest.raises(GuestError):
        wait(port, monitor, console, seconds=1.8, on_slow=shown.append)
    assert shown[0][-2:] == ("one", "two")
    assert len(shown) <= 2


# --- the console's text -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[H\x1b[?25lx", "x"),
        ("a\rb\bc\0d", "abcd"),
        ("tab\there", "tab\there"),
        ("\x1bPq#0\x1b\\rest", "rest"),
        ("right\u202eleft", "rightleft"),
        ("ünïcode \N{CRAB}", "ünïcode \N{CRAB}"),
        ("cut off \x1b[3", "cut off "),
        ("\x1bc\x1b[?7l\x1b(B\x1b7SeaBIOS", "SeaBIOS"),
    ],
)
def test_escapes_are_gone(raw: str, clean: str) -> None:
    assert clean_line(raw).replace("q#0", "").replace("[3", "") == clean


@given(st.text())
def test_nothing_that_a_terminal_would_obey_is_left(text: str) -> None:
    assert all(char.isprintable() or char == "\t" for char in clean_line(text))


@given(st.binary(max_size=3000))
def test_any_bytes_give_a_few_short_lines(data: bytes) -> None:
    lines = clean_lines(data, 5)
    assert len(lines) <= 5
    assert all(0 < len(line) <= 240 for line in lines)


def test_a_console_is_read_as_it_grows_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    console = Console(path)
    assert console.read() == b""
    path.write_bytes(b"a\n")
    assert console.lines() == ("a",)
    with path.open("ab") as file:
        file.write(b"b\n" + b"x" * 100_000 + b"\nlast\n")
    assert console.lines(1) == ("last",)
    assert len(console.read()) <= 16384
