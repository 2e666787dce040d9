"""``qup down``, ``kill`` and ``destroy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qup.cli.common import AsJson, Force, Jobs, Names, Quiet, for_each
from qup.cli.main import globals_of
from qup.cli.suspend import resume_to_shut_down
from qup.errors import UsageError
from qup.runner import stop
from qup.runner.parallel import invert
from qup.runner.roster import read_roster
from qup.ui import open_interface

if TYPE_CHECKING:
    from qup.runner.context import Context


def down(
    ctx: typer.Context,
    names: Names = None,
    force: Force = False,
    timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Seconds the guest has for shutting down."),
    ] = stop.GRACE,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Shut machines down; their disks stay. It is no error if a machine is down already.

    The guest is asked by its power button, then by ssh; only if neither helps is its power cut. A
    suspended machine is resumed first; with `--force`, its memory is discarded instead.

    Examples: `qup down`, `qup down web --timeout 10`, `qup down --force`
    """
    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        roster = read_roster(context.project)
        chosen = roster.choose(names or [])

        def act(name: str) -> None:
            if not force:
                resume_to_shut_down(context, name)
            ran = stop.down(context, context.project.machine(name), force=force, timeout=timeout)
            if not ran:
                context.tell(name, "is not running")

        for_each(context, chosen, act, jobs=jobs, after=invert(roster.after))


def kill(
    ctx: typer.Context, names: Names = None, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Cut the power of machines at once, whatever they are doing; their disks stay.

    Whatever a guest has not written to its disk is lost. Use it if a guest or QEMU hangs, or if a
    `qup up` elsewhere waits for a guest in vain. `qup down` asks the guest first.

    Examples: `qup kill`, `qup kill web db`
    """
    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        chosen = read_roster(context.project).choose(names or [])

        def act(name: str) -> None:
            if not stop.kill(context, context.project.machine(name)):
                context.tell(name, "is not running")

        for_each(context, chosen, act)


def destroy(
    ctx: typer.Context,
    names: Names = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", "--force", "-f", help="Don't ask.")] = False,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove machines and their disks, whatever state they are in.

    Boxes and the Qupfile stay: `qup up` creates the machines again.

    Examples: `qup destroy`, `qup destroy -y web db`
    """
    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        roster = read_roster(context.project)
        chosen = roster.choose(names or [])
        existing = [name for name in chosen if context.project.machine(name).root.is_dir()]
        if existing and not yes:
            _confirm(existing, _count_snapshots(context, existing))

        def act(name: str) -> None:
            if not stop.destroy(context, context.project.machine(name)):
                context.tell(name, "was never created")

        for_each(context, chosen, act, jobs=jobs, after=invert(roster.after))


def _count_snapshots(context: Context, names: list[str]) -> int:
    from qup.runner.snapshots import list_snapshots

    return sum(len(list_snapshots(context.project.machine(name))) for name in names)


def _confirm(names: list[str], snapshots: int) -> None:
    import sys

    if not sys.stdin.isatty():
        raise UsageError(
            "destroy removes disks and there is no terminal to ask on", hint="add -y to go ahead"
        )
    data = "all data"
    if snapshots:
        data += f" and {snapshots} snapshot{'s' if snapshots > 1 else ''}"
    typer.confirm(f"Remove {', '.join(names)} with {data}?", abort=True, err=True)
