"""Stop qup exactly where a test wants it: before an operation on a file that it names.

Looking for a file that exists for a moment depends on luck; this does not::

    with stopped(lab, "snapshot", "save", "one", at="os.rename", path=".new/memory") as process:
        process.kill()

The folder has a ``sitecustomize`` that listens to Python's audit events (its table of them:
https://docs.python.org/3/library/audit_events.html).
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT
from tests.vm.lab import Lab, end, wait_until

HERE = Path(__file__).parent


@contextmanager
def stopped(
    lab: Lab,
    *argv: str,
    at: str,
    path: str,
    after: tuple[str, str] | None = None,
    seconds: float = 120.0,
) -> Iterator[subprocess.Popen[str]]:
    """Run qup until it is about to do ``at`` (an audit event) to a path; it stands still there.

    Args:
        lab: the project.
        argv: the command line.
        at: the event: ``open``, ``os.rename``, ``os.mkdir``, ``os.remove``, ``subprocess.Popen``.
        path: what a path (or word) among the event's arguments ends with.
        after: another event and path: not before that has come to pass.
        seconds: how long it may take to get there.

    Yields:
        qup, stopped; end it with its ``kill``, or let it go on with :func:`go_on`.
    """
    places = [after] if after else []
    places.append((at, path))
    process = lab.spawn(
        *argv,
        env={"QUP_TEST_STOP": "\n".join(map(" ".join, places)), "PYTHONPATH": f"{HERE}:{ROOT}"},
        stdout=subprocess.DEVNULL,
    )
    try:
        arrived = wait_until(lambda: process.poll() is not None or _stands(process.pid), seconds)
        assert arrived, f"qup {' '.join(argv)} was not about to {at} {path} in {seconds:g} s"
        assert process.returncode is None, f"qup ended without {at} {path}: {process.returncode}"
        yield process
    finally:
        end(process)


def go_on(process: subprocess.Popen[str], with_signal: signal.Signals | None = None) -> int:
    """Let it go on, with a signal that it gets at that place; its exit code."""
    if with_signal is not None:
        process.send_signal(with_signal)
    process.send_signal(signal.SIGCONT)
    return process.wait(120)


def _stands(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
