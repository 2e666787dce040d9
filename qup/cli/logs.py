"""``qup logs``: what the guest's console, QEMU, ssh and qup said."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qup.cli.common import JSON_SCHEMA, AsJson, Name, print_json
from qup.cli.main import globals_of
from qup.errors import MachineError, QupError
from qup.model.text import clean_line
from qup.paths import MachineFolder
from qup.runner.roster import read_roster
from qup.store import read_state


class Stream(StrEnum):
    """The logs of a machine, by the name of their file."""

    SERIAL = "serial"
    QEMU = "qemu"
    QUP = "qup"
    SSH = "ssh"


def logs(
    ctx: typer.Context,
    name: Name = None,
    stream: Annotated[
        Stream,
        typer.Option(
            "--log",
            "-l",
            help="Which log: the guest's console, QEMU's messages, what qup did, or ssh's.",
        ),
    ] = Stream.SERIAL,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing as the log grows.")
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, help="Print only this many of the last lines."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the bytes as they are, including terminal escapes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a machine's log, by default what the guest wrote to its serial console.

    Examples: `qup logs`, `qup logs -f`, `qup logs web --log qemu`, `qup logs -n 20 --log qup`
    """
    project = globals_of(ctx).project()
    folder = project.machine(read_roster(project).choose_one(name))
    path = _find_log(folder, stream)
    if follow:
        _follow(path, 10 if lines is None else lines, raw=raw, as_json=as_json)
        return
    data = path.read_bytes()
    if lines is not None:
        data = b"".join(data.splitlines(keepends=True)[-lines:] if lines else [])
    if raw:
        sys.stdout.buffer.write(data)
        return
    cleaned = [clean_line(line) for line in data.decode(errors="replace").splitlines()]
    if as_json:
        print_json({"machine": folder.name, "log": stream, "lines": cleaned})
        return
    if not cleaned:
        typer.echo(f"machine {folder.name}: {_explain_emptiness(folder, stream)}", err=True)
    for line in cleaned:
        typer.echo(line)


def _find_log(folder: MachineFolder, stream: Stream) -> Path:
    path = folder.log(stream)
    if not path.exists():
        raise MachineError(
            f"machine {folder.name} has no {stream} log yet", hint="'qup up' starts it"
        )
    return path


def _explain_emptiness(folder: MachineFolder, stream: Stream) -> str:
    text = f"the {stream} log is empty"
    with contextlib.suppress(QupError):  # logs are for broken machines, too
        state = read_state(folder)
        if stream is Stream.SERIAL and state and state.launch and state.launch.restored:
            return f"{text}: the guest came from a template and has printed nothing since"
    return text


def _follow(path: Path, lines: int, *, raw: bool, as_json: bool) -> None:
    """Let ``tail`` do it: it knows about files that are replaced."""
    words = ["tail", "-n", str(lines), "-F", "--", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        assert tail.stdout is not None
        try:
            for line in tail.stdout:
                if raw:
                    sys.stdout.buffer.write(line)
                    sys.stdout.buffer.flush()
                    continue
                text = clean_line(line.decode(errors="replace").rstrip("\r\n"))
                typer.echo(json.dumps({"schema": JSON_SCHEMA, "line": text}) if as_json else text)
        finally:
            tail.terminate()
