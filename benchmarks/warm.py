"""Machines that come up without a boot, by the same restore done by hand and by a boot."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.cases import ONE, start_bare
from benchmarks.measure import Sample, Series, attempt
from benchmarks.outcome import Aim, Outcome, Phases, Row
from benchmarks.restore import BareTemplate
from benchmarks.workshop import Workshop

FLOOR = Aim(1.5, plus=0.3)


@dataclass(frozen=True)
class Guest:
    """What is measured.

    Attributes:
        name: of the box.
        qupfile: a project of one machine.
        gain: how many times faster than a boot a restore should be.
    """

    name: str
    qupfile: str
    gain: float


TINY = Guest("tiny", ONE, 10.0)
DEBIAN = Guest(
    "debian", '[machine]\nbox = "debian/12"\nmemory = "512M"\nboot-timeout = 600\n', 30.0
)


def measure_warm(workshop: Workshop, rounds: int, *, guest: Guest) -> Outcome:
    """Every way to a machine that is up, within each round."""
    base = workshop.project(f"bare-{guest.name}", guest.qupfile)
    workshop.call(base, "up")  # makes the template
    workshop.call(base, "destroy", "-y")
    workshop.call(base, "up", "--cold")
    bare = BareTemplate(workshop, base)
    life = _Life(workshop, workshop.project(f"warm-{guest.name}", guest.qupfile))
    banner, login = Series("bare restore until the banner"), Series("bare restore until ssh true")
    for number in range(rounds):
        if number % 2:
            life.live()
        start_bare(bare, banner, login)
        if not number % 2:
            life.live()
    steps = life.steps
    cold, up = steps.pop("cold"), steps.pop("up")
    rows = [
        Row(up, login, FLOOR),
        Row(up, banner),
        Row(cold, up, Aim(guest.gain, at_least=True)),
        *(Row(step, against) for step in steps.values() for against in (login, cold)),
        Row(login),
        Row(banner),
    ]
    notes = [life.phases.tell("qup up from a template")]
    if life.missing:
        notes.append(f"This qup has no {', no '.join(life.missing)}: not measured.")
    return Outcome(f"Without a boot: box {guest.name}", rows, notes)


class _Life:
    """A machine that comes up by all the ways there are."""

    def __init__(self, workshop: Workshop, project: Path) -> None:
        self._workshop = workshop
        self._project = project
        self.phases = Phases()
        wanted = {
            "reset": "qup reset",
            "suspend": "qup suspend, and qup up again",
            "snapshot": "qup snapshot restore",
            "run": "qup run -- true",
        }
        self.missing = [word for word in wanted if not has_command(workshop, project, word)]
        self.steps = {
            "cold": Series("qup up --cold, a new machine"),
            "up": Series("qup up from a template"),
            **{word: Series(name) for word, name in wanted.items() if word not in self.missing},
        }

    def live(self) -> None:
        call = partial(self._workshop.call, self._project)
        actions = {
            "reset": lambda: call("reset"),
            "suspend": self._suspend,
            "snapshot": self._restore_snapshot,
        }
        try:
            if attempt(self.steps["up"], self._up):
                for word, action in actions.items():
                    if word in self.steps:
                        attempt(self.steps[word], action)
        finally:
            call("destroy", "-y")
        if "run" in self.steps:
            attempt(self.steps["run"], lambda: call("run", "--", "true"))
        try:
            attempt(self.steps["cold"], lambda: call("up", "--cold"))
        finally:
            call("destroy", "-y")

    def _up(self) -> Sample:
        sample = self._workshop.call(self._project, "up")
        seen = self._workshop.ask(self._project, "inspect")
        self.phases.note(seen, sample)
        return sample

    def _suspend(self) -> Sample:
        down = self._workshop.call(self._project, "suspend")
        up = self._workshop.call(self._project, "up")
        return Sample(down.seconds + up.seconds, max(down.peak, up.peak))

    def _restore_snapshot(self) -> Sample:
        self._workshop.call(self._project, "snapshot", "save", "bench")
        return self._workshop.call(self._project, "snapshot", "restore", "bench")


def has_command(workshop: Workshop, project: Path, command: str) -> bool:
    """Whether this qup knows a command."""
    done = subprocess.run(
        [workshop.qup, command, "--help"],
        cwd=project,
        env=workshop.env,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
