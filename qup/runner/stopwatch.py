"""Where the time of a start goes, phase by phase.

A phase ends where the next one begins, so that they add up to the whole and nothing hides
between them. Every ``up`` notes them; a reading of the clock costs less than a microsecond.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from qup.files import write_atomic
from qup.paths import MachineFolder

PHASES = {
    "process": "the interpreter, the command line",
    "qupfile": "loading the plugins, reading the Qupfile",
    "lock": "the machine's lock, and what it is doing",
    "box": "finding the box, or making it",
    "plan": "facts about this computer, the plan",
    "preflight": "looking for what can't work here",
    "template": "finding the template, or making it",
    "disk": "disk, keys and seed",
    "launch": "starting QEMU until its monitor answers",
    "restore": "loading the template's state, or the suspended memory",
    "forwards": "forwards, and letting the guest go",
    "identity": "making the guest a machine of its own, or telling it the time",
    "boot": "until the guest's sshd answers",
    "login": "the first ssh login",
    "names": "neighbours' names",
    "first-boot": "the end of the guest's first boot",
    "folders": "folders, mounted and copied",
    "provision": "provisioning steps",
    "save": "saving it for 'qup reset'",
    "end": "the rest",
}
"""The phases of a start in their order, each in a few words."""

SCHEMA = 1
_START_TIME = 19
"""Where ``starttime`` (field 22 of ``proc_pid_stat(5)``) is, after the name's parenthesis."""


class Timings(NamedTuple):
    """What a start took.

    Attributes:
        started: when, in ISO 8601, UTC.
        template: the id of the template that it was restored from; None if it booted.
        phases: seconds of each phase that there was, in the order of :data:`PHASES`.
        resumed: it went on with the memory that it was suspended with.
    """

    started: str
    template: str | None
    phases: Mapping[str, float]
    resumed: bool = False

    @property
    def total(self) -> float:
        """Seconds from the process's start until all was done."""
        return sum(self.phases.values())


class Stopwatch:
    """Counts the seconds of each phase."""

    def __init__(self, begun: Mapping[str, float] | None = None) -> None:
        """Begin; ``begun`` has the phases that were over before."""
        self._seconds = dict(begun or {})
        self._last = time.monotonic()
        self._around: str | None = None

    def lap(self, phase: str) -> None:
        """End a phase: all that was done since the one before it."""
        now = time.monotonic()
        name = self._around or phase
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    @contextmanager
    def around(self, phase: str) -> Iterator[None]:
        """Count whatever phases end meanwhile, on behalf of another machine, as this one."""
        self._around = phase
        try:
            yield
            self.lap(phase)
        finally:
            self._around = None

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, to the millisecond."""
        return {name: round(self._seconds[name], 3) for name in PHASES if name in self._seconds}


def process_age() -> float:
    """Seconds since this process was started, to 0.01 s; 0 where the system doesn't say."""
    if sys.platform != "linux":
        return 0.0
    try:
        stat = Path("/proc/self/stat").read_text()
        started = int(stat.rpartition(")")[2].split()[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def write_timings(folder: MachineFolder, timings: Timings) -> None:
    """Keep what the newest start of a machine took."""
    data = {"schema": SCHEMA, **timings._asdict()}
    write_atomic(folder.timings, json.dumps(data, indent=1), durable=False)


def read_timings(folder: MachineFolder) -> Timings | None:
    """What the newest start of a machine took, if that is known."""
    try:
        data = json.loads(folder.timings.read_bytes())
        phases = {str(name): float(seconds) for name, seconds in data["phases"].items()}
        resumed = bool(data.get("resumed"))
        return Timings(str(data["started"]), data["template"], phases, resumed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
