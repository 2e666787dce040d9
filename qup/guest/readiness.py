"""Waiting until a guest answers ssh, or can't any more.

QEMU's user network accepts a connection before anybody in the guest listens, loses the first
packets, and retries ever more slowly. So new connections are tried in short order while a few
older ones stay open, and the first to carry sshd's banner (RFC 4253, 4.2) wins. An sshd under
load needs longer for its banner than it takes to connect again: none is given up early. At the same
time QEMU's events, its life, and the guest's console are watched.
"""

from __future__ import annotations

import errno
import re
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qup.errors import GuestError, MachineError
from qup.model.text import clean_line

TICK = 0.05
"""Seconds between two looks at the console, and at the least between two connections."""
SPACING, LATER_SPACING = 0.1, 0.3
"""Seconds to the next connection while the last one is neither answered nor refused. A guest
that takes long is slow, and should not be kept busy with connections."""
LATER = 8.0
"""Seconds after which a guest takes long."""
PATIENCE = (0.2, 0.2, 5.0, 30.0)
"""Connections at a time, by the seconds that each is kept: short ones find a guest that begins
to listen, long ones an sshd that is slow with its banner. dropbear refuses the sixth."""
SLOW = 5.0
"""Seconds after which the console's tail is shown."""
MAX_RESETS = 5
"""So many resets before ssh ever answered are a reboot loop."""
BANNER = b"SSH-"
TAIL_LINES = 12

_PANIC = re.compile(rb"Kernel panic - not syncing|end Kernel panic")
_EMERGENCY = re.compile(
    rb"emergency mode|Give root password for maintenance|dropped to a shell|\(initramfs\)"
)


class QmpEvent(Protocol):
    """What QEMU reports: :class:`qup.qemu.qmp.QmpEvent`."""

    @property
    def name(self) -> str: ...
    @property
    def data(self) -> dict[str, Any]: ...


class Monitor(Protocol):
    """The part of :class:`qup.qemu.qmp.Qmp` that is needed here."""

    def fileno(self) -> int: ...
    def poll_events(self) -> Sequence[QmpEvent]: ...


@dataclass
class Console:
    """The serial log of one start, read as it grows."""

    path: Path
    _offset: int = 0
    _tail: bytes = b""
    grew: bool = False

    def read(self) -> bytes:
        """The last part of what the guest has printed so far."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read(1 << 20)
            self._offset += len(fresh)
            self.grew = bool(fresh)
            self._tail = (self._tail + fresh)[-16384:]
        return self._tail

    def lines(self, count: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines, without escapes or control characters."""
        return clean_lines(self.read(), count)


def clean_lines(data: bytes, count: int) -> tuple[str, ...]:
    """The last non-empty lines of a guest's output, cleaned and cut to a bearable length."""
    lines = [clean_line(line)[:240] for line in data.decode(errors="replace").splitlines()]
    return tuple([line for line in lines if line.strip()][-count:])


@dataclass
class Prober:
    """Connections to sshd's port, until one brings its banner."""

    address: str
    port: int
    selector: selectors.BaseSelector
    accepted: bool = False
    _open: dict[int, tuple[socket.socket, float]] = field(default_factory=dict)
    _not_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def attempt(self, now: float) -> None:
        """Start one more connection if it is time; one that was kept long enough gives way."""
        if now < self._not_before:
            return
        for slot in reversed(range(len(PATIENCE))):
            if slot not in self._open or self._open[slot][1] <= now:
                self._drop(slot)
                self._connect(slot, now)
                return

    def _connect(self, slot: int, now: float) -> None:
        probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if probe.connect_ex((self.address, self.port)) not in (0, errno.EINPROGRESS):
            probe.close()
            return
        self.selector.register(probe, selectors.EVENT_READ, slot)
        self._open[slot] = (probe, now + PATIENCE[slot])
        self._not_before = now + (SPACING if now - self._began < LATER else LATER_SPACING)

    def read(self, slot: int) -> bool:
        """Whether a connection brought the banner; a dead one is dropped."""
        try:
            data = self._open[slot][0].recv(255)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data.startswith(BANNER):
            return True
        self.accepted = self.accepted or bool(data)
        self._drop(slot)
        self._not_before = 0.0  # it was refused: there is somebody who may soon say yes
        return False

    def _drop(self, slot: int) -> None:
        if slot in self._open:
            probe, _ = self._open.pop(slot)
            self.selector.unregister(probe)
            probe.close()

    def close(self) -> None:
        for slot in list(self._open):
            self._drop(slot)


