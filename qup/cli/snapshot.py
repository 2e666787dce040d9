"""``qup snapshot``: a machine at one moment, to come back to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qup.cli.common import AsJson, Name, Quiet, print_json, print_table
from qup.cli.main import globals_of
from qup.cli.settings import Overrides
from qup.model.snapshot import Snapshot, walk_tree
from qup.model.text import printable
from qup.model.units import format_size
from qup.paths import MachineFolder
from qup.runner.roster import read_roster

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Snapshots: a machine with its memory and disks at one moment, to come back to.",
)


def complete_snapshots(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of snapshots of all machines, for tab completion."""
    from pathlib import Path

    from qup.errors import QupError
    from qup.paths import find_project
    from qup.runner.snapshots import list_snapshots
    from qup.store import machine_names

    try:
        project = find_project(Path(ctx.find_root().params.get("directory") or Path()))
        machines = [project.machine(name) for name in machine_names(project)]
        names = {item.name for machine in machines for item in list_snapshots(machine)}
    except QupError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


SnapshotName = Annotated[
    str,
    typer.Argument(
        metavar="SNAPSHOT", help="The snapshot's name.", autocompletion=complete_snapshots
    ),
]
DiskOnly = Annotated[
    bool, typer.Option("--disk-only", help="Disks without memory: the machine is stopped.")
]


def _describe(folder: MachineFolder, item: Snapshot, names: dict[str, str]) -> dict[str, Any]:
    from qup.runner.snapshots import CURRENT, measure, read_mark

    return {
        "name": item.name,
        "id": item.id,
        "parent": names.get(item.parent or ""),
        "note": item.note,
        "created": item.created,
        "memory": item.live,
        "size": measure(folder, item),
        "pause": item.pause,
        "current": read_mark(folder, CURRENT) == item.id,
    }


@app.command()
def save(
    ctx: typer.Context,
    snapshot: SnapshotName,
    name: Name = None,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="A note to show in the list.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a snapshot of that name.")
    ] = False,
    disk_only: DiskOnly = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Save a machine as it is now: its memory, devices, disks and UEFI variables.

    The guest is paused while they are copied. A stopped machine has no memory to save: use
    `--disk-only`.

    Examples: `qup snapshot save clean`, `qup snapshot save before-upgrade web --note "12.6"`
    """
    from qup.runner.save import Wish
    from qup.runner.save import save as run_save
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        machine = read_roster(context.project).choose_one(name)
        wish = Wish(snapshot, note, force, disk_only)
        run_save(context, context.project.machine(machine), wish)


@app.command()
def restore(
    ctx: typer.Context,
    snapshot: SnapshotName,
    name: Name = None,
    disk_only: DiskOnly = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take a machine back to a snapshot, whether it is running or not. Its present state is lost.

    The guest carries on where it was when it was saved, with the present time. Its name, keys,
    addresses and forwards stay the same. `--disk-only` leaves it stopped, with the snapshot's
    disks.

    Examples: `qup snapshot restore clean`, `qup snapshot restore clean web --disk-only`
    """
    from qup.cli.up import checked_config
    from qup.runner.revert import restore as run_restore
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        machine = read_roster(context.project).choose_one(name)
        config = checked_config(context, Overrides())
        _require_member(machine, list(config.machines))
        run_restore(context, config.machines[machine], snapshot, disk_only=disk_only)


def _require_member(machine: str, known: list[str]) -> None:
    from qup.errors import UsageError

    if machine not in known:
        raise UsageError(
            f"machine {machine} is no longer in the Qupfile",
            hint=f"put it back, or 'qup destroy {machine}'",
        )


@app.command("list")
def list_snapshots(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """List the snapshots of a machine as a tree, with the space they take up.

    `*` marks the snapshot that the machine was last saved as or restored to: the next one's
    parent.

    Example: `qup snapshot list`
    """
    from qup.runner import snapshots

    project = globals_of(ctx).project()
    machine = read_roster(project).choose_one(name)
    folder = project.machine(machine)
    found = snapshots.list_snapshots(folder)
    names = {item.id: item.name for item in found}
    tree = list(walk_tree(found))
    rows = [_describe(folder, item, names) for _, item in tree]
    if as_json:
        print_json({"machine": machine, "snapshots": rows})
        return
    table = [
        ["  " * depth + item.name + (" *" if row["current"] else ""), item.created[:16],
         "yes" if item.live else "no", format_size(row["size"]), printable(item.note)]
        for (depth, item), row in zip(tree, rows, strict=True)
    ]  # fmt: skip
    print_table(["SNAPSHOT", "SAVED (UTC)", "MEMORY", "ON DISK", "NOTE"], table)


@app.command()
def delete(
    ctx: typer.Context,
    snapshot: SnapshotName,
    name: Name = None,
    children: Annotated[
        bool, typer.Option("--children", help="Also delete the whole branch below it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a snapshot. Others don't depend on it: its children move up to its parent.

    Examples: `qup snapshot delete clean`, `qup snapshot delete clean web --children`
    """
    from qup.runner import snapshots
    from qup.runner.save import refuse_while_restoring

    context = globals_of(ctx).context()
    folder = context.project.machine(read_roster(context.project).choose_one(name))
    removed, freed = [], 0
    if not folder.root.is_dir():
        snapshots.find_snapshot(folder, snapshot)
    with context.lock(folder):
        refuse_while_restoring(folder)
        chosen = snapshots.find_snapshot(folder, snapshot)
        doomed = [chosen]
        if children:
            doomed = snapshots.find_family(folder, chosen)
        for item in reversed(doomed):
            freed += snapshots.measure(folder, item)
            snapshots.remove_snapshot(folder, item)
            removed.append(item.name)
        snapshots.remove_leftovers(folder)
    if as_json:
        print_json({"removed": removed, "size": freed})
    else:
        typer.echo(f"deleted {', '.join(removed)}: {format_size(freed)}")
