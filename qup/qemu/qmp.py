"""QEMU's monitor: a small blocking client of QMP.

The protocol is one JSON object a line (``docs/interop/qmp-spec.rst`` in QEMU's source): QEMU
greets, the client negotiates, and from then on every command gets a reply with its ``id``
while events may arrive in between. A socket serves one client at a time; another one is
accepted by the kernel but greeted only when the first has left.

``qup status`` imports this module: nothing slow is imported here.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from qup.errors import MachineError
from qup.paths import SOCKET_PATH_LIMIT

MAX_LINE = 1024 * 1024
"""Bytes of one message; QEMU's longest, ``query-qmp-schema``, has about 200 KiB."""

_CHUNK = 64 * 1024
_RETRY = 0.02


class MonitorError(MachineError):
    """QEMU's monitor can't be used."""


class MonitorBusy(MonitorError):
    """The socket is there, but nothing comes out: another client is attached, or QEMU hangs."""


class MonitorClosed(MonitorError):
    """Nobody is at the other end of the socket (any more)."""


class MonitorGarbled(MonitorError):
    """What comes out of the socket isn't QMP."""


class CommandFailed(MonitorError):
    """QEMU refused a command.

    Args:
        command: its name.
        error_class: QMP's class, nearly always ``GenericError``.
        description: QEMU's own words.
    """

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QEMU refused {command!r}: {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


class QmpEvent(NamedTuple):
    """Something QEMU reports by itself: ``SHUTDOWN``, ``STOP``, ``BLOCK_IO_ERROR`` ...

    Attributes:
        name: the event's name.
        data: what it says.
        timestamp: seconds since the epoch, by the host's clock.
    """

    name: str
    data: dict[str, Any]
    timestamp: float


class Qmp:
    """A connection to one monitor. Every wait has a deadline by the monotonic clock."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        """Wrap a connected socket; ``name`` is what messages call it. See :meth:`connect`."""
        self._socket = connection
        self._name = name
        self._buffer = bytearray()
        self._events: deque[QmpEvent] = deque()
        self._serial = 0
        self.version: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def connect(cls, path: Path, *, timeout: float) -> Self:
        """Connect, read the greeting and leave the negotiation mode.

        Args:
            path: the monitor's socket.
            timeout: seconds for all of that.

        Raises:
            MonitorClosed: no QEMU listens there, or it left.
            MonitorBusy: it doesn't greet in time.
            MonitorGarbled: it isn't QMP.
        """
        deadline = time.monotonic() + timeout
        monitor = cls(_connect(path, deadline), str(path))
        try:
            monitor._negotiate(deadline)
        except BaseException:
            monitor.close()
            raise
        return monitor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the monitor for the next client."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for selectors; events that were read already don't make it ready."""
        return self._socket.fileno()

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float = 5.0,
        fds: Sequence[int] = (),
    ) -> Any:
        """Run a command and return what it returns. Events that arrive meanwhile are kept.

        Args:
            command: QMP's name for it.
            arguments: its arguments.
            timeout: seconds to wait for the reply.
            fds: descriptors to hand over with it (``getfd``, ``add-fd``).

        Raises:
            CommandFailed: QEMU refused it.
            MonitorBusy: no reply in time. A reply that comes later is dropped.
            MonitorClosed: QEMU left.
        """
        deadline = time.monotonic() + timeout
        self._serial += 1
        request: dict[str, Any] = {"execute": command, "id": self._serial}
        if arguments:
            request["arguments"] = dict(arguments)
        self._send(json.dumps(request).encode() + b"\n", fds, deadline)
        while True:
            message = self._read(deadline)
            if message.get("id") == self._serial and "return" in message:
                return message["return"]
            # A command that QEMU could not even parse is answered without its id.
            if "error" in message and message.get("id", self._serial) == self._serial:
                raise _failure(command, message["error"])
            self._keep(message)

    def hmp(self, command_line: str, *, timeout: float = 5.0) -> str:
        """Run a line of the human monitor; what it prints is its only answer, errors too."""
        answer = self.execute(
            "human-monitor-command", {"command-line": command_line}, timeout=timeout
        )
        return str(answer)

    def poll_events(self) -> list[QmpEvent]:
        """The events that are here by now, oldest first, without waiting.

        Raises:
            MonitorClosed: QEMU left, and its last events have been returned before.
        """
        try:
            while (message := self._receive(deadline=None)) is not None:
                self._keep(message)
        except MonitorClosed:
            if not self._events:
                raise
        events = list(self._events)
        self._events.clear()
        return events

    def wait(self, deadline: float) -> QmpEvent | None:
        """The next event, or None once :func:`time.monotonic` has reached the deadline.

        Raises:
            MonitorClosed: QEMU left, and its last events have been returned before.
        """
        while not self._events:
            message = self._receive(deadline)
            if message is None:
                return None
            self._keep(message)
        return self._events.popleft()

    def _negotiate(self, deadline: float) -> None:
        greeting = self._read(deadline).get("QMP")
        if not isinstance(greeting, dict):
            raise MonitorGarbled(f"{self._name} is not a QMP monitor")
        self.version = _version(greeting)
        self.execute("qmp_capabilities", timeout=deadline - time.monotonic())

    def _keep(self, message: dict[str, Any]) -> None:
        if isinstance(name := message.get("event"), str):
            data = message.get("data")
            self._events.append(
                QmpEvent(name, data if isinstance(data, dict) else {}, _timestamp(message))
            )

    def _send(self, line: bytes, fds: Sequence[int], deadline: float) -> None:
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            sent = socket.send_fds(self._socket, [line], list(fds)) if fds else 0
            self._socket.sendall(line[sent:])
        except TimeoutError:
            raise self._busy() from None
        except OSError as exc:
            raise self._closed() from exc

    def _read(self, deadline: float) -> dict[str, Any]:
        message = self._receive(deadline)
        if message is None:
            raise self._busy()
        return message

    def _receive(self, deadline: float | None) -> dict[str, Any] | None:
        """The next message; None when it isn't complete by the deadline (or now, without)."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > MAX_LINE:
                raise MonitorGarbled(f"{self._name} sent a line of more than {MAX_LINE} bytes")
            if not self._fill(deadline):
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return self._parse(line)

    def _fill(self, deadline: float | None) -> bool:
        try:
            patience = 0.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
            self._socket.settimeout(patience)
            data = self._socket.recv(_CHUNK)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as exc:
            raise self._closed() from exc
        if not data:
            raise self._closed()
        self._buffer += data
        return True

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise MonitorGarbled(
                f"{self._name} sent something that is not QMP", details=repr(line[:200])
            )
        return message

    def _busy(self) -> MonitorBusy:
        return MonitorBusy(
            f"the monitor does not answer: {self._name}",
            hint="another program is attached to this socket, or QEMU hangs; try again",
        )

    def _closed(self) -> MonitorClosed:
        return MonitorClosed(f"QEMU closed its monitor: {self._name}")


def _connect(path: Path, deadline: float) -> socket.socket:
    address = os.fsencode(path)
    if len(address) > SOCKET_PATH_LIMIT:
        raise MonitorClosed(
            f"the socket's path is too long ({len(address)} bytes, the most is"
            f" {SOCKET_PATH_LIMIT}): {path}",
            hint="set QUP_RUNTIME_DIR to a shorter path",
        )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Non-blocking: where the queue of the socket is full, Linux answers EAGAIN at once.
        connection.settimeout(0)
        while True:
            try:
                connection.connect(address)
                return connection
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise MonitorBusy(
                        f"the monitor does not answer: {path}",
                        hint="other programs wait for this socket too, or QEMU hangs",
                    ) from None
                time.sleep(_RETRY)
    except OSError as exc:
        connection.close()
        raise MonitorClosed(f"no QEMU listens at {path} ({exc.strerror})") from exc
    except BaseException:
        connection.close()
        raise


def _failure(command: str, error: Any) -> CommandFailed:
    error = error if isinstance(error, dict) else {}
    return CommandFailed(
        command, str(error.get("class", "GenericError")), str(error.get("desc", "no reason given"))
    )


def _timestamp(message: dict[str, Any]) -> float:
    try:
        at = message["timestamp"]
        return float(at["seconds"]) + float(at["microseconds"]) / 1e6
    except (KeyError, TypeError, ValueError):
        return 0.0


def _version(greeting: dict[str, Any]) -> tuple[int, int, int]:
    try:
        numbers = greeting["version"]["qemu"]
        return int(numbers["major"]), int(numbers["minor"]), int(numbers["micro"])
    except (KeyError, TypeError, ValueError):
        return 0, 0, 0
