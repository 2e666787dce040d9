"""``qup cp``. No Qupfile, no plan, no plugins on the way."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from qup.cli.common import AsJson, Globals, Quiet, complete_machines
from qup.cli.main import globals_of
from qup.errors import MachineError, UsageError
from qup.guest import ssh as guest_ssh
from qup.guest.copying.ends import Source, Target
from qup.guest.copying.far import GuestSource, GuestTarget
from qup.guest.copying.guest import Guest
from qup.guest.copying.near import LocalSource, LocalTarget, StandardInput, StandardOutput
from qup.model.events import Event, Finished, Message, Progress
from qup.paths import Project, RuntimeFolder, SshFolder
from qup.runner.observe import require_alive
from qup.runner.roster import Roster, read_roster

if TYPE_CHECKING:
    from qup.downloads import Report
    from qup.runner.context import Context

STREAM = "-"
WILDCARDS = frozenset("*?[")


def cp(
    ctx: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... TARGET",
            help="Paths here, or MACHINE:PATH in a machine; :PATH is in the only or primary one,"
            " and - is standard input or output.",
            autocompletion=complete_machines,
            show_default=False,
        ),
    ],
    follow: Annotated[
        bool,
        typer.Option("--follow", "-L", help="In folders, copy what links lead to, not the links."),
    ] = False,
    sudo: Annotated[
        bool, typer.Option("--sudo", help="Read and write as root in the guest.")
    ] = False,
    owner: Annotated[
        str,
        typer.Option(
            metavar="USER[:GROUP]",
            help="Owner of the copies in the guest; needs --sudo.",
            show_default=False,
        ),
    ] = "",
    recursive: Annotated[  # noqa: ARG001  folders are always copied whole
        bool, typer.Option("--recursive", "-r", hidden=True)
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy files and folders to, from and between machines.

    If the target is a folder, the source is copied into it; otherwise the target is the name of
    the copy. Folders are copied with everything in them, including permissions, times and links;
    `SOURCE/.` means only what is in them. Nothing appears under its final name before it is
    complete. If copying a large file is interrupted, the same command continues it.

    Examples: `qup cp app.tar web:`, `qup cp web:/var/log/syslog .`, `qup cp src web:/srv --sudo`,
    `qup cp a:data b:data`, `qup cp web:/etc - | tar t`
    """
    if len(paths) < 2:
        raise UsageError("a source and a target are needed", hint="qup cp notes.txt web:notes.txt")
    options = globals_of(ctx)
    places = _Places(options, sudo=sudo, owner=owner, follow=follow)
    sources = [source for path in paths[:-1] for source in places.sources(path)]
    target = places.target(paths[-1])
    if not places.guests:
        raise UsageError(
            "neither source nor target is in a machine",
            hint=f"MACHINE:PATH is; the machines are: {', '.join(places.roster.names)}",
        )
    if owner and not (sudo and isinstance(target, GuestTarget)):
        raise UsageError("--owner says whose files in a guest are to be, and needs --sudo")
    _copy(options, places.machine, sources, target, as_json=as_json, quiet=quiet)


def _copy(
    options: Globals,
    machine: str,
    sources: list[Source],
    target: Target,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from qup.model.units import format_size
    from qup.runner.context import Context
    from qup.runner.copy import copy
    from qup.ui import open_interface

    began = time.monotonic()
    if as_json and isinstance(target, StandardOutput):
        raise UsageError("--json and the target '-' both want standard output")
    silent = quiet or not (as_json or sys.stderr.isatty())
    with open_interface(as_json=as_json, quiet=quiet) as show:

        def listen(event: Event) -> None:
            if not silent or isinstance(event, Message):
                show(event)

        context = Context(options.project(), lock_timeout=options.lock_timeout)
        context.listener = listen
        title = f"copying to {printable_name(target.title)}"
        with context.phase(machine, "copy", title) as phase:
            copied = copy(sources, target, lambda title: _report_to(context, machine, title))
            phase.result = format_size(copied.size)
        _tell_left_out(context, machine, copied.notes.left_out)
        seconds = time.monotonic() - began
        if as_json:
            context.emit(Finished(machine, "cp", True, seconds, {"bytes": copied.size}))


def _report_to(context: Context, machine: str, title: str) -> Report:
    """What takes the progress of a source."""
    name = printable_name(title)

    def say(
        text: str, *, done: int | None = None, total: int | None = None,
        speed: float | None = None, left: float | None = None,
    ) -> None:  # fmt: skip
        context.emit(Progress(machine, f"{name}: {text}", done, total, speed, left))

    return say


def _tell_left_out(context: Context, machine: str, left_out: list[str]) -> None:
    texts = left_out[:SHOWN]
    if len(left_out) > SHOWN:
        texts.append(f"{len(left_out) - SHOWN} more")
    for text in texts:
        context.tell(machine, f"left out: {printable_name(text)}", level="warning")


def printable_name(path: str) -> str:
    """A path for messages: bytes that are no text become marks."""
    return os.fsencode(path).decode(errors="replace")


SHOWN = 20
"""Lines about what was left out."""


class _Places:
    """What the words of the command line mean."""

    def __init__(self, options: Globals, *, sudo: bool, owner: str, follow: bool) -> None:
        self._project: Project = options.project()
        self.roster: Roster = read_roster(self._project)
        self._sudo, self._owner, self._follow = sudo, owner, follow
        self.guests: dict[str, Guest] = {}

    @property
    def machine(self) -> str:
        """The machine that is spoken of: the target's, or else the first source's."""
        return list(self.guests)[-1]

    def sources(self, text: str) -> list[Source]:
        """What is copied. Here the user's shell has seen to wildcards; in a guest we do."""
        if text == STREAM:
            return [StandardInput()]
        name, path = self._split(text)
        if name is None:
            return [LocalSource(path, self._follow)]
        guest = self._guest(name)
        found = guest.expand(path) if WILDCARDS.intersection(path) else [path]
        return [GuestSource(guest, path, self._follow) for path in found]

    def target(self, text: str) -> Target:
        """Where it goes."""
        if text == STREAM:
            return StandardOutput()
        name, path = self._split(text)
        if name is None:
            return LocalTarget(path)
        return GuestTarget(self._guest(name), path, self._owner)

    def _split(self, text: str) -> tuple[str | None, str]:
        """Machine and path; no machine for what is here. As with scp, a colon behind a slash is
        part of a path.
        """
        name, colon, path = text.partition(":")
        if not colon or "/" in name:
            return None, text
        if "@" in name:
            raise UsageError(
                f"{text}: a machine is entered as its own user",
                hint="--sudo reads and writes as root, and --owner says whose it is to be",
            )
        if name and name not in self.roster.names:
            error = self.roster.unknown(name)
            error.hint = f"{error.hint}; for a file of this name here: ./{text}"
            raise error
        return self.roster.choose_one(name or None), path

    def _guest(self, name: str) -> Guest:
        if name in self.guests:
            return self.guests[name]
        folder = self._project.machine(name)
        state = require_alive(folder)
        assert state.launch is not None
        keys = SshFolder(folder.ssh)
        if not keys.config.exists():
            raise MachineError(
                f"machine {name} is still starting", hint="'qup status' shows how far it is"
            )
        if not guest_ssh.master_is_open(RuntimeFolder.of(state.launch.runtime)):
            guest_ssh.spawn_master(keys, name)
        self.guests[name] = Guest(name, keys, self._sudo)
        return self.guests[name]
