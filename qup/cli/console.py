"""``qup console``: the guest's serial console in this terminal."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from qup.cli.common import Name
from qup.cli.main import globals_of
from qup.errors import MachineError
from qup.locks import lock
from qup.paths import MachineFolder, RuntimeFolder
from qup.runner.observe import require_alive
from qup.runner.roster import read_roster

DETACH = b"\x1d"
"""Ctrl-], as telnet and virsh have it."""

QUIET = 1.0
"""Seconds without output after which the console is left, once the input has ended."""

EARLIER = 16 * 1024
"""Bytes of what was printed before that are shown first."""


def console(ctx: typer.Context, name: Name = None) -> None:
    """Attach to a machine's serial console; Ctrl-] leaves it, and the machine runs on.

    What the guest printed before is shown first. Without a terminal, standard input is sent
    to the guest, and the console is left when the input has ended and the guest is quiet.

    Example: `qup console`
    """
    project = globals_of(ctx).project()
    machine = read_roster(project).choose_one(name)
    folder = project.machine(machine)
    state = require_alive(folder)
    assert state.launch is not None
    runtime = RuntimeFolder.of(state.launch.runtime)
    with (
        lock(folder.root / "console.lock", what=f"the console of {machine}", timeout=0.0),
        _connect(runtime.console, machine) as connection,
    ):
        if sys.stdin.isatty():
            typer.echo(f"connected to {machine}; Ctrl-] leaves", err=True)
        _show_earlier(folder)
        with _raw_terminal():
            ended = _pump(connection)
    typer.echo("\r\nthe machine is off" if ended else "\r\nleft; the machine runs on", err=True)


@contextmanager
def _connect(path: Path, machine: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.fspath(path))
        except OSError as exc:
            raise MachineError(
                f"machine {machine}: its console does not answer: {exc.strerror}",
                hint="'qup status' says what it is doing",
            ) from exc
        yield connection


def _show_earlier(folder: MachineFolder) -> None:
    log = folder.log("serial")
    if log.exists():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - EARLIER))
            _write(file.read())


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pump(connection: socket.socket) -> bool:
    """Carry bytes both ways; whether the machine ended it."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        try:
            selector.register(sys.stdin, selectors.EVENT_READ)
            patience: float | None = None
        except PermissionError:  # a regular file can't be waited for: it is all there
            connection.sendall(sys.stdin.buffer.read())
            patience = QUIET
        while ready := selector.select(patience):
            for key, _ in ready:
                if key.fileobj is connection:
                    if not (data := connection.recv(65536)):
                        return True
                    _write(data)
                elif not (data := os.read(sys.stdin.fileno(), 65536)):
                    selector.unregister(sys.stdin)
                    patience = QUIET  # the guest may have an answer
                elif DETACH in data:
                    connection.sendall(data.partition(DETACH)[0])
                    return False
                else:
                    connection.sendall(data)
        return False
