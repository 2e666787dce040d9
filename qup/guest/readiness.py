"""Waiting until a guest answers ssh, or can't any more.

Everything that may tell is watched at the same time: sshd's port wherever the guest may be, QEMU's
events, its life, and the guest's console.
"""

from __future__ import annotations

import re
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qup.errors import GuestError, MachineError
from qup.guest.discovery import Place, Whereabouts, doubt
from qup.guest.prober import Prober
from qup.model.text import clean_line

TICK = 0.05
"""Seconds between two looks at the console, and at the least between two connections to a place."""
SLOW = 5.0
"""Seconds after which the console's tail is shown."""
MAX_RESETS = 5
"""So many resets before ssh ever answered are a reboot loop."""
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

    def read(self) -> bytes:
        """The last part of what the guest has printed so far."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read(1 << 20)
            self._offset += len(fresh)
            self._tail = (self._tail + fresh)[-16384:]
        return self._tail

    def lines(self, count: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines, without escapes or control characters."""
        return clean_lines(self.read(), count)


def clean_lines(data: bytes, count: int) -> tuple[str, ...]:
    """The last non-empty lines of a guest's output, cleaned and cut to a bearable length."""
    lines = [clean_line(line)[:240] for line in data.decode(errors="replace").splitlines()]
    return tuple([line for line in lines if line.strip()][-count:])


def wait_for_banner(
    machine: str,
    where: Whereabouts,
    *,
    monitor: Monitor,
    console: Console,
    deadline: float,
    on_slow: Callable[[tuple[str, ...]], None],
) -> Place:
    """Return as soon as the guest's sshd, or somebody else's, says who it is.

    Args:
        machine: its name, for messages.
        where: where sshd may be.
        monitor: QEMU's events of this start.
        console: the serial log of this start.
        deadline: on :func:`time.monotonic`'s clock.
        on_slow: shown the console's tail about once a second when it takes long.

    Returns:
        Where it answers.

    Raises:
        GuestError: the guest panicked, powered off, reboots for ever, or took too long; the
            message names the stage it reached, the details are the console's tail.
        MachineError: QEMU died, or the machine stopped for want of disk space.
    """
    watch = _Watch(machine, console)
    began = time.monotonic()
    shown = began + SLOW
    with selectors.DefaultSelector() as selector:
        probers: dict[str, Prober] = {}
        selector.register(monitor, selectors.EVENT_READ, watch)
        next_attempt = began
        try:
            while True:
                now = time.monotonic()
                if now >= deadline:
                    raise watch.timed_out(now - began, _describe(where, probers, now), where)
                if now >= next_attempt:
                    for place in where.look(now):
                        if place.address not in probers:
                            probers[place.address] = Prober(place.address, place.port, selector)
                        probers[place.address].attempt(now)
                    watch.check_console()
                    next_attempt = now + TICK
                    if now >= shown and (lines := console.lines()):
                        on_slow(lines)
                        shown = now + 1.0
                for key, _ in selector.select(max(0.0, min(next_attempt, deadline) - now)):
                    if key.data is watch:
                        watch.check_events(monitor)
                        continue
                    prober, slot = key.data
                    if prober.read(slot):
                        places = where.look(now)
                        return next(it for it in places if it.address == prober.address)
        finally:
            for prober in probers.values():
                prober.close()


def _describe(where: Whereabouts, probers: Mapping[str, Prober], now: float) -> str:
    """How far it got: the guest is somewhere and doesn't answer, or it is nowhere."""
    found = []
    for place in where.look(now):
        who = f"the guest is expected at {place.address} ({place.source})"
        reached = probers[place.address].describe() if place.address in probers else "not tried yet"
        found.append(f"{who if place.source else 'the guest runs'}, but {reached}")
    return "; ".join(found) or where.describe()


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
                    error = self.fail(_describe_shutdown(event.data))
                    error.powered_off = bool(event.data.get("guest"))
                    raise error
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

    def timed_out(self, seconds: float, reached: str, where: Whereabouts) -> GuestError:
        output = self.console.read()
        if not output:
            stage = "nothing was printed on the serial console: the guest may not boot at all"
        elif _EMERGENCY.search(output):
            stage = "the guest stopped in an emergency shell"
        else:
            stage = reached
        doubts = [doubt(place, where.mac) for place in where.look(time.monotonic())]
        reason = "; ".join([stage, *filter(None, doubts)])
        return self.fail(f"not ready after {seconds:.0f} s: {reason}", timeout=True)

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
