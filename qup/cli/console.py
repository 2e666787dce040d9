"""The guest's serial console in this terminal, for ``qup console`` and ``qup up --nographic``."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
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

SOBER = b"\x1b[?7h\x1b[?25h\x1b[0m"
"""Long lines wrap, the cursor shows, no colour: a PC's firmware turns the first off, and a guest
that was left in the middle of something the others (ECMA-48, DEC's private modes)."""

EARLIER = 16 * 1024
"""Bytes of what was printed before that are shown first."""

_CHUNK = 65536


class End(Enum):
    """Why a console is not shown any more."""

    OFF = "the machine ended"
    LEFT = "the user left it, or had nothing more to say"
    STOPPED = "this program ends it"


def console(ctx: typer.Context, name: Name = None) -> None:
    """Attach to a machine's serial console; Ctrl-] leaves it, and the machine keeps running.

    What the guest has printed so far is shown first. Without a terminal, standard input is sent
    to the guest, and the command ends once the input has ended and the guest is quiet.

    Example: `qup console`
    """
    project = globals_of(ctx).project()
    machine = read_roster(project).choose_one(name)
    folder = project.machine(machine)
    state = require_alive(folder)
    assert state.launch is not None
    runtime = RuntimeFolder.of(state.launch.runtime)
    with open_console(folder, runtime.console) as connection:
        if sys.stdin.isatty():
            typer.echo(f"connected to {machine}; Ctrl-] leaves", err=True)
        show_earlier(folder)
        with raw_terminal():
            end = carry(connection)
    off = end is End.OFF
    typer.echo("\r\nthe machine is off" if off else "\r\nleft; the machine runs on", err=True)


@contextmanager
def open_console(folder: MachineFolder, path: Path) -> Iterator[socket.socket]:
    """A connection to a console that nobody else has.

    Raises:
        StateError: somebody has it; says who.
        MachineError: it doesn't answer.
    """
    with (
        lock(folder.root / "console.lock", what=f"the console of {folder.name}", timeout=0.0),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        try:
            connection.connect(os.fspath(path))
        except OSError as exc:
            raise MachineError(
                f"machine {folder.name}: its console does not answer: {exc.strerror}",
                hint="'qup status' says what it is doing",
            ) from exc
        yield connection


def show_earlier(folder: MachineFolder) -> None:
    """Show the last of what the guest printed since its start."""
    log = folder.log("serial")
    if log.exists():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - EARLIER))
            _write(file.read())


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed already is for the guest
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        if sys.stdout.isatty():
            _write(SOBER)


def carry(connection: socket.socket, *, stay: bool = False, wake: int | None = None) -> End:
    """Carry bytes both ways until one side has had enough.

    What the guest doesn't take yet waits, and no more is read: its output is never held up by
    that.

    Args:
        connection: to the console.
        stay: go on when the input has ended.
        wake: a descriptor; once it can be read this ends.
    """
    connection.setblocking(False)
    keys = sys.stdin.fileno()
    pending, more, leaving = b"", True, False
    while True:
        sources: list[socket.socket | int] = [connection]
        sources += [wake] if wake is not None else []
        sources += [keys] if more and not pending else []
        done = not more and not pending and not stay
        ready, room, _ = select.select(
            sources, [connection] if pending else [], [], QUIET if done else None
        )
        if wake in ready:
            return End.STOPPED
        if not ready and not room:
            return End.LEFT  # the guest had time for an answer
        if connection in ready:
            data = _receive(connection)
            if data == b"":
                return End.OFF
            _write(data)
        if room:
            pending = pending[_send(connection, pending) :]
        if keys in ready:
            typed = _read_keys(keys)
            pending, leave, _ = typed.partition(DETACH)
            leaving, more = bool(leave), bool(typed)
            if not typed and sys.stdin.isatty():
                return End.LEFT  # nobody is at the terminal any more
        if leaving and not pending:
            return End.LEFT


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_CHUNK)
    except ConnectionResetError:
        return b""


def _send(connection: socket.socket, data: bytes) -> int:
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)  # it has ended, which the other direction tells


def _read_keys(keys: int) -> bytes:
    try:
        return os.read(keys, _CHUNK)
    except OSError:  # a terminal that is gone
        return b""
