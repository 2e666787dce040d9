"""The command line, and the one place where errors become words and exit codes.

A command's module is imported when the command is run, so that ``qup ssh`` does not pay for
what ``qup up`` needs.
"""

from __future__ import annotations

import errno
import functools
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from qup.cli.commands import COMMANDS, HEADINGS, PLUGINS_HEADING
from qup.errors import (
    BUG_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    Interrupted,
    PluginError,
    QupError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qup.api import Command
    from qup.cli.common import Globals
    from qup.plugins import Plugins

OUTPUT_FAILURES = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
"""What an OSError says when the output can't be written."""

PIPE_EXIT_CODE = 141
"""What a program ends with that SIGPIPE ended: 128 + 13."""


class LazyGroup(TyperGroup):
    """Commands that are imported when they are asked for; plugins' commands after our own."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        context = super().make_context(*args, **more)
        if context.resilient_parsing:  # tab completion, which doesn't call root()
            from qup.cli.common import Globals

            context.obj = Globals(Path(context.params.get("directory") or ""), 0.0)
        return context

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  the interface's
        return [*COMMANDS, *_plugin_commands()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  the interface's
        if entry := COMMANDS.get(cmd_name):
            module = importlib.import_module(f"qup.cli.{entry.module}")
            target = getattr(module, entry.attribute)
            cls = WordsCommand if entry.takes_words else TyperCommand
            cls = getattr(target, "command_class", cls)
            command = _build(cmd_name, target, hidden=entry.hidden, cls=cls)
            command.rich_help_panel = HEADINGS[cmd_name]
            return command
        if foreign := _plugin_commands().get(cmd_name):
            command = _build(cmd_name, foreign.callback, summary=foreign.summary)
            command.rich_help_panel = PLUGINS_HEADING
            return command
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            names: dict[str, Any] = dict.fromkeys(self.list_commands(ctx))
            self.commands = names  # for "did you mean"
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        # Ctrl-C must reach our boundary: the command-line library would make it exit code 1.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None
        except Exception as exc:
            raise self._blame(ctx.invoked_subcommand, exc) from exc

    def _blame(self, name: str | None, exc: Exception) -> Exception:
        """An error of a plugin's command is not a bug of ours."""
        if _is_interrupt(exc):
            return Interrupted()
        if name is None or name in COMMANDS or isinstance(exc, QupError | OSError):
            return exc
        if type(exc).__module__.startswith("typer"):
            return exc
        plugin = _plugins().provider("command", name)
        return PluginError(
            f"command {name} of plugin {plugin} failed: {type(exc).__name__}: {exc}",
            hint="report this to the plugin's author",
        )


class WordsCommand(TyperCommand):
    """A command whose words are another program's: none but ``--help`` is ours, and ``--``
    is left in its place.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing or args[:1] in (["--help"], ["-h"]):
            return super().parse_args(ctx, args)
        ctx.params["words"] = list(args)
        ctx.args = []
        return []


def _build(
    name: str,
    target: Any,
    *,
    hidden: bool = False,
    summary: str | None = None,
    cls: type[TyperCommand] = TyperCommand,
) -> Any:
    if isinstance(target, typer.Typer):
        command = get_command(target)
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        app.command(name, cls=cls, help=summary)(target)
        command = get_command(app)
    command.name = name
    command.hidden = hidden
    if summary and not command.help:
        command.help = summary
    return command


@functools.cache
def _plugins() -> Plugins:
    from qup.plugins import Plugins

    plugins = Plugins()
    plugins.reserve("command", COMMANDS)
    return plugins


def _plugin_commands() -> Mapping[str, Command]:
    return _plugins().commands


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _show_version(value: bool) -> None:
    if value:
        from qup import __version__

        typer.echo(f"qup {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Option("-C", metavar="DIR", help="Look for the Qupfile in DIR and above it."),
    ] = None,
    lock_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Seconds to wait for another qup that works on the same machine.",
        ),
    ] = 60.0,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Use no network: boxes come from the cache (QUP_OFFLINE)."),
    ] = False,
    version: Annotated[  # noqa: ARG001  its callback does the work
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print qup's version."
        ),
    ] = False,
) -> None:
    """Virtual machines for a project, on QEMU: no daemon, no root.

    `qup init` writes a Qupfile, `qup up` starts what it describes, `qup ssh` takes you in.
    """
    from qup.cli.common import Globals

    if offline:
        from qup.downloads import set_offline

        set_offline()
    ctx.obj = Globals(directory or Path(), lock_timeout)


def run(argv: list[str]) -> int:
    """Run a command line; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _dispatch(argv)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is all said and done
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. Nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_EXIT_CODE
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _report(QupError(f"can't write the output: {exc.strerror}"), as_json=False)
    return code


def _dispatch(argv: list[str]) -> int:
    as_json = "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
    try:
        code = app(args=argv, prog_name="qup", standalone_mode=False)
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # the library makes it exit code 1
            return PIPE_EXIT_CODE
        return exc.code if isinstance(exc.code, int) else 0
    except typer.Abort:
        return _report(QupError("nothing was done"), as_json=as_json)
    except QupError as exc:
        return _report(exc, as_json=as_json)
    except KeyboardInterrupt:
        return _report(Interrupted(), as_json=as_json)
    except Exception as exc:
        if isinstance(exc, OSError) and exc.filename is None and exc.errno in OUTPUT_FAILURES:
            raise
        return _report_other(exc, argv, as_json=as_json)
    return code if isinstance(code, int) else 0


def _report_other(error: Exception, argv: list[str], *, as_json: bool) -> int:
    """An error that is none of ours."""
    if _is_interrupt(error):
        return _report(Interrupted(), as_json=as_json)
    if hasattr(error, "format_message"):  # the command-line library's complaint about the words
        return _report_usage(error, as_json=as_json)
    return _report_bug(error, argv, as_json=as_json)


def _is_interrupt(error: Exception) -> bool:
    """Before 3.12, Python makes a RuntimeError of whatever hits while a class names its attributes
    (``__set_name__``): also of Ctrl-C during an import.
    """
    return isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt)


