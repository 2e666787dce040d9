"""Copies of folders in guests: made when a machine comes up, brought up to date by ``qup sync``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

from qup.errors import ConfigError
from qup.folder_types import CopyingType
from qup.guest.folders.copy import Copy, Outcome
from qup.guest.folders.link import Link
from qup.guest.folders.ways import Way
from qup.model.events import Progress
from qup.model.folders import FolderPlan
from qup.model.state import State
from qup.model.units import format_size
from qup.paths import STATE_FOLDER, MachineFolder, RuntimeFolder, SshFolder
from qup.runner.context import Context
from qup.trees import Tree

PROGRESS_EVERY = 0.25
"""Seconds between two words about how far it is."""

RELATIVE = "'host' of [[machine.folders]] is relative to the Qupfile"

Cover = Callable[[Tree], bool]
"""Watches the folders of a tree; whether any is new to it."""


def locate_source(ctx: Context, folder: FolderPlan) -> Path:
    """Where a folder is on this computer, if it is there; links are followed."""
    return (ctx.project.root / Path(folder.host).expanduser()).resolve()


def explain_absence(path: Path) -> str | None:
    """Why something can't be a guest's folder; None if it can."""
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is no folder"
    if STATE_FOLDER in path.parts:
        return f"is in {STATE_FOLDER}, which has the machines' keys and disks"
    return None


def find_source(ctx: Context, machine: str, folder: FolderPlan) -> Path:
    """The folder of this computer.

    Raises:
        ConfigError: there is none, or it is qup's own.
    """
    path = locate_source(ctx, folder)
    reason = explain_absence(path)
    if reason is None:
        return path
    raise ConfigError(
        f"machine {machine}: the folder {path} {reason}", hint=RELATIVE, machine=machine
    )


def link_to(folder: MachineFolder, runtime: RuntimeFolder) -> Link:
    """A guest that runs, by paths that need no quoting."""
    return Link(SshFolder(runtime.ssh), folder.name)


def runtime_of(state: State) -> RuntimeFolder:
    assert state.launch is not None
    return RuntimeFolder.of(state.launch.runtime)


def find_ways(ctx: Context, program: str) -> list[Way]:
    """The ways to copy, the best first, and what is against each on this computer."""
    found = []
    for kind in sorted(ctx.plugins.folder_types.values(), key=lambda item: -item.priority):
        if hasattr(kind, "send"):
            reasons = (problem.message for problem in kind.problems(ctx.host, program))
            found.append(Way(cast(CopyingType, kind), next(reasons, None)))
    return found


class Copying:
    """A machine's folders that are copied.

    Several rounds can be made: the guest is asked what it has only once.
    """

    def __init__(
        self, ctx: Context, link: Link, folders: Sequence[FolderPlan], program: str
    ) -> None:
        """Take a machine's folders; nothing is done yet. ``program`` is its QEMU."""
        self._ctx = ctx
        self._link = link
        self._folders = folders
        self._ways = find_ways(ctx, program)
        self._copies: dict[str, Copy] = {}
        self._said: dict[tuple[str, str], str] = {}

    def run(self, cover: Cover | None = None) -> bool:
        """Bring all copies up to date; whether there was anything to do.

        Args:
            cover: watches the folders of a tree; whether any is new, so that what came into it
                before has to be looked for.

        Raises:
            ConfigError: a folder isn't there.
            GuestError: a folder can't be written in the guest.
            HostError: a folder can't be read.
        """
        done = [self._copy(folder, cover) for folder in self._folders]
        return any(done)

    def _copy(self, folder: FolderPlan, cover: Cover | None) -> bool:
        name = self._link.machine
        root = find_source(self._ctx, name, folder)
        copy = self._copies.get(folder.id)
        if copy is not None and not copy.differs(_scan(copy, cover)):
            return False  # a later round: nobody wants to read that nothing was to do
        progress = _Progress(self._ctx, name)
        with self._ctx.phase(name, "sync", f"copying {folder.host} to {folder.guest}") as phase:
            first = copy is None
            if copy is None:
                copy = self._copies[folder.id] = Copy(self._link, root, folder, self._ways)
            outcome = copy.update(_scan(copy, cover, progress.tell_scan), progress.tell_sent)
            phase.result = describe(outcome)
            reasons = [folder.reason, outcome.reason] if first and outcome.is_new else []
            if why := "; ".join(filter(None, reasons)):
                phase.result += f"; {why}"
        self._warn(folder, outcome)
        return outcome.changed

    def _warn(self, folder: FolderPlan, outcome: Outcome) -> None:
        """Say what was not copied, once as long as it is the same."""
        kept = outcome.kept
        files = "a file is" if kept == 1 else f"{kept} files are"
        stay = f"{files} gone here but changed in the guest, and stay there"
        texts = {
            "failed": f"can't be read: {outcome.failed}" if outcome.failed.count else "",
            "special": f"not copied: {outcome.special}" if outcome.special.count else "",
            "kept": stay if kept else "",
        }
        for kind, text in texts.items():
            if text and self._said.get((folder.id, kind)) != text:
                level: Literal["warning", "info"] = "warning" if kind == "failed" else "info"
                self._ctx.tell(self._link.machine, f"{folder.host}: {text}", level=level)
            self._said[folder.id, kind] = text


def _scan(copy: Copy, cover: Cover | None, report: Callable[[int], None] = lambda _: None) -> Tree:
    tree = copy.scan(report)
    while cover is not None and cover(tree):
        tree = copy.scan(report)
    return tree


def describe(outcome: Outcome) -> str:
    """What a copying did, in a few words."""
    words = []
    if outcome.sent:
        size = f", {format_size(outcome.size)}" if outcome.size else ""
        words.append(f"{outcome.sent:,} sent by {outcome.way}{size}")
    if outcome.removed:
        words.append(f"{outcome.removed:,} removed")
    return "; ".join(words) or "as it was"


class _Progress:
    """Tells how far a copying is, not too often."""

    def __init__(self, ctx: Context, machine: str) -> None:
        self._ctx, self._machine = ctx, machine
        self._due = time.monotonic() + PROGRESS_EVERY

    def tell_scan(self, count: int) -> None:
        self._tell(f"{count:,} files found", count, None)

    def tell_sent(self, count: int, total: int, size: int) -> None:
        if time.monotonic() >= self._due:
            self._tell(f"{count:,} of {total:,} files, {format_size(size)}", count, total)

    def _tell(self, text: str, done: int, total: int | None) -> None:
        self._due = time.monotonic() + PROGRESS_EVERY
        self._ctx.emit(Progress(self._machine, text, done, total))
