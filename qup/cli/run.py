"""``qup run``: a command in a machine that is made for it and thrown away."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qup.cli.common import Globals, Quiet, complete_machines
from qup.cli.main import globals_of
from qup.cli.settings import (
    Overrides,
    SettingsCommand,
    load_config,
    require_trust,
    with_settings,
)
from qup.errors import (
    ConfigError,
    GuestError,
    Interrupted,
    ProvisionError,
    QupError,
    UsageError,
)
from qup.model import events
from qup.paths import MachineFolder, Project, SshFolder, find_project
from qup.ui import Interface, Plain, open_interface

if TYPE_CHECKING:
    from qup.guest.sync import Folder
    from qup.model.config import Config, MachineConfig
    from qup.runner.context import Context

PATIENCE = 1.0
"""Seconds in which nobody wants to read about progress."""
TAIL = 4000
"""Characters of a failed step's log that are shown."""
SANDBOX = "sandbox"
"""What a machine is called that belongs to no project."""
SANDBOX_QUPFILE = f'[machines.{SANDBOX}]\nbox = "tiny"\n'
UNSEEN = {"qemu.display": "none", "qemu.nographic": False}
"""Settings of a machine that nobody looks at."""


class RunCommand(SettingsCommand):
    """A command whose words behind ``--`` are another program's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        cut = args.index("--") if "--" in args else len(args)
        ctx.meta[__name__] = list(args[cut + 1 :])
        return super().parse_args(ctx, list(args[:cut]))


class Late(Interface):
    """Shows what happens once it takes longer than a moment, and warnings always."""

    def __init__(self, inner: Interface, warnings: Interface) -> None:
        self._inner, self._warnings = inner, warnings
        self._guard = threading.RLock()
        self._kept: list[events.Event] | None = []
        self._done = False
        self._timer = threading.Timer(PATIENCE, self._release)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, event: events.Event) -> None:
        with self._guard:
            if isinstance(event, events.Message) and event.level == "warning":
                self._warnings(event)
            elif self._done:
                return
            elif self._kept is not None:
                self._kept.append(event)
            else:
                self._inner(event)

    def _release(self) -> None:
        with self._guard:
            kept, self._kept = self._kept or [], None
            for event in kept if not self._done else ():
                self._inner(event)

    def pause(self) -> None:
        """The terminal belongs to the command from now on."""
        self._timer.cancel()
        with self._guard:
            self._done = True
            self._inner.pause()


def _open_progress(*, quiet: bool) -> tuple[Interface, Late]:
    seen = sys.stderr.isatty() and not quiet
    inner = open_interface(as_json=False, quiet=not seen)
    return inner, Late(inner, Interface() if quiet else Plain(sys.stderr))


@with_settings
def run(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[MACHINE]",
            help="The machine of the Qupfile whose like is made.",
            autocompletion=complete_machines,
            show_default=False,
        ),
    ] = None,
    sync: Annotated[
        Path | None,
        typer.Option(
            "--sync",
            metavar="DIR",
            help="Copy DIR into the machine, run the command there, and copy back what it changed.",
        ),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--tty", "-t", help="Give the command a terminal in the guest.")
    ] = False,
    no_provision: Annotated[
        bool, typer.Option("--no-provision", help="Don't run provisioning steps.")
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Boot the machine, even if there is a template for it.")
    ] = False,
    quiet: Quiet = False,
    *,
    overrides: Overrides,
) -> None:
    """Run a command in a new machine, and throw the machine away.

    Input, output and exit code are those of the command. After `--`, a single word is passed to
    the guest's shell as it is; several words arrive exactly as you typed them. Without a command
    you get a shell.

    In a project, the machine is like the one in the Qupfile, but with its own identity and
    without forwards. Elsewhere it is one of box `tiny`, or of the one that `--box` names. Nothing
    is left of it afterwards, however the command ends.

    Examples: `qup run -- uname -a`, `qup run --sync . -- make test`,
    `qup run --box debian/12 --memory 2G -- sh -c 'apt-get update && apt-get install -y hello'`,
    `qup run web --no-provision`
    """
    from qup.runner.throwaway import open_scratch

    words: list[str] = ctx.meta[__name__]
    folder = _open_folder(sync)
    _heed_hangup()
    inner, show = _open_progress(quiet=quiet)
    with inner, open_scratch() as scratch:
        context, config = _prepare(globals_of(ctx), scratch, name, overrides, show)
        work = _Run(context, config, folder, show, provision=not no_provision, cold=cold)
        try:
            code = work.do(words, terminal=terminal)
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:
            show.pause()
    raise typer.Exit(code)


run.command_class = RunCommand  # type: ignore[attr-defined]


def _heed_hangup() -> None:
    """Clean up, too, when the terminal is closed; ``nohup`` has its way."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))