def _report_usage(exc: Any, *, as_json: bool) -> int:
    path = exc.ctx.command_path if getattr(exc, "ctx", None) else "qup"
    message: str = exc.format_message()
    if not message:  # there were no words at all, and the help has been printed
        return UsageError.exit_code
    hint = f"'{path} --help' shows what there is"
    return _report(UsageError(message, hint=hint), as_json=as_json)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  signal's form
    raise KeyboardInterrupt


def _report(error: QupError, *, as_json: bool) -> int:
    from qup.cli.common import print_error

    if as_json:
        typer.echo(json.dumps({"schema": 1, "error": error.to_dict()}))
    if error.exit_code == INTERRUPTED_EXIT_CODE:
        typer.echo("interrupted", err=True)
    elif not as_json:
        print_error(error)
    return error.exit_code


def _report_bug(error: Exception, argv: list[str], *, as_json: bool) -> int:
    """A bug of ours: a short message, and a log to send."""
    import platform
    import tempfile
    import traceback

    from qup import __version__

    log = "\n".join(
        [
            f"qup {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"command: {argv}",
            "".join(traceback.format_exception(error)),
        ]
    )
    with tempfile.NamedTemporaryFile(
        "w", prefix="qup-bug-", suffix=".log", delete=False, errors="replace"
    ) as file:
        file.write(log)
    message = f"this is a bug in qup: {type(error).__name__}: {error}"
    hint = f"please report it with this file: {file.name}"
    if as_json:
        data = {"kind": "bug", "exit_code": BUG_EXIT_CODE, "message": message, "hint": hint}
        typer.echo(json.dumps({"schema": 1, "error": data}))
    typer.echo(f"{message}\n{hint}", err=True)
    return BUG_EXIT_CODE


def globals_of(ctx: typer.Context) -> Globals:
    """What was said before the command's name."""
    found: Globals = ctx.find_root().obj
    return found
