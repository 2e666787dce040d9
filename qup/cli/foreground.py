"""``qup up --nographic``: a machine is started with its console in this terminal.

The start goes on in the main thread, where signals arrive, while another one carries the
console's bytes. What qup has to say meanwhile waits where it would end up among them.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from qup.cli.console import End, carry, open_console, raw_terminal, show_earlier
from qup.errors import Interrupted, QupError
from qup.paths import MachineFolder
from qup.runner.foreground import (
    check_standstill,
    ended_well,
    find_console,
    is_running,
    settle_end,
)
from qup.ui import HeldBack

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from qup.runner.context import Context
    from qup.runner.work import UpOptions

LOOK = 2.0
"""Seconds between two looks whether a machine that nobody has a hand on stands still."""
HANGUP_EXIT_CODE = 128 + signal.SIGHUP


class Front:
    """A console that is shown by a thread of its own."""

    def __init__(self, folder: MachineFolder, show: HeldBack) -> None:
        """Prepare for a machine; nothing is shown until :meth:`attach`."""
        self.folder = folder
        self.terminal = sys.stdin.isatty()
        self.end: End | None = None
        self._show = show
        self._stack = ExitStack()
        self._terminal = ExitStack()
        self._thread: Thread | None = None
        self._failure: BaseException | None = None
        self._wake, self._waker = os.pipe()

    @property
    def attached(self) -> bool:
        """Whether the console was shown at all."""
        return self._thread is not None

    def attach(self, path: Path) -> None:
        """Connect to the console, give it the terminal, and let the thread work."""
        connection = self._stack.enter_context(open_console(self.folder, path))
        if self.terminal:
            text = f"{self.folder.name}: its console; Ctrl-] leaves it, and the machine runs on"
            self._show.pause()
            typer.echo(text, err=True)
        self._show.hold()
        show_earlier(self.folder)
        self._terminal.enter_context(raw_terminal())
        self._thread = Thread(target=self._work, args=(connection,), daemon=True)
        self._thread.start()

    def _work(self, connection: socket.socket) -> None:
        try:
            self.end = carry(connection, stay=True, wake=self._wake)
        except BaseException as exc:
            self._failure = exc
        finally:
            self.give_back()
            if self.end is End.LEFT:
                typer.echo("\r\nleft; the machine runs on: 'qup console' comes back", err=True)
            elif self.terminal:
                typer.echo("", err=True)  # what follows begins a line
            self._show.release()

    def give_back(self) -> None:
        """Make the terminal what it was."""
        with suppress(OSError):  # it may be gone
            self._terminal.close()

    def wait(self) -> None:
        """Wait until the console isn't shown any more.

        Raises:
            MachineError: nobody is at a terminal, and the machine stands still for good.
        """
        assert self._thread is not None
        while self._thread.is_alive():
            self._thread.join(None if self.terminal else LOOK)
            if self._thread.is_alive():
                check_standstill(self.folder)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the thread, if it works, and leave the console to others."""
        os.write(self._waker, b"x")
        if self._thread is not None:
            self._thread.join()
        self._stack.close()
        os.close(self._wake)
        os.close(self._waker)


def start_in_front(
    context: Context,
    folder: MachineFolder,
    options: UpOptions,
    start: Callable[[UpOptions], None],
    show: HeldBack,
) -> bool:
    """Start a machine, show its console until it ends or is left, and clean up after it.

    Whoever ends this program by SIGTERM, or by Ctrl-C where that isn't the guest's, ends the
    machine as ``qup down`` does. A terminal that hangs up leaves it running.

    Args:
        context: the surroundings.
        folder: the machine's folder.
        options: of ``up``.
        start: starts the machine with the options it is given.
        show: what the listener of ``context`` is.

    Returns:
        Whether the machine runs on.

    Raises:
        QupError: the start failed, or the machine did not end by itself.
    """
    front = Front(folder, show)
    before = signal.signal(signal.SIGHUP, lambda *frame: _hang_up(front, *frame))
    try:
        problem = _start(front, options, start)
        if not front.attached:  # it came up by a way that boots nothing
            front.attach(find_console(folder))
        front.wait()
        if front.end is End.OFF:
            settle_end(context, folder)
        if problem is not None:
            raise problem
    except (KeyboardInterrupt, Interrupted):
        front.close()
        _stop(context, folder)
        raise Interrupted from None
    except BaseException as exc:
        front.close()
        if isinstance(exc, QupError):
            context.note(folder.name, f"error: {exc.message}\n{exc.details or ''}".strip())
        raise
    else:
        front.close()
    finally:
        signal.signal(signal.SIGHUP, before)
    return front.end is not End.OFF


def _start(front: Front, options: UpOptions, start: Callable[[UpOptions], None]) -> QupError | None:
    """Start it; a failure that leaves somebody at a console that works waits until the end."""
    try:
        start(replace(options, attach=front.attach))
    except Interrupted:
        raise
    except QupError as exc:
        if ended_well(front.folder, exc):
            return None
        if not (front.attached and front.terminal and is_running(front.folder)):
            raise
        return exc
    return None


def _stop(context: Context, folder: MachineFolder) -> None:
    from qup.runner.stop import down

    if is_running(folder):
        down(context, folder)


def _hang_up(front: Front, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    front.give_back()
    os._exit(HANGUP_EXIT_CODE)
