"""``qup port``: which ports of this computer lead into a machine; more and fewer of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from qup.cli.common import AsJson, Name, complete_machines, print_json, print_table
from qup.cli.main import globals_of
from qup.errors import MachineError, UsageError
from qup.model.network import Forward, parse_forward
from qup.paths import RuntimeFolder
from qup.qemu.qmp import Qmp
from qup.runner.forwards import add_forward, list_forwards, read_ranges, remove_forward
from qup.runner.observe import require_alive
from qup.runner.open_ports import note_ports
from qup.runner.roster import read_roster

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Ports of this computer that lead into a machine.",
)

Rule = Annotated[
    str, typer.Argument(metavar="FORWARD", help="[address:]host:guest[/udp]; host 0 picks one.")
]
Machine = Annotated[
    str | None,
    typer.Option("--machine", "-m", help="The machine.", autocompletion=complete_machines),
]


@contextmanager
def _monitor(
    ctx: typer.Context, name: str | None, *, change: bool = False
) -> Iterator[tuple[str, Qmp, int | None]]:
    """The machine that is meant, its monitor, and the port of qup's own forward to sshd.

    With ``change``, what is open afterwards is remembered.
    """
    context = globals_of(ctx).context()
    machine = read_roster(context.project).choose_one(name)
    folder = context.project.machine(machine)
    require_alive(folder)
    with context.lock(folder):
        state = require_alive(folder)
        assert state.launch is not None
        runtime = RuntimeFolder.of(state.launch.runtime)
        with Qmp.connect(runtime.control, timeout=5.0) as monitor:
            yield machine, monitor, state.launch.ssh_port
            if change:
                note_ports(folder, monitor, state.launch.ssh_port)


def _parse(text: str) -> Forward:
    try:
        return parse_forward(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from None


@app.command("list")
def list_ports(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """List the ports that are open right now.

    Example: `qup port list`
    """
    with _monitor(ctx, name) as (machine, monitor, own):
        forwards = list_forwards(monitor)
    if as_json:
        print_json({"machine": machine, "forwards": [item.to_dict() for item in forwards]})
        return
    rows = [
        [f"{item.forward.address}:{item.forward.host}",
         f"{item.forward.guest}/{item.forward.protocol}",
         "qup ssh" if item.forward.host == own else f"eth{item.nic}" if item.nic else ""]
        for item in forwards
    ]  # fmt: skip
    print_table(["HERE", "GUEST", ""], rows)


@app.command()
def add(
    ctx: typer.Context, forward: Rule, machine: Machine = None, as_json: AsJson = False
) -> None:
    """Open a port of a running machine. It stays open until the machine stops; ports in the
    Qupfile are opened at every start.

    Examples: `qup port add 8080:80`, `qup port add 0:53/udp -m web`
    """
    wanted = _parse(forward)
    with _monitor(ctx, machine, change=True) as (name, monitor, _):
        ranges = read_ranges(globals_of(ctx).context().project.machine(name))
        opened = add_forward(monitor, wanted, ranges=ranges).forward
    if as_json:
        print_json({"machine": name, "forward": asdict(opened)})
    else:
        typer.echo(f"{opened.address}:{opened.host} leads to port {opened.guest} of {name}")


@app.command()
def rm(ctx: typer.Context, forward: Rule, machine: Machine = None, as_json: AsJson = False) -> None:
    """Close a port of a running machine.

    Example: `qup port rm 8080:80`
    """
    wanted = _parse(forward)
    with _monitor(ctx, machine, change=True) as (name, monitor, own):
        found = [item for item in list_forwards(monitor) if item.forward.host != own]
        present = [item for item in found if _matches(item.forward, wanted)]
        if not present:
            raise MachineError(
                f"machine {name} has no forward {wanted}", hint="'qup port list' shows them"
            )
        remove_forward(monitor, present[0])
    if as_json:
        print_json({"machine": name, "closed": asdict(present[0].forward)})
    else:
        typer.echo(f"{present[0].forward} is closed")


def _matches(item: Forward, wanted: Forward) -> bool:
    return (
        item.protocol == wanted.protocol
        and item.address == wanted.address
        and item.guest == wanted.guest
        and wanted.host in (0, item.host)
    )
