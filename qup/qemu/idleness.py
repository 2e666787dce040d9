"""Whether a guest has anything to do, as its QEMU shows."""

from __future__ import annotations

import time
from pathlib import Path

WINDOW = 0.25
"""Seconds that are looked at."""
BUSY = 0.1
"""The part of them that an idle guest's QEMU runs or waits for a processor, at the most."""


def await_idleness(pid: int, *, limit: float) -> bool:
    """Wait until a guest has nothing to do for a moment; whether it came to that.

    Args:
        pid: of its QEMU.
        limit: seconds that it may take.
    """
    deadline = time.monotonic() + limit
    began, before = time.monotonic(), _read_demand(pid)
    while before is not None:
        time.sleep(WINDOW)
        now, after = time.monotonic(), _read_demand(pid)
        if after is None or after - before < BUSY * (now - began):
            return after is not None
        if now >= deadline:
            return False
        began, before = now, after
    return False


def _read_demand(pid: int) -> float | None:
    """Seconds that a process's threads have run or have waited for a processor (``schedstat``,
    Documentation/scheduler/sched-stats.rst of Linux); None if nobody says.
    """
    total = 0
    try:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            ran, waited, *_ = path.read_text().split()
            total += int(ran) + int(waited)
    except (OSError, ValueError):
        return None
    return total / 1e9 if total else None
