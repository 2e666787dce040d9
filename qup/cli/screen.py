"""``qup view`` and ``qup screenshot``: a machine's picture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from qup.cli.common import AsJson, Name, complete_machines, print_json
from qup.cli.main import globals_of
from qup.errors import MachineError, UsageError
from qup.model.display import WINDOWS
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.qmp import CommandFailed, Qmp
from qup.runner.observe import require_alive
from qup.runner.roster import read_roster

MONITOR_TIMEOUT = 5.0
STDOUT = "-"


def view(
    ctx: typer.Context,
    name: Name = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Only print how to connect to the display.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a machine's display in a VNC viewer, or print how to connect to it.

    If a viewer is installed, it is opened, and the command ends with its window. Without a viewer
    or a graphical session, it prints how to connect: with a viewer here, and through ssh from
    another computer.

    Examples: `qup view`, `qup view web --print`
    """
    from qup.runner.display import has_screen
    from qup.runner.viewers import describe_ways, find_command

    project = globals_of(ctx).project()
    folder = project.machine(read_roster(project).choose_one(name))
    with _connect(folder) as monitor:
        shown = _find_screen(folder, monitor)
    command = find_command(shown)
    if as_json:
        place = {"socket": shown.path or None, "host": shown.host or None,
                 "port": shown.port or None}  # fmt: skip
        print_json({"machine": folder.name, "display": "vnc", **place, "viewer": command})
        return
    where = f"the socket {shown.path}" if shown.path else f"{shown.host}, port {shown.port}"
    if command and has_screen() and not only_print:
        typer.echo(f"{folder.name}: {Path(command[0]).name} shows VNC at {where}", err=True)
        _become(command)
    typer.echo(f"{folder.name} shows its screen by VNC at {where}")
    if not only_print:
        why = "no viewer that can show it is installed" if has_screen() else "no screen is here"
        typer.echo(f"{why}; the ways in:")
    for who, what in describe_ways(shown):
        typer.echo(f"  {who + ':':<16}{what}")


def _become(command: list[str]) -> NoReturn:
    try:
        os.execv(command[0], command)
    except OSError as exc:
        raise UsageError(f"can't start {command[0]}: {exc.strerror}") from exc


def _connect(folder: MachineFolder) -> Qmp:
    state = require_alive(folder)
    assert state.launch is not None
    return Qmp.connect(RuntimeFolder.of(state.launch.runtime).control, timeout=MONITOR_TIMEOUT)


def _find_screen(folder: MachineFolder, monitor: Qmp) -> Any:
    from qup.runner.viewers import Screen

    try:
        answer = monitor.execute("query-vnc")
    except CommandFailed:  # built without
        answer = {}
    if not answer.get("enabled") or not answer.get("service"):
        raise _no_vnc(folder)
    if answer.get("family") == "unix":
        return Screen(path=str(folder.project / answer["service"]))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(answer["host"], answer["host"])  # noqa: S104
    return Screen(host=host, port=int(answer["service"]))


def _no_vnc(folder: MachineFolder) -> MachineError:
    shown = _stored_type(folder)
    asked = "write display = \"vnc\" under [machine.qemu], then 'qup reload'"
    if shown is None:
        return MachineError(
            f"machine {folder.name} has no display", hint=asked, machine=folder.name
        )
    return MachineError(
        f"machine {folder.name} has the display {shown}, which QEMU shows by itself, not by VNC",
        hint=f"{'look for its window; or ' if shown in WINDOWS else ''}{asked}",
        machine=folder.name,
    )


def _stored_type(folder: MachineFolder) -> str | None:
    try:
        display = json.loads(folder.plan.read_bytes())["display"]
        return str(display["type"]) if display else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def screenshot(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] FILE",
            help="The machine, which can be left out as elsewhere; and the file to write, ending"
            " in .png, or - for standard output.",
            autocompletion=complete_machines,
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Write what a machine's display shows to a PNG file.

    Examples: `qup screenshot boot.png`, `qup screenshot web - > web.png`
    """
    from qup.files import write_atomic
    from qup.qemu.picture import grab_picture

    name, target = _read_words(words, as_json=as_json)
    project = globals_of(ctx).project()
    folder = project.machine(read_roster(project).choose_one(name))
    with _connect(folder) as monitor:
        picture = grab_picture(monitor, folder.name)
    data = picture.to_png()
    if target == STDOUT:
        typer.get_binary_stream("stdout").write(data)
        return
    write_atomic(Path(target).absolute(), data, mode=0o666 & ~_umask(), durable=False)
    if as_json:
        size = {"width": picture.width, "height": picture.height}
        print_json({"machine": folder.name, "file": str(Path(target).absolute()), **size})
    else:
        typer.echo(f"{folder.name}: {target}, {picture.width}x{picture.height} pixels")


def _read_words(words: list[str], *, as_json: bool) -> tuple[str | None, str]:
    *names, target = words
    if len(names) > 1:
        raise UsageError("a screenshot is of one machine: qup screenshot [NAME] FILE")
    if target == STDOUT:
        stdout = typer.get_binary_stream("stdout")
        if as_json or stdout.isatty():
            what = "--json" if as_json else "a terminal"
            raise UsageError(f"a picture and {what} don't go together", hint="name a file")
    elif not target.lower().endswith(".png"):
        raise UsageError(
            f"{target!r} does not end in .png",
            hint="the last word is the file: 'qup screenshot web web.png', or - for a pipe",
        )
    elif Path(target).is_dir():
        raise UsageError(f"{target} is a folder", hint="name a file in it")
    return (names[0] if names else None), target


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
