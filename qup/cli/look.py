"""``qup status``, ``list``, ``ip`` and ``inspect``: looking without touching."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from qup.cli.common import AsJson, Name, Names, print_json, print_table
from qup.cli.main import globals_of
from qup.errors import MachineError
from qup.model.units import format_size
from qup.paths import MachineFolder, Project
from qup.qemu.memory import read_memory
from qup.runner.observe import NOT_CREATED, Observation, observe, require_alive
from qup.runner.roster import read_roster

MEMORY = ("MEMORY", "OWN")
DISK = ("ON DISK", "DISKS", "SNAPSHOTS", "RESET", "SUSPENDED")
MIB = 1 << 20

ShowMemory = Annotated[
    bool,
    typer.Option(
        "--memory",
        help="Show what each takes of this computer's memory: its share of what several use, and"
        " what is its own alone.",
    ),
]

ShowDisk = Annotated[
    bool,
    typer.Option(
        "--disk",
        help="Show what each takes of this computer's disk: in all, for its disks, its snapshots,"
        " what `qup reset` goes back to, and memory of a suspended one.",
    ),
]


def status(
    ctx: typer.Context,
    names: Names = None,
    memory: ShowMemory = False,
    disk: ShowDisk = False,
    as_json: AsJson = False,
) -> None:
    """Show what the project's machines are doing. Works with a broken Qupfile, too.

    Examples: `qup status`, `qup status --memory --disk`, `qup status web --json`
    """
    project = globals_of(ctx).project()
    roster = read_roster(project)
    chosen = roster.choose(names or [])
    seen = [observe(project.machine(name)) for name in chosen]
    if as_json:
        print_json(
            {
                "machines": [
                    {**_to_dict(item), "disk": _disk_of(project.machine(item.name))}
                    for item in seen
                ],
                "qupfile_problem": roster.problem,
            }
        )
        return
    if roster.problem:
        typer.echo(f"note: {roster.problem}", err=True)
    rows = [
        [
            item.name,
            item.status,
            _ssh(item),
            *(_memory(_to_dict(item)) if memory else ()),
            *(_disk(_disk_of(project.machine(item.name))) if disk else ()),
            _remark(item, roster.leftovers),
        ]
        for item in seen
    ]
    more = (*(MEMORY if memory else ()), *(DISK if disk else ()))
    print_table(["MACHINE", "STATUS", "SSH", *more, ""], rows)


def _to_dict(seen: Observation) -> dict[str, Any]:
    """As ``--json`` prints it, with what the machine takes of this computer's memory."""
    use = read_memory(seen.pid) if seen.pid is not None else None
    return {**seen.to_dict(), "memory": use and use._asdict()}


def _memory(data: dict[str, Any]) -> tuple[str, str]:
    use = data["memory"]
    if use is None:
        return "-", "-"
    return f"{use['proportional'] / MIB:.0f}M", f"{use['private'] / MIB:.0f}M"


def _disk_of(folder: MachineFolder) -> dict[str, int] | None:
    from qup.runner.disk_use import read_disk_use  # only who asks for it pays for it

    use = read_disk_use(folder)
    return use and use._asdict()


def _disk(use: dict[str, int] | None) -> list[str]:
    return ["-"] * len(DISK) if use is None else [format_size(size) for size in use.values()]


def _ssh(seen: Observation) -> str:
    launch = seen.state.launch if seen.state and seen.alive else None
    if launch is None or not launch.ssh_address:
        return "-"
    return f"{launch.ssh_address}:{launch.ssh_port}"


def _remark(seen: Observation, leftovers: tuple[str, ...]) -> str:
    if seen.name in leftovers:
        return "no longer in the Qupfile" + (f"; {seen.detail}" if seen.detail else "")
    launch = seen.state.launch if seen.state and seen.alive else None
    source = launch.ssh_source if launch else None
    return seen.detail or (f"address by {source}" if source else "")


def list_machines(
    memory: ShowMemory = False,
    disk: ShowDisk = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print names only.")] = False,
) -> None:
    """List the machines of all your projects.

    Examples: `qup list`, `qup list -q`, `qup list --disk`
    """
    from qup import store

    rows: list[dict[str, Any]] = []
    for entry in store.indexed():
        folder = Project(entry.project).machine(entry.name)
        seen = observe(folder)
        if seen.status == NOT_CREATED or (seen.state is not None and seen.state.id != entry.id):
            continue  # destroyed with its folder, or moved: the index is only a cache
        rows.append({"project": str(entry.project), **_to_dict(seen), "disk": _disk_of(folder)})
    rows.sort(key=lambda row: (row["project"], row["name"]))
    if as_json:
        print_json({"machines": rows})
        return
    if quiet:
        typer.echo("".join(f"{row['name']}\n" for row in rows), nl=False)
        return
    cells = [
        [
            row["name"],
            row["status"],
            row["box"] or "-",
            *(_memory(row) if memory else ()),
            *(_disk(row["disk"]) if disk else ()),
            row["project"],
            row["detail"] or "",
        ]
        for row in rows
    ]
    more = (*(MEMORY if memory else ()), *(DISK if disk else ()))
    headings = ["MACHINE", "STATUS", "BOX", *more, "PROJECT", ""]
    print_table(headings, cells)


def ip(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Print the address at which this computer can reach a machine.

    With the user network that is 127.0.0.1, with the ports that `qup port list` shows.
    """
    project = globals_of(ctx).project()
    machine = read_roster(project).choose_one(name)
    state = require_alive(project.machine(machine))
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
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="TEMPLATE",
            help="Print this, with {{.KEY.KEY}}, {{json .KEY}} and {{prettyjson .KEY}} filled in.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The default; accepted.")] = True,  # noqa: ARG001
) -> None:
    """Print everything that qup knows about a machine, as JSON or by a template of yours.

    Examples: `qup inspect web`, `qup inspect -f '{{.ssh.port}}'`, `qup inspect -f '{{json .plan}}'`
    """
    from qup.cli.template import parse_template

    pieces = parse_template(template) if template is not None else None
    project = globals_of(ctx).project()
    machine = read_roster(project).choose_one(name)
    folder = project.machine(machine)
    seen = observe(folder)
    data = {
        **_to_dict(seen),
        "disk": _disk_of(folder),
        "folder": str(folder.root),
        "logs": str(folder.logs),
        "state": seen.state.to_dict() if seen.state else None,
        "plan": _stored_plan(folder),
        "save_point": _describe_save_point(folder),
    }
    if pieces is None:
        print_json(data)
    else:
        typer.echo("".join(piece.fill(data) for piece in pieces))


def _describe_save_point(folder: MachineFolder) -> dict[str, Any] | None:
    """What ``qup reset`` goes back to, unless that is a template."""
    from qup.model.snapshot import SAVE_POINT
    from qup.runner.snapshots import list_all, measure

    found = [item for item in list_all(folder) if item.name == SAVE_POINT]
    return {"created": found[-1].created, "size": measure(folder, found[-1])} if found else None


def _stored_plan(folder: MachineFolder) -> object:
    try:
        return json.loads(folder.plan.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
