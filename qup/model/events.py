"""What the runner tells whoever watches: the terminal, ``--json``, plugins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Event:
    """Something that happened to a machine (or to none, with an empty name)."""

    kind: ClassVar[str] = "event"
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """The event as a line of ``--json``."""
        return {"event": self.kind, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A phase of a verb begins: ``box``, ``disk``, ``launch``, ``boot``, ``stop`` ..."""

    kind: ClassVar[str] = "phase-started"
    phase: str
    title: str


@dataclass(frozen=True)
class PhaseEnded(Event):
    """It ended after so many seconds, well or not; ``result`` says in a few words how."""

    kind: ClassVar[str] = "phase-ended"
    phase: str
    title: str
    seconds: float
    ok: bool
    result: str = ""


@dataclass(frozen=True)
class Progress(Event):
    """How far a phase is: a line of text, and for downloads bytes, bytes a second, and the
    seconds that are left, where they are known.
    """

    kind: ClassVar[str] = "progress"
    text: str
    done: int | None = None
    total: int | None = None
    speed: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Console(Event):
    """The last lines of a slow guest's serial console."""

    kind: ClassVar[str] = "console"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Output(Event):
    """A line that a provisioner printed."""

    kind: ClassVar[str] = "output"
    source: str
    text: str


@dataclass(frozen=True)
class Message(Event):
    """Something the user should know."""

    kind: ClassVar[str] = "message"
    level: Literal["info", "warning"]
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Timings(Event):
    """What a start took: seconds of each phase, and in all; ``template`` is the id of the one
    that the machine was restored from.
    """

    kind: ClassVar[str] = "timings"
    template: str | None
    seconds: float
    phases: dict[str, float]


@dataclass(frozen=True)
class Finished(Event):
    """A verb is done with a machine; ``changed`` is False when it was so already."""

    kind: ClassVar[str] = "finished"
    verb: str
    changed: bool
    seconds: float
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


Listener = Callable[[Event], None]
