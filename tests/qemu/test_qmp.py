"""The monitor's client against a scripted server, and against QEMU itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qup.errors import MachineError
from qup.qemu.qmp import (
    MAX_LINE,
    CommandFailed,
    MonitorBusy,
    MonitorClosed,
    MonitorGarbled,
    Qmp,
)

Step = bytes | Callable[[socket.socket], None]

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},'
    b' "package": ""}, "capabilities": ["oob"]}}\r\n'
)
READY = b'{"return": {}, "id": 1}\r\n'
STOP = b'{"timestamp": {"seconds": 1700000000, "microseconds": 500000}, "event": "STOP"}\r\n'
SHUTDOWN = (
    b'{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "SHUTDOWN",'
    b' "data": {"guest": true, "reason": "guest-shutdown"}}\r\n'
)


def read(connection: socket.socket) -> None:
    """Step: take one request."""
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(4096) or b"\n"


def leave(connection: socket.socket) -> None:
    """Step: hang up."""
    connection.shutdown(socket.SHUT_RDWR)


HELLO: tuple[Step, ...] = (GREETING, read, READY)


@contextmanager
def server(folder: Path, *steps: Step) -> Iterator[Path]:
    """Serve one client by a script, then listen to it until it leaves."""
    path = folder / "qmp"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                for step in steps:
                    if isinstance(step, bytes):
                        connection.sendall(step)
                    else:
                        step(connection)
                while connection.recv(4096):
                    pass
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        listener.close()
        thread.join(5)


def test_greeting_tells_the_version(tmp_path: Path) -> None:
    with server(tmp_path, *HELLO) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.version == (7, 2, 22)
        assert monitor.fileno() >= 0


def test_command_with_arguments_returns_the_answer(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def take(connection: socket.socket) -> None:
        seen.append(connection.recv(4096))

    steps = (*HELLO, take, b'{"return": {"status": "running"}, "id": 2}\r\n')
    with server(tmp_path, *steps) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.execute("query", {"a": 'b"ü'}) == {"status": "running"}
    assert json.loads(seen[0]) == {"execute": "query", "id": 2, "arguments": {"a": 'b"ü'}}


def test_hmp_returns_what_is_printed(tmp_path: Path) -> None:
    steps = (*HELLO, read, b'{"return": "net0\\r\\n", "id": 2}\r\n')
    with server(tmp_path, *steps) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.hmp("info usernet") == "net0\r\n"


def test_event_and_reply_in_one_read(tmp_path: Path) -> None:
    steps = (*HELLO, read, STOP + b'{"return": 1, "id": 2}\r\n' + SHUTDOWN)
    with server(tmp_path, *steps) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.execute("stop") == 1
        stop, shutdown = monitor.poll_events()
        assert (stop.name, stop.data, stop.timestamp) == ("STOP", {}, 1700000000.5)
        assert (shutdown.name, shutdown.data["reason"]) == ("SHUTDOWN", "guest-shutdown")
        assert monitor.poll_events() == []


def test_reply_in_many_pieces(tmp_path: Path) -> None:
    reply = STOP + b'{"return": "x", "id": 2}\r\n'

    def drip(connection: socket.socket) -> None:
        for index in range(0, len(reply), 7):
            connection.sendall(reply[index : index + 7])
            time.sleep(0.001)

    with server(tmp_path, *HELLO, read, drip) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.execute("stop") == "x"
        assert [event.name for event in monitor.poll_events()] == ["STOP"]


def test_long_reply_within_the_limit(tmp_path: Path) -> None:
    long = json.dumps({"return": "x" * (MAX_LINE - 1000), "id": 2}).encode() + b"\r\n"
    with server(tmp_path, *HELLO, read, long) as path, Qmp.connect(path, timeout=5) as monitor:
        assert len(monitor.execute("query-qmp-schema")) == MAX_LINE - 1000


def test_wait_returns_events_one_by_one(tmp_path: Path) -> None:
    with server(tmp_path, *HELLO, STOP + SHUTDOWN) as path, Qmp.connect(path, timeout=5) as monitor:
        names = [monitor.wait(time.monotonic() + 5) for _ in range(2)]
        assert [event.name for event in names if event] == ["STOP", "SHUTDOWN"]
        begin = time.monotonic()
        assert monitor.wait(begin + 0.1) is None
        assert 0.09 <= time.monotonic() - begin < 2


@pytest.mark.parametrize(
    "more", [b"", b', "data": 1', b', "timestamp": 1', b', "timestamp": {"seconds": "x"}']
)
def test_malformed_event_is_an_event(tmp_path: Path, more: bytes) -> None:
    event = b'{"event": "X"' + more + b"}\n"
    with server(tmp_path, *HELLO, event) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.wait(time.monotonic() + 5) == ("X", {}, 0.0)


def test_refused_command(tmp_path: Path) -> None:
    refusal = b'{"id": 2, "error": {"class": "CommandNotFound", "desc": "The command x ..."}}\r\n'
    again = b'{"return": {}, "id": 3}\r\n'
    steps = (*HELLO, read, refusal, read, again)
    with server(tmp_path, *steps) as path, Qmp.connect(path, timeout=5) as monitor:
        with pytest.raises(CommandFailed) as caught:
            monitor.execute("x")
        assert caught.value.error_class == "CommandNotFound"
        assert caught.value.description == "The command x ..."
        assert isinstance(caught.value, MachineError)
        assert monitor.execute("y") == {}


@pytest.mark.parametrize("error", [b"null", b"[]", b'"x"', b"{}"])
def test_malformed_refusal_is_a_refusal(tmp_path: Path, error: bytes) -> None:
    steps = (*HELLO, read, b'{"id": 2, "error": ' + error + b"}\r\n")
    with (
        server(tmp_path, *steps) as path,
        Qmp.connect(path, timeout=5) as monitor,
        pytest.raises(CommandFailed, match="no reason given"),
    ):
        monitor.execute("x")


def test_late_reply_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    late = b'{"return": "late", "id": 2}\r\n{"return": "right", "id": 3}\r\n'
    with (
        server(tmp_path, *HELLO, read, read, late) as path,
        Qmp.connect(path, timeout=5) as monitor,
    ):
        with pytest.raises(MonitorBusy):
            monitor.execute("slow", timeout=0.1)
        assert monitor.execute("next") == "right"


def test_descriptors_are_handed_over(tmp_path: Path) -> None:
    got: list[int] = []

    def take(connection: socket.socket) -> None:
        got.extend(socket.recv_fds(connection, 4096, 1)[1])

    inside, outside = os.pipe()
    steps = (*HELLO, take, b'{"return": {}, "id": 2}\r\n')
    with server(tmp_path, *steps) as path, Qmp.connect(path, timeout=5) as monitor:
        monitor.execute("getfd", {"fdname": "x"}, fds=[outside])
    os.write(got[0], b"hello")
    assert os.read(inside, 5) == b"hello"
    for fd in (inside, outside, *got):
        os.close(fd)


def test_silence_is_busy_and_names_the_socket(tmp_path: Path) -> None:
    begin = time.monotonic()
    with (
        server(tmp_path) as path,
        pytest.raises(MonitorBusy, match="the monitor does not answer") as caught,
    ):
        Qmp.connect(path, timeout=0.2)
    assert str(path) in caught.value.message
    assert time.monotonic() - begin < 2


def test_full_queue_is_busy(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "qmp"))
    listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in waiting:
        client.setblocking(False)
        client.connect_ex(str(tmp_path / "qmp"))
    try:
        with pytest.raises(MonitorBusy):
            Qmp.connect(tmp_path / "qmp", timeout=0.1)
    finally:
        for one in (listener, *waiting):
            one.close()


def test_dripping_line_does_not_move_the_deadline(tmp_path: Path) -> None:
    def drip(connection: socket.socket) -> None:
        for _ in range(50):
            connection.sendall(b" ")
            time.sleep(0.02)

    begin = time.monotonic()
    with server(tmp_path, drip) as path, pytest.raises(MonitorBusy):
        Qmp.connect(path, timeout=0.2)
    assert time.monotonic() - begin < 1.5


def test_wall_clock_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
    with server(tmp_path, *HELLO) as path, Qmp.connect(path, timeout=5) as monitor:
        assert monitor.poll_events() == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\xff\xfe\n",
        b"[]\n",
        b"1\n",
        b"{}\n",
        b'{"QMP": 1}\n',
        b'{"return": {}}\n',
        b"[" * 200_000 + b"\n",
    ],
    ids=lambda garbage: repr(garbage[:20]),
)
def test_garbage_instead_of_a_greeting(tmp_path: Path, garbage: bytes) -> None:
    with server(tmp_path, garbage) as path, pytest.raises(MonitorGarbled):
        Qmp.connect(path, timeout=5)


def test_endless_line_is_cut(tmp_path: Path) -> None:
    def flood(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(b"x" * 65536)

    with server(tmp_path, flood) as path, pytest.raises(MonitorGarbled, match="bytes"):
        Qmp.connect(path, timeout=10)


def test_end_before_the_greeting(tmp_path: Path) -> None:
    with server(tmp_path, b'{"QMP": ', leave) as path, pytest.raises(MonitorClosed):
        Qmp.connect(path, timeout=5)


def test_end_instead_of_a_reply(tmp_path: Path) -> None:
    with (
        server(tmp_path, *HELLO, read, leave) as path,
        Qmp.connect(path, timeout=5) as monitor,
        pytest.raises(MonitorClosed),
    ):
        monitor.execute("quit")


def test_last_events_come_before_the_end(tmp_path: Path) -> None:
    steps = (*HELLO, SHUTDOWN, leave)
    with server(tmp_path, *steps) as path, Qmp.connect(path, timeout=5) as monitor:
        time.sleep(0.1)
        assert [event.name for event in monitor.poll_events()] == ["SHUTDOWN"]
        with pytest.raises(MonitorClosed):
            monitor.poll_events()
        with pytest.raises(MonitorClosed):
            monitor.wait(time.monotonic() + 5)
        with pytest.raises(MonitorClosed):
            monitor.execute("query-status")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(MonitorClosed, match="no QEMU listens"):
        Qmp.connect(tmp_path / "nothing", timeout=1)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "stale"))
    stale.close()
    with pytest.raises(MonitorClosed, match="no QEMU listens"):
        Qmp.connect(tmp_path / "stale", timeout=1)


def test_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(MonitorClosed, match="too long"):
        Qmp.connect(tmp_path / ("ü" * 54), timeout=1)


def drain(monitor: Qmp) -> None:
    while monitor.wait(time.monotonic() + 5):
        pass


# --- the real one -------------------------------------------------------------------------


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("no qemu-system-x86_64")
    path = tmp_path / "qmp"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    with listener:
        process = subprocess.Popen(
            [
                *(program, "-S", "-accel", "tcg", "-machine", "q35", "-m", "16M"),
                *("-nodefaults", "-display", "none", "-netdev", "user,id=net0"),
                *("-device", "virtio-net-pci,netdev=net0,romfile="),
                *("-chardev", f"socket,id=c,fd={listener.fileno()},server=on,wait=off"),
                *("-mon", "chardev=c,mode=control"),
            ],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process, path
    finally:
        process.kill()
        process.wait()


@pytest.mark.qemu
def test_real_qemu(qemu: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, path = qemu
    with Qmp.connect(path, timeout=10) as monitor:
        assert monitor.version >= (5, 0, 0)
        assert monitor.execute("query-status")["status"] == "prelaunch"
        assert len(monitor.execute("query-qmp-schema")) > 100
        assert monitor.hmp("hostfwd_add net0 tcp:127.0.0.1:0-:22") == ""
        assert "HOST_FORWARD" in monitor.hmp("info usernet")
        with pytest.raises(CommandFailed, match="nonsense"):
            monitor.execute("nonsense")
        monitor._send(b"{'execute': }\n", (), time.monotonic() + 1)
        with pytest.raises(CommandFailed, match=r"JSON parse error"):
            monitor.execute("query-status")  # the answer to nonsense has no id
        with pytest.raises(MonitorBusy):
            Qmp.connect(path, timeout=0.3)
        monitor.poll_events()
        process.send_signal(signal.SIGTERM)
        event = monitor.wait(time.monotonic() + 5)
        assert event is not None
        assert (event.name, event.data["reason"]) == ("SHUTDOWN", "host-signal")
        with pytest.raises(MonitorClosed):
            drain(monitor)


@pytest.mark.qemu
def test_real_qemu_that_hangs(qemu: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, path = qemu
    with Qmp.connect(path, timeout=10) as monitor:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(MonitorBusy):
            monitor.execute("query-status", timeout=0.2)
        process.send_signal(signal.SIGCONT)
        assert monitor.execute("query-status")["running"] is False


@pytest.mark.qemu
def test_oracle_agrees(qemu: tuple[subprocess.Popen[bytes], Path]) -> None:
    """qemu.qmp, QEMU's own client, sees the same world as ours."""
    oracle = pytest.importorskip("qemu.qmp")
    import asyncio

    _, path = qemu

    async def ask() -> object:
        client = oracle.QMPClient("oracle")
        await client.connect(str(path))
        answer = await client.execute("query-name"), await client.execute("query-status")
        await client.disconnect()
        return answer

    with Qmp.connect(path, timeout=10) as monitor:
        ours = monitor.execute("query-name"), monitor.execute("query-status")
    assert asyncio.run(ask()) == ours
