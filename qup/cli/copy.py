"""``qup cp``. No Qupfile, no plan, no plugins on the way."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from qup.cli.common import AsJson, Globals, Quiet, complete_machines
from qup.cli.main import globals_of
from qup.errors import MachineError, UsageError
from qup.guest import ssh as guest_ssh
from qup.guest.copying.ends import Source, Target
from qup.guest.copying.far import Guest, GuestSource, GuestTarget
from qup.guest.copying.near import LocalSource, LocalTarget, StandardInput, StandardOutput
from qup.model.events import Event, Finished, Message, Progress
from qup.paths import Project, RuntimeFolder, SshFolder
from qup.runner.observe import require_alive
from qup.runner.roster import Roster, read_roster

STREAM = "-"


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
        bool, typer.Option("--follow", "-L", help="In folders, copy what links lead to.")
    ] = False,
    sudo: Annotated[
        bool, typer.Option("--sudo", help="Read and write as root in the guest.")
    ] = False,
    owner: Annotated[
        str,
        typer.Option(
            metavar="USER[:GROUP]",
            help="Whose the copies are to be in the guest; needs --sudo.",
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy files and folders to, from and between machines.

    A target that is a folder takes the source into it; otherwise it is what the copy is called.
    Folders are copied whole, with permissions, times and links; `SOURCE/.` is what is in it.
    Nothing is under its final name before all of it is there; a large file that was cut off is
    gone on with by the same command.

    Examples: `qup cp app.tar web:`, `qup cp web:/var/log/syslog .`, `qup cp src web:/srv --sudo`,
    `qup cp a:data b:data`, `qup cp web:/etc - | tar t`
    """
    if len(paths) < 2:
        raise UsageError("a source and a target are needed", hint="qup cp notes.txt web:notes.txt")
    options = globals_of(ctx)
    places = _Places(options, sudo=sudo, owner=owner, follow=follow)
    sources = [places.source(path) for path in paths[:-1]]
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
    from qup.runner.context import Context
    from qup.runner.copy import copy, printable_name
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

            def report(source: str):  # type: ignore[no-untyped-def]
                name = printable_name(source)

                def say(text: str, **numbers: float | None) -> None:
                    phase.result = text
                    context.emit(Progress(machine, f"{name}: {text}", **numbers))  # type: ignore[arg-type]

                return say

            copied = copy(sources, target, report)
        for text in copied.notes.left_out[:SHOWN]:
            context.tell(machine, f"left out: {printable_name(text)}", level="warning")
        if (more := len(copied.notes.left_out) - SHOWN) > 0:
            context.tell(machine, f"left out: {more} more", level="warning")
        seconds = time.monotonic() - began
        if as_json:
            context.emit(Finished(machine, "cp", True, seconds, {"bytes": copied.size}))


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

    def source(self, text: str) -> Source:
        """What is copied."""
        if text == STREAM:
            return StandardInput()
        name, path = self._split(text)
        if name is None:
            return LocalSource(path, self._follow)
        return GuestSource(self._guest(name), path, self._follow)

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