def _open_folder(path: Path | None) -> Folder | None:
    from qup.guest.sync import Folder

    if path is None:
        return None
    if not path.is_dir():
        raise UsageError(f"--sync {path}: there is no such folder")
    return Folder(path.absolute())


def _prepare(
    said: Globals, scratch: Path, name: str | None, overrides: Overrides, show: Late
) -> tuple[Context, MachineConfig]:
    """What machine to make, and the surroundings for that."""
    from qup.cli.up import roster_of
    from qup.runner.context import Context
    from qup.runner.throwaway import make_throwaway

    values = {**UNSEEN, **overrides.values}
    project = None if "box" in overrides.values else _find_project(said.directory, name)
    if project is None:
        if name is not None:
            raise UsageError(
                f"a machine ({name}) and --box don't go together",
                hint="put the command behind '--': qup run --box BOX -- COMMAND",
            )
        (scratch / "Qupfile").write_text(SANDBOX_QUPFILE)
        values["box"] = _place_box(values.get("box"), said.directory)
    home = Project(project.root, scratch) if project else Project(scratch)
    context = Context(home, show, lock_timeout=said.lock_timeout)
    given = {key: value for key, value in values.items() if value is not None}
    config: Config = load_config(context, replace(overrides, values=given))
    if project is not None:
        require_trust(context, config)
    chosen = roster_of(config).choose_one(name)
    return context, make_throwaway(config.machines[chosen])


def _find_project(directory: Path, name: str | None) -> Project | None:
    try:
        return find_project(directory)
    except ConfigError as exc:
        if name is None:
            return None
        exc.hint = f"a command goes behind '--': qup run -- {name} ...; {exc.hint}"
        raise


def _place_box(box: object, directory: Path) -> object:
    """A box that is a file, seen from where the user is."""
    if isinstance(box, str) and "://" not in box and (directory / box).is_file():
        return os.fspath((directory / box).absolute())
    return box


@dataclass(frozen=True)
class _Run:
    context: Context
    config: MachineConfig
    folder: Folder | None
    show: Late
    provision: bool
    cold: bool

    def do(self, words: list[str], *, terminal: bool) -> int:
        """Make the machine, run the command; its exit code."""
        from qup.guest.sync import PLACE
        from qup.runner.provision import Wanted
        from qup.runner.throwaway import run_command
        from qup.runner.up import up
        from qup.runner.work import UpOptions

        options = UpOptions(wanted=Wanted(none=not self.provision), cold=self.cold, mortal=True)
        machine = self.context.project.machine(self.config.name)
        try:
            up(self.context, self.config, options)
        except (GuestError, ProvisionError) as exc:
            raise _explain(exc, machine) from exc
        keys = SshFolder(machine.ssh)
        if self.folder is not None:
            with self._phase("copying into the guest"):
                self.folder.send(keys, machine.name)
            words = _run_in(PLACE, words)
        self.show.pause()
        code = run_command(machine, words, terminal=terminal or (self._is_shell(words)))
        if self.folder is not None:
            self.folder.fetch(keys, machine.name)
            for text in self.folder.skipped:
                self.context.tell(machine.name, f"not copied: {text}", level="warning")
        return code

    def _is_shell(self, words: list[str]) -> bool:
        return not words and sys.stdin.isatty()

    def _phase(self, title: str) -> AbstractContextManager[object]:
        return self.context.phase(self.config.name, "sync", title)


def _explain(exc: QupError, machine: MachineFolder) -> QupError:
    """The failure of a start, without advice for a machine that is not there any more."""
    logs = sorted(machine.logs.glob("provision-*.log"), key=lambda path: path.stat().st_mtime)
    if isinstance(exc, ProvisionError) and logs:
        exc.details = logs[-1].read_text(errors="replace")[-TAIL:].strip() or exc.details
    exc.hint = "the machine is gone; 'qup up' makes one that stays, for a look inside"
    return exc


def _run_in(place: str, words: list[str]) -> list[str]:
    """The command, in a folder."""
    import shlex

    begin = f"cd {place} || exit; "
    if not words:
        return [begin + 'exec "$SHELL" -l']
    return [begin + (words[0] if len(words) == 1 else f"exec {shlex.join(words)}")]
