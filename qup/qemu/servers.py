"""Programs that serve folders beside QEMU, over vhost-user.

Each serves one connection, which is there before the program is: a socket listens, QEMU's end is
connected to it, and its name is removed again. QEMU inherits the one, the program the other. When
QEMU ends, however it does, or qup before there is a QEMU, the kernel closes the connection, and
the program ends by itself. So there is nothing to undo, and nobody else can connect.

It writes to QEMU's log, after the lines with the commands: what it says when it refuses is quoted
with QEMU's own words.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qup.errors import HostError
from qup.files import explain_os_error
from qup.model.folders import Server
from qup.namespaces import View, enter_or_explain
from qup.paths import RuntimeFolder
from qup.process import missing_program
from qup.qemu.qmp import Qmp

END_TIMEOUT = 5.0
"""Seconds that it may take to end when its connection is closed."""
QUESTION_TIMEOUT = 5.0
LOST = "disconnected:"
"""How QEMU's ``query-chardev`` begins the name of a socket whose other end is gone."""


@dataclass
class Serving:
    """Programs that serve folders for one start, which is this process's.

    Attributes:
        pending: what is to be started: its words, its view, and the socket that it serves.
        ends: the number of QEMU's end of each connection, by the folder's id.
        processes: the programs that were started.
    """

    pending: list[tuple[tuple[str, ...], View, socket.socket]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def commands(self) -> list[tuple[str, ...]]:
        return [words for words, _, _ in self.pending]

    def start(self, log: Path) -> None:
        """Start them.

        Raises:
            HostError: one can't be started.
        """
        for words, view, listener in self.pending:
            self.processes.append(_start(words, view, listener, log))

    def end(self) -> None:
        """Have them end. QEMU is gone, and all its ends of the connections are closed."""
        for process in self.processes:
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def connect_servers(
    servers: Mapping[str, Server], views: Mapping[str, View], runtime: RuntimeFolder
) -> Iterator[Serving]:
    """Make the connections; our copies of them are closed at the end of the body, in which both
    sides are started. If it fails, what was started has ended.

    Args:
        servers: the programs, by the folder's id.
        views: what each is to see.
        runtime: where the socket is for a moment.

    Raises:
        HostError: a connection can't be made.
    """
    serving = Serving()
    try:
        with contextlib.ExitStack() as stack:
            for name, view in views.items():
                server = servers[name]
                listener, near = _connect(runtime.server)
                stack.enter_context(listener)
                stack.enter_context(near)
                own = replace(view, privileged=server.privileged)
                serving.pending.append((server.words, own, listener))
                serving.ends[name] = near.fileno()
            yield serving
    except BaseException:
        serving.end()
        raise


def _connect(path: Path) -> tuple[socket.socket, socket.socket]:
    """A listening socket, and one that is connected to it; nobody finds it any more."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener, near = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        listener.listen(1)
        near.connect(os.fspath(path))
        path.unlink()
    except OSError as exc:
        listener.close()
        near.close()
        raise explain_os_error("make the socket", path, exc) from exc
    return listener, near


def _start(
    words: Sequence[str], view: View, listener: socket.socket, log: Path
) -> subprocess.Popen[bytes]:
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                words,
                stdin=listener.fileno(),
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
                # No thread of ours runs at that time.
                preexec_fn=enter_or_explain(view),  # noqa: PLW1509
            )
    except subprocess.SubprocessError as exc:
        raise HostError(
            f"{words[0]} can't be shown the folder that the guest is to mount",
            hint="'type = \"tar\"' in [[machine.folders]] copies it instead",
        ) from exc
    except FileNotFoundError as exc:
        raise missing_program(words[0]) from exc
    except OSError as exc:
        raise explain_os_error("start", Path(words[0]), exc) from exc


def find_lost(runtime: RuntimeFolder, folders: Sequence[str]) -> list[str]:
    """Which of the folders that are served beside QEMU are served no more, by their ids.

    Raises:
        MonitorError: QEMU doesn't answer.
    """
    with Qmp.connect(runtime.control, timeout=QUESTION_TIMEOUT) as monitor:
        answer = monitor.execute("query-chardev", timeout=QUESTION_TIMEOUT)
    names = {str(item["label"]): str(item["filename"]) for item in answer}
    return [name for name in folders if names.get(name, LOST).startswith(LOST)]
