"""What every verb needs: the project, the plugins, facts about the host, a listener."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from qup.model.events import Event, Listener, Message, PhaseEnded, PhaseStarted
from qup.ownership import refuse_foreign_cache
from qup.paths import MachineFolder, Project, boxes_root, templates_root
from qup.runner.stopwatch import Stopwatch
from qup.store import lock_machine

if TYPE_CHECKING:
    from qup.boxes.cache import BoxCache
    from qup.host import LocalHost
    from qup.plugins import Plugins
    from qup.templates.cache import TemplateCache

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another qup that works on the same machine."""


@dataclass
class Phase:
    """A phase of a verb that is under way; ``result`` may be set to a few words about it."""

    result: str = ""


@dataclass
class Context:
    """The surroundings of a verb.

    Attributes:
        project: where the Qupfile is.
        listener: told everything that happens.
        lock_timeout: seconds to wait for a machine's lock.
        relay: takes events to the process that deals with them, where that isn't this one.
        prelude: seconds by phase of what was done before any machine had its turn.
        watch: counts the time of the start that is under way.
    """

    project: Project
    listener: Listener = field(default=lambda _: None)
    lock_timeout: float = LOCK_TIMEOUT
    relay: Listener | None = None
    prelude: dict[str, float] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)

    @cached_property
    def plugins(self) -> Plugins:
        from qup.plugins import Plugins  # 80 ms that looking at machines doesn't need

        return Plugins()

    @cached_property
    def host(self) -> LocalHost:
        from qup.host import LocalHost

        return LocalHost()

    @cached_property
    def boxes(self) -> BoxCache:
        from qup.boxes.cache import BoxCache

        return BoxCache(refuse_foreign_cache(boxes_root()))

    @cached_property
    def templates(self) -> TemplateCache:
        from qup.templates.cache import TemplateCache

        return TemplateCache(refuse_foreign_cache(templates_root()))

    def emit(self, event: Event) -> None:
        """Tell the listener, and the plugins if they are loaded."""
        if self.relay is not None:
            self.relay(event)
            return
        self.listener(event)
        match event:
            case PhaseEnded():
                how = "ended" if event.ok else "failed"
                self.note(event.machine, f"{event.phase} {how} after {event.seconds:.2f} s"
                          f" {event.result}")  # fmt: skip
            case Message():
                self.note(event.machine, event.text)
        if "plugins" in self.__dict__:
            for failure in self.plugins.notify(event):
                self.note(event.machine, str(failure))

    def note(self, machine: str, text: str) -> None:
        """Add a line to the machine's ``qup.log``; a log that can't be written stops nothing."""
        folder = self.project.machine(machine)
        if machine and folder.logs.is_dir():
            stamp = time.strftime("%Y-%m-%d %H:%M:%S%z")
            with contextlib.suppress(OSError), folder.log("qup").open("a") as file:
                file.write(f"{stamp} [{os.getpid()}] {text}\n")

    def tell(
        self,
        machine: str,
        text: str,
        *,
        level: Literal["info", "warning"] = "info",
        hint: str | None = None,
    ) -> None:
        """Tell the user something."""
        self.emit(Message(machine, level, text, hint))

    @contextlib.contextmanager
    def phase(self, machine: str, name: str, title: str) -> Iterator[Phase]:
        """Time a part of a verb and say when it begins and how it ended."""
        self.emit(PhaseStarted(machine, name, title))
        began = time.monotonic()
        phase = Phase()
        try:
            yield phase
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                phase.result = "interrupted"
            seconds = time.monotonic() - began
            self.emit(PhaseEnded(machine, name, title, seconds, False, phase.result))
            raise
        seconds = time.monotonic() - began
        self.emit(PhaseEnded(machine, name, title, seconds, True, phase.result))

    def lock(self, folder: MachineFolder) -> contextlib.AbstractContextManager[None]:
        """Hold a machine's lock; the user is told who is being waited for."""
        return lock_machine(
            folder,
            timeout=self.lock_timeout,
            on_wait=lambda text: self.tell(folder.name, text),
        )