def wait_for_banner(
    machine: str,
    address: str,
    port: int,
    *,
    monitor: Monitor,
    console: Console,
    deadline: float,
    on_slow: Callable[[tuple[str, ...]], None],
) -> None:
    """Return as soon as the guest's sshd says who it is.

    Args:
        machine: its name, for messages.
        address: where sshd is expected.
        port: its port there.
        monitor: QEMU's events of this start.
        console: the serial log of this start.
        deadline: on :func:`time.monotonic`'s clock.
        on_slow: shown the console's tail about once a second when it takes long.

    Raises:
        GuestError: the guest panicked, powered off, reboots for ever, or took too long; the
            message names the stage it reached, the details are the console's tail.
        MachineError: QEMU died, or the machine stopped for want of disk space.
    """
    watch = _Watch(machine, console)
    began = time.monotonic()
    shown = began + SLOW
    with selectors.DefaultSelector() as selector:
        prober = Prober(address, port, selector)
        selector.register(monitor, selectors.EVENT_READ, watch)
        next_attempt = began
        try:
            while True:
                now = time.monotonic()
                if now >= deadline:
                    raise watch.timed_out(now - began, prober)
                if now >= next_attempt:
                    prober.attempt(now)
                    watch.check_console()
                    next_attempt = now + TICK
                    if now >= shown and (lines := console.lines()):
                        on_slow(lines)
                        shown = now + 1.0
                for key, _ in selector.select(max(0.0, min(next_attempt, deadline) - now)):
                    if key.data is watch:
                        watch.check_events(monitor)
                    elif prober.read(key.data):
                        return
        finally:
            prober.close()


@dataclass
class _Watch:
    machine: str
    console: Console
    resets: int = 0

    def check_events(self, monitor: Monitor) -> None:
        for event in monitor.poll_events():
            match event.name:
                case "GUEST_PANICKED":
                    raise self.fail("the guest's kernel panicked")
                case "SHUTDOWN":
                    raise self.fail(_describe_shutdown(event.data))
                case "RESET":
                    self.resets += 1
                    if self.resets >= MAX_RESETS:
                        raise self.fail(f"the guest reboots again and again ({self.resets} times)")
                case "BLOCK_IO_ERROR":
                    raise self._disk_error(event.data)

    def _disk_error(self, data: dict[str, object]) -> MachineError:
        if data.get("nospace"):
            return MachineError(
                f"machine {self.machine}: paused, because the host's disk is full",
                hint="free some space, then 'qup up' goes on",
                machine=self.machine,
            )
        return MachineError(
            f"machine {self.machine}: paused after a disk error: {data.get('reason', 'unknown')}",
            machine=self.machine,
        )

    def check_console(self) -> None:
        if _PANIC.search(self.console.read()):
            raise self.fail("the guest's kernel panicked")

    def timed_out(self, seconds: float, prober: Prober) -> GuestError:
        output = self.console.read()
        if not output:
            stage = "nothing was printed on the serial console: the guest may not boot at all"
        elif _EMERGENCY.search(output):
            stage = "the guest stopped in an emergency shell"
        elif prober.accepted:
            stage = "something answers on port 22, but it is no sshd"
        else:
            stage = "the guest runs, but no sshd answers"
        return self.fail(f"not ready after {seconds:.0f} s: {stage}", timeout=True)

    def fail(self, reason: str, *, timeout: bool = False) -> GuestError:
        hint = f"all of it: 'qup logs {self.machine}'"
        if timeout:
            hint += f"; look inside: 'qup console {self.machine}'; more time: 'boot-timeout'"
        error = GuestError(
            f"machine {self.machine}: {reason}",
            hint=hint,
            details="\n".join(self.console.lines()) or "(nothing was printed on the console)",
            machine=self.machine,
        )
        error.worth_a_look = timeout
        return error


def _describe_shutdown(data: dict[str, object]) -> str:
    reason = str(data.get("reason", "unknown"))
    if data.get("guest"):
        return "the guest powered off before ssh answered"
    return f"QEMU was stopped before ssh answered ({reason})"
