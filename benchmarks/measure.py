"""Timing whole processes, in rounds in which every command has its turn."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 180.0
"""Seconds after which a command counts as hung and is killed."""

GRACE = 10.0
"""Seconds that a command has for cleaning up after itself when it is cut off."""

MAX_FAILURES = 3
"""So many failures of one command end the benchmark; fewer are counted and told."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of ``ru_maxrss`` (``getrusage(2)``)."""


class BenchmarkError(Exception):
    """What is to be measured doesn't work."""


@dataclass(frozen=True)
class Sample:
    """One run: seconds, and the peak memory in bytes of its largest process."""

    seconds: float
    peak: int = 0


@dataclass
class Series:
    """All runs of one thing; a round that failed is None, so that rounds can be compared."""

    name: str
    samples: list[Sample | None] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return self.samples.count(None)

    @property
    def seconds(self) -> list[float]:
        return [sample.seconds for sample in self.samples if sample is not None]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def peak(self) -> int:
        """Bytes: the median of the peaks."""
        peaks = [sample.peak for sample in self.samples if sample is not None]
        return int(statistics.median(peaks)) if peaks else 0

    def add(self, sample: Sample | None) -> None:
        self.samples.append(sample)
        if self.failures >= MAX_FAILURES:
            raise BenchmarkError(f"{self.name} failed {self.failures} times")


def ratio(one: Series, other: Series, *, less: float = 0.0) -> float | None:
    """The median over the rounds of one's time by the other's in the same round.

    Args:
        one: what is looked at.
        other: by what.
        less: seconds that the first is forgiven.
    """
    pairs = zip(one.samples, other.samples, strict=False)
    found = [(a.seconds - less) / b.seconds for a, b in pairs if a is not None and b is not None]
    return statistics.median(found) if found else None


def run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Sample:
    """Run a command to its end, with nothing on its standard input and its output dropped.

    Its peak memory counts the programs it waited for, not what it left in the background:
    QEMU is not in it.

    Raises:
        BenchmarkError: it failed or hung; the message has what it said.
    """
    report, write = os.pipe()
    with os.fdopen(report) as answer, tempfile.TemporaryFile() as said:
        try:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), *argv],
                cwd=cwd,
                env={**env, "LAUNCHER_REPORT": str(write)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[write],
                start_new_session=True,
            )
        finally:
            os.close(write)
        _wait(launcher, argv)
        code, seconds, peak = answer.readline().split() or ("unknown", "0", "0")
        if code != "0":
            said.seek(0)
            words = said.read().decode(errors="replace")[-2000:].strip()
            raise BenchmarkError(f"{shlex.join(argv)}: exit code {code}\n{words}")
    return Sample(float(seconds), int(peak) * _RSS_UNIT)


def _wait(launcher: subprocess.Popen[bytes], argv: Sequence[str]) -> None:
    """Wait for a launcher; end it and what it started if that takes too long or is cut off."""
    try:
        launcher.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{shlex.join(argv)}: not done after {TIMEOUT:.0f} s") from None
    finally:
        if launcher.poll() is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                os.killpg(launcher.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    launcher.wait(GRACE)
                    break


def attempt(series: Series, action: Callable[[], Sample]) -> Sample | None:
    """Do something once and note its figures, or that it failed."""
    try:
        sample = action()
    except BenchmarkError as exc:
        print(f"  failed: {series.name}: {exc}", file=sys.stderr, flush=True)
        series.add(None)
        return None
    series.add(sample)
    return sample


def interleave(actions: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, Series]:
    """Do everything once a round, each round beginning with another; the first is not counted.

    Args:
        actions: what to measure, by name.
        rounds: how often.
    """
    series = {name: Series(name) for name in actions}
    for name, action in actions.items():  # caches warm up
        attempt(Series(name), action)
    names = list(actions)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            attempt(series[name], actions[name])
    return series
