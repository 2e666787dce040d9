"""Showing what happens: live on a terminal, as lines elsewhere, as JSON lines for programs.

Progress goes to standard error, results to standard output; with ``--json`` all of it is
JSON lines on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from qup.model import events
from qup.model.text import printable
from qup.model.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.text import Text

JSON_SCHEMA = 1
"""Version of everything that ``--json`` prints; see ``docs/reference/json.md``."""

KEPT = 200
"""Events that are kept while a console has the terminal; the log has all of them."""

LIVE_TAIL = 6
"""Lines of a slow guest's console that are shown below its phase."""

_PROGRESS_LINES = 5.0
"""Seconds between two lines of plain output about the same download."""


class Interface:
    """A listener that is also a context manager; the default says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __call__(self, event: events.Event) -> None:
        """Show an event."""

    def pause(self) -> None:
        """Take what moves off the terminal, until the next event."""


class HeldBack(Interface):
    """Passes events on, but keeps them while the output belongs to a guest's console.

    They are kept where they would end up among the console's bytes: on a terminal, or where
    standard error is the same file as standard output. The console's tail is never shown, as
    the console itself is.
    """

    def __init__(self, inner: Interface) -> None:
        self._inner = inner
        self._guard = threading.RLock()
        self._kept: deque[events.Event] = deque(maxlen=KEPT)
        self._attached = self._holding = False

    def pause(self) -> None:
        self._inner.pause()

    def hold(self) -> None:
        """A console is shown from now on."""
        with self._guard:
            self._attached = True
            self._holding = _is_shared_with_output(sys.stderr)

    def release(self) -> None:
        """No console is shown any more: show what was kept."""
        with self._guard:
            self._attached = self._holding = False
            while self._kept:
                self._inner(self._kept.popleft())

    def __call__(self, event: events.Event) -> None:
        with self._guard:
            if self._attached and isinstance(event, events.Console | events.Progress):
                return
            if self._holding:
                self._kept.append(event)
            else:
                self._inner(event)


def _is_shared_with_output(stream: TextIO) -> bool:
    if stream.isatty() and (sys.stdin.isatty() or sys.stdout.isatty()):
        return True
    try:
        one, other = os.fstat(stream.fileno()), os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


class JsonLines(Interface):
    """Every event as a line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: events.Event) -> None:
        line = {"schema": JSON_SCHEMA, **event.to_dict()}
        print(json.dumps(line), file=self._stream, flush=True)


class Plain(Interface):
    """A line for each thing worth knowing, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console_seen: tuple[str, ...] = ()
        self._progress_due = 0.0

    def _write(self, machine: str, text: str) -> None:
        prefix = f"{machine}: " if machine else ""
        print(f"{prefix}{printable(text)}", file=self._stream, flush=True)

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.PhaseStarted(phase="boot" | "box" | "provision"):
                self._write(event.machine, f"{event.title} ...")
            case events.PhaseEnded():
                self._write(event.machine, _describe_phase(event))
            case events.Progress():
                if event.done is None or self._is_due():
                    self._write(event.machine, f"  {event.text}")
            case events.Message():
                label = "warning: " if event.level == "warning" else ""
                self._write(event.machine, f"{label}{event.text}")
                if event.hint:
                    self._write(event.machine, f"  hint: {event.hint}")
            case events.Console():
                fresh = [line for line in event.lines if line not in self._console_seen]
                self._console_seen = event.lines
                for line in fresh:
                    self._write(event.machine, f"  | {line}")
            case events.Output():
                self._write(event.machine, f"  {event.text}")

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = now >= self._progress_due
        if due:
            self._progress_due = now + _PROGRESS_LINES
        return due


@dataclass
class _Line:
    """A phase that is under way, for the live display."""

    title: str
    began: float = field(default_factory=time.monotonic)
    note: str = ""
    tail: tuple[str, ...] = ()

    def draw(self, tail: int) -> Text:
        from rich.text import Text

        seconds = time.monotonic() - self.began
        line = Text(f"{self.title}  {seconds:.1f} s", no_wrap=True, overflow="ellipsis")
        if self.note:
            line.append(f"  {self.note}", style="dim")
        for text in self.tail[len(self.tail) - tail :]:
            line.append(f"\n    {text}", style="dim")
        return line


class Live(Interface):
    """A live line for each machine with its phase and time; finished phases stay above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._lines: dict[str, _Line] = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.PhaseStarted():
                name = f"{event.machine}: " if event.machine else ""
                self._lines[event.machine] = _Line(f"{name}{event.title}")
                self._start()
            case events.PhaseEnded():
                self._lines.pop(event.machine, None)
                if not self._lines:
                    self._stop()
                mark = "[green]✓[/]" if event.ok else "[red]✗[/]"
                self._print(f"{mark} ", event.machine, _describe_phase(event))
            case events.Progress():
                if line := self._lines.get(event.machine):
                    line.note = event.text
            case events.Console():
                if line := self._lines.get(event.machine):
                    line.tail = event.lines[-LIVE_TAIL:]
            case events.Message():
                mark = "[yellow]![/] " if event.level == "warning" else "  "
                self._print(mark, event.machine, event.text)
                if event.hint:
                    self._print("  ", "", f"hint: {event.hint}", style="dim")
            case events.Output():
                self._print("  ", event.machine, event.text)

    def pause(self) -> None:
        self._stop()

    def _print(self, mark: str, machine: str, text: str, style: str | None = None) -> None:
        from rich.text import Text

        line = Text.from_markup(mark)
        if machine:
            line.append(f"{machine}: ", style="bold")
        line.append(printable(text), style=style)
        self._console.print(line, highlight=False)

    def _start(self) -> None:
        if self._status is None:
            self._status = self._console.status(self, spinner="dots")
            self._status.start()

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __rich__(self) -> Any:
        """The live lines, drawn anew several times a second.

        A single machine shows the tail of its console; of several, as many as fit are shown.
        """
        from rich.text import Text

        lines = list(self._lines.values())
        room = max(1, self._console.height - 2)
        shown = [line.draw(LIVE_TAIL if len(lines) == 1 else 0) for line in lines[:room]]
        if rest := len(lines) - len(shown):
            shown.append(Text(f"and {rest} more", style="dim"))
        return Text("\n").join(shown)


def _describe_phase(event: events.PhaseEnded) -> str:
    result = f" ({event.result})" if event.result else ""
    failed = "" if event.ok or event.result else " failed"
    return f"{event.title}{failed}: {format_duration(event.seconds)}{result}"


def open_interface(*, as_json: bool, quiet: bool = False) -> Interface:
    """The interface that fits where the output goes."""
    if as_json:
        return JsonLines(sys.stdout)
    if quiet:
        return Interface()
    if not sys.stderr.isatty():
        return Plain(sys.stderr)
    from rich.console import Console  # 40 ms, and only for a terminal

    console = Console(stderr=True)
    return Plain(sys.stderr) if console.is_dumb_terminal else Live(console)
