"""What is shown of a download in logs and pipes."""

from __future__ import annotations

import io

import pytest

from qup import ui
from qup.model.events import Progress


def test_a_download_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("qup.ui.time.monotonic", lambda: now)
    stream = io.StringIO()
    show = ui.Plain(stream)
    for done in range(0, 100, 10):
        show(Progress("web", f"{done} of 100", done=done, total=100))
        now += 1.0
    show(Progress("web", "unpacking"))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert lines == ["web:   0 of 100", "web:   50 of 100", "web:   unpacking"]
