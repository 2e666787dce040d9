"""``qup status``, ``list``, ``ip`` and ``inspect``: looking without touching."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from qup.cli.common import AsJson, Name, Names, print_json, print_table, roster_of
from qup.cli.main import globals_of
from qup.errors import MachineError
from qup.runner.context import Context
from qup.runner.observe import NOT_CREATED, Observation, observe, require_alive


def status(ctx: typer.Context, names: Names = None, as_json: AsJson = False) -> None:
    """Show what the project's machines are doing. Works with a broken Qupfile, too.

    Examples: `qup status`, `qup status web --json`
    """
    context = globals_of(ctx).context()
    roster = roster_of(context)
    chosen = roster.choose(names or [])
    seen = [observe(context.project.machine(name)) for name in chosen]
    if as_json:
        print_json(
            {"machines": [item.to_dict() for item in seen], "qupfile_problem": roster.problem}
        )
        return
    if roster.problem:
        typer.echo(f"note: {roster.problem}", err=True)
    rows = [[item.name, item.status, _ssh(item), _remark(item, roster.leftovers)] for item in seen]
    print_table(["MACHINE", "STATUS", "SSH", ""], rows)


def _ssh(seen: Observation) -> str:
    launch = seen.state.launch if seen.state and seen.alive else None
    if launch is None or not launch.ssh_port:
        return "-"
    return f"{launch.ssh_address}:{launch.ssh_port}"


def _remark(seen: Observation, leftovers: tuple[str, ...]) -> str:
    if seen.name in leftovers:
        return "not in the Qupfile any more" + (f"; {seen.detail}" if seen.detail else "")
    return seen.detail or ""


def list_machines(as_json: AsJson = False) -> None:
    """List the machines of all your projects.

    Example: `qup list`
    """
    from qup import store
    from qup.paths import Project

    rows: list[dict[str, Any]] = []
    for entry in store.indexed():
        folder = Project(entry.project).machine(entry.name)
        seen = observe(folder)
        if seen.status == NOT_CREATED or (seen.state is not None and seen.state.id != entry.id):
            continue  # destroyed with its folder, or moved: the index is only a cache
        rows.append({"project": str(entry.project), **seen.to_dict()})
    rows.sort(key=lambda row: (row["project"], row["name"]))
    if as_json:
        print_json({"machines": rows})
        return
    cells = [
        [row["name"], row["status"], row["box"] or "-", row["project"], row["detail"] or ""]
        for row in rows
    ]
    print_table(["MACHINE", "STATUS", "BOX", "PROJECT", ""], cells)


def ip(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Print the address under which this computer reaches a machine.

    With the user network that is 127.0.0.1, with the ports of `qup port`.
    """
    context = globals_of(ctx).context()
    machine = roster_of(context).choose_one(name)
    state = require_alive(context.project.machine(machine))
    assert state.launch is not None
    if state.launch.ssh_address is None:
        raise MachineError(f"machine {machine} has no known address yet")
    if as_json:
        print_json({"machine": machine, "address": state.launch.ssh_address})
    else:
        typer.echo(state.launch.ssh_address)


def inspect(
    ctx: typer.Context,
    name: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="The default; accepted.")] = True,  # noqa: ARG001
) -> None:
    """Print everything qup knows about a machine, as JSON.

    Example: `qup inspect web`
    """
    context = globals_of(ctx).context()
    machine = roster_of(context).choose_one(name)
    folder = context.project.machine(machine)
    seen = observe(folder)
    print_json(
        {
            **seen.to_dict(),
            "folder": str(folder.root),
            "logs": str(folder.logs),
            "state": seen.state.to_dict() if seen.state else None,
            "plan": _stored_plan(context, machine),
        }
    )


def _stored_plan(context: Context, machine: str) -> object:
    try:
        return json.loads(context.project.machine(machine).plan.read_bytes())
    except (OSError, ValueError):
        return None
