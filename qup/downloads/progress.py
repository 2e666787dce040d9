"""How far a download is, in words and in numbers."""

from __future__ import annotations

import time
from typing import Protocol

from qup.model.units import format_duration, format_size

EVERY = 0.25
"""Seconds between two reports."""
WINDOW = 5.0
"""Seconds over which the speed is measured."""


class Report(Protocol):
    """Takes a line about how far something is; bytes and speed where they are known."""

    def __call__(
        self, text: str, *, done: int | None = None, total: int | None = None,
        speed: float | None = None, left: float | None = None,
    ) -> None:  # fmt: skip
        """Say it.

        Args:
            text: a line for people.
            done: bytes that are here.
            total: bytes that there will be.
            speed: bytes a second.
            left: seconds that remain at that speed.
        """


class Meter:
    """Measures a transfer and reports now and then."""

    def __init__(self, report: Report, total: int | None) -> None:
        self._report = report
        self._total = total
        self._marks: list[tuple[float, int]] = []
        self._due = 0.0

    def count(self, done: int) -> None:
        """Note that so many bytes are here."""
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW:
            del self._marks[0]
        if now >= self._due:
            self._due = now + EVERY
            self.say()

    def say(self) -> None:
        """Report how far it is."""
        if not self._marks:
            return
        (began, first), (now, done) = self._marks[0], self._marks[-1]
        speed = (done - first) / (now - began) if now > began else None
        left = (self._total - done) / speed if self._total is not None and speed else None
        self._report(
            describe(done, self._total, speed, left),
            done=done,
            total=self._total,
            speed=round(speed) if speed is not None else None,
            left=round(left, 1) if left is not None else None,
        )


def describe(done: int, total: int | None, speed: float | None, left: float | None) -> str:
    """``12.3M of 56M, 4.1M/s, 11 s left``."""
    text = format_size(done) + (f" of {format_size(total)}" if total is not None else "")
    if speed:
        text += f", {format_size(max(1, round(speed)))}/s"
    if left is not None and left >= 1:
        text += f", {format_duration(round(left)) if left >= 60 else f'{left:.0f} s'} left"
    return text
