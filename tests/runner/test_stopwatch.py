"""Phases of a start: they add up, and what is kept of them can be read again."""

from __future__ import annotations

import time
from pathlib import Path

from qup.paths import MachineFolder
from qup.runner.stopwatch import (
    PHASES,
    Stopwatch,
    Timings,
    process_age,
    read_timings,
    write_timings,
)


def test_phases_add_up_in_their_order() -> None:
    began = time.monotonic()
    watch = Stopwatch({"process": 1.0})
    watch.lap("box")
    with watch.around("template"):
        watch.lap("boot")  # another machine's
        watch.lap("login")
    watch.lap("launch")
    watch.lap("box")
    took = time.monotonic() - began
    assert list(watch.phases) == ["process", "box", "template", "launch"]
    assert 0 <= sum(watch.phases.values()) - 1.0 <= took + 0.002
    assert set(watch.phases) <= set(PHASES)


def test_the_process_has_an_age() -> None:
    first = process_age()
    assert 0 <= first <= process_age() < 24 * 3600


def test_what_is_kept(tmp_path: Path) -> None:
    folder = MachineFolder(tmp_path)
    assert read_timings(folder) is None
    timings = Timings("2026-11-24T08:00:00+00:00", "0123456789ab", {"launch": 0.25, "boot": 0.5})
    write_timings(folder, timings)
    assert read_timings(folder) == timings
    assert timings.total == 0.75
    for text in ("", "[]", '{"phases": 1}', '{"phases": {"boot": "x"}}', "[" * 9999):
        folder.timings.write_text(text)
        assert read_timings(folder) is None
