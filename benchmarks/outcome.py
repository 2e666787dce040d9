"""What was found: rows of time and their ratios, single facts, and words."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Sample, Series, ratio

LEAST_SHOWN = 0.005
"""Seconds below which a phase isn't worth a word."""


@dataclass(frozen=True)
class Aim:
    """What a ratio should be.

    Attributes:
        limit: at most this.
        strictly: it must stay below.
        plus: seconds that may come on top.
        at_least: it should not be less than the limit instead.
    """

    limit: float
    strictly: bool = False
    plus: float = 0.0
    at_least: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "<" if self.strictly else "≤"
        return f"{sign} {self.limit:.2f}" + (f" + {self.plus:g} s" if self.plus else "")

    def is_met(self, ratio: float) -> bool:
        if self.at_least:
            return ratio >= self.limit
        return ratio < self.limit if self.strictly else ratio <= self.limit


@dataclass(frozen=True)
class Row:
    """A line of the results: a series, alone or by another one of the same rounds."""

    series: Series
    against: Series | None = None
    aim: Aim | None = None

    @property
    def ratio(self) -> float | None:
        return ratio(self.series, self.against) if self.against else None

    @property
    def met(self) -> bool | None:
        """Whether it is as it should be; None if nothing is asked or known."""
        if self.aim is None or self.against is None:
            return None
        found = ratio(self.series, self.against, less=self.aim.plus)
        return None if found is None else self.aim.is_met(found)


@dataclass(frozen=True)
class Fact:
    """A figure that isn't a time."""

    name: str
    value: str
    aim: str = ""
    met: bool | None = None


@dataclass
class Outcome:
    """What a group of measurements found."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)


class Phases:
    """Where the time of several starts of the same kind went."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def note(self, seen: Mapping[str, Any], sample: Sample) -> None:
        """Add the newest start of a machine.

        Args:
            seen: what ``qup inspect`` says about it.
            sample: what the whole process took.
        """
        kept = json.loads((Path(seen["folder"]) / "timings.json").read_bytes())
        phases = {name: float(seconds) for name, seconds in kept["phases"].items()}
        phases["outside"] = sample.seconds - sum(phases.values())
        for name, seconds in phases.items():
            self._seconds.setdefault(name, []).append(seconds)

    def tell(self, what: str) -> str:
        """A sentence with the medians."""
        medians = {name: statistics.median(each) for name, each in self._seconds.items()}
        parts = [
            f"{name} {seconds * 1000:.0f} ms"
            for name, seconds in medians.items()
            if seconds >= LEAST_SHOWN
        ]
        return f"Where the time of {what} goes (medians): {', '.join(parts)}."
