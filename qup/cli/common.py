"""What commands share: arguments, output, the way from a command line to the runner."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from qup.errors import QupError
from qup.model.text import clean_line, printable
from qup.paths import Project, find_project
from qup.runner.roster import read_roster

if TYPE_CHECKING:
    from qup.model.events import Listener
    from qup.runner.context import Context
    from qup.runner.machines import KnownMachines

JSON_SCHEMA = 1
"""Version of everything that ``--json`` prints; see ``docs/reference/json.md``."""


@dataclass(frozen=True)
class Globals:
    """What was said before the command's name.

    Attributes:
        directory: where the search for a Qupfile begins.
        lock_timeout: seconds to wait for a machine's lock.
    """

    directory: Path
    lock_timeout: float

    def project(self) -> Project:
        """The project; raises ConfigError when there is none."""
        return find_project(self.directory)

    def machines(self) -> KnownMachines:
        """The project's machines, for commands of plugins."""
        from qup.runner.machines import KnownMachines

        return KnownMachines(self.project())

    def context(self, listener: Listener | None = None) -> Context:
        """The surroundings for the runner."""
        from qup.runner.context import Context  # not needed for looking at machines
        from qup.runner.throwaway import sweep

        sweep()
        context = Context(self.project(), lock_timeout=self.lock_timeout)
        if listener is not None:
            context.listener = listener
        return context


def complete_machines(ctx: typer.Context, incomplete: str) -> list[str]:
    """Machine names for tab completion; never an error."""
    try:
        directory = ctx.find_root().params.get("directory") or Path()
        names = read_roster(find_project(Path(directory))).names
    except QupError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Machines; none means all.",
        autocompletion=complete_machines,
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="The machine; can be left out when there is one, or a primary one.",
        autocompletion=complete_machines,
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless it fails.")]
Force = Annotated[
    bool, typer.Option("--force", "-f", help="Cut the power instead of asking the guest.")
]
ThoughNeeded = Annotated[
    bool, typer.Option("--force", "-f", help="Even if machines need it, which are then lost.")
]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        help="Machines to work on at once; by default 4, or as many as there are processors"
        " if that is more.",
        show_default=False,
    ),
]


def refuse_needed(error: type[QupError], title: str, users: Sequence[str]) -> NoReturn:
    """Keep what machines need from being removed."""
    raise error(
        f"{title} is needed by {len(users)} machines",
        details="\n".join(users),
        hint="'qup destroy' them first; --force removes it all the same",
    )


def print_json(data: dict[str, Any]) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps({"schema": JSON_SCHEMA, **data}, indent=2))


def print_error(error: QupError) -> None:
    """Say what went wrong, in whose words, and what to do."""
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(printable(error.message), err=True)
    if error.details:
        for line in error.details.splitlines():
            typer.echo(f"  {printable(line)}", err=True)
    if error.hint:
        typer.secho("hint: ", fg=typer.colors.CYAN, nl=False, err=True)
        typer.echo(printable(error.hint), err=True)


class SeveralFailed(QupError):
    """More than one machine failed; the exit code is the first one's."""

    def __init__(self, errors: Sequence[QupError]) -> None:
        details = "\n".join(
            line
            for error in errors
            for line in (error.message, *(f"  {text}" for text in _more(error)))
        )
        super().__init__(f"{len(errors)} machines failed", details=details)
        self.exit_code = errors[0].exit_code
        self.errors = tuple(errors)


def _more(error: QupError) -> Iterable[str]:
    yield from (error.details or "").splitlines()
    if error.hint:
        yield f"hint: {error.hint}"


def for_each(
    ctx: Context,
    names: Sequence[str],
    act: Callable[[str], object],
    *,
    jobs: int | None = None,
    after: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Do something to each machine; see :func:`qup.runner.parallel.work_through`.

    Raises:
        QupError: what failed, at the end.
    """
    from qup.runner.parallel import default_jobs, work_through

    errors = work_through(ctx, names, act, jobs=jobs or default_jobs(), after=after)
    for error in errors:
        ctx.note(error.machine or "", f"error: {error.message}\n{error.details or ''}".strip())
    if errors and len(names) > 1:
        bad = {error.machine for error in errors}
        well = [name for name in names if name not in bad]
        text = f"failed: {', '.join(name for name in names if name in bad)}"
        ctx.tell("", f"done: {', '.join(well)}; {text}" if well else text, level="warning")
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralFailed(errors)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, each as wide as its widest cell; the last one is not padded. What a
    terminal would obey is left out: cells may come from a project's files.
    """
    rows = [[clean_line(cell) for cell in row] for row in rows]
    widths = [
        max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings) - 1)
    ]
    for row in (headings, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]).rstrip())
