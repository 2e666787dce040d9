"""Starting QEMU: sockets bound beforehand, a lock that lives as long as it does.

The sockets are bound here and handed over as descriptors, so a client can connect before
QEMU has read its first option: no polling for a file, and a QEMU that refuses its options
fails the first read at once. Everything QEMU says goes to a log; it runs in a session of its
own, so that neither Ctrl-C nor a closed terminal reaches it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qup.errors import HostError, MachineError
from qup.files import explain_os_error
from qup.model.folders import owner_for
from qup.model.plan import Plan
from qup.model.state import TapLink
from qup.namespaces import View, enter_or_explain
from qup.ownership import create_runtime
from qup.paths import MachineFolder, RuntimeFolder
from qup.process import describe_exit, end_with_parent, missing_program, quote
from qup.qemu.argv import Layout, build, netdev_name
from qup.qemu.liveness import is_locked, open_alive_lock
from qup.qemu.qmp import MonitorError, Qmp
from qup.qemu.refusals import explain_refusal
from qup.qemu.servers import Serving, connect_servers
from qup.qemu.shares import Shares, prepare_shares
from qup.qemu.tap import OpenTap, open_tap

GREETING_TIMEOUT = 20.0
"""Seconds until QEMU must have greeted; it takes 0.1 s unless the host is starved."""

SAID_LIMIT = 4000


@dataclass
class Engine:
    """A QEMU that this process has just started, the monitors it watches it with, the taps it
    was given, and what serves folders beside it.
    """

    process: subprocess.Popen[bytes]
    control: Qmp
    events: Qmp
    log: Path
    taps: tuple[TapLink, ...] = ()
    serving: Serving = field(default_factory=Serving)

    def close(self) -> None:
        """Leave the monitors to others; QEMU runs on."""
        self.control.close()
        self.events.close()

    def kill(self) -> None:
        """End QEMU for good."""
        self.close()
        _end(self.process)
        self.serving.end()

    def describe_death(self) -> str:
        """How QEMU ended, in its own words."""
        return _describe_death(self.process, self.log)


def start(
    plan: Plan,
    layout: Layout,
    folder: MachineFolder,
    runtime: RuntimeFolder,
    cwd: Path,
    *,
    mortal: bool = False,
) -> Engine:
    """Start QEMU with its guest still stopped, and connect to its monitors.

    Args:
        plan: what to start.
        layout: where its files are; the sockets are filled in here.
        folder: the machine's folder.
        runtime: where the sockets go.
        cwd: the folder QEMU runs in.
        mortal: QEMU ends when this process does, however that ends; Linux only.

    Raises:
        HostError: a tap can't be had.
        MachineError: QEMU refused, died or hung; the details are its own words.
        StateError: the machine runs already.
    """
    log = folder.log("qemu")
    with contextlib.ExitStack() as stack:
        alive = open_alive_lock(folder.alive)
        stack.callback(os.close, alive)
        create_runtime(runtime.root)
        sockets = {
            "control": stack.enter_context(_listen(runtime.control)),
            "events": stack.enter_context(_listen(runtime.events)),
            "console": stack.enter_context(_listen(runtime.console)),
        }
        if plan.guest_agent:
            sockets["agent"] = stack.enter_context(_listen(runtime.agent))
        if plan.identity_port:
            sockets["identity"] = stack.enter_context(_listen(runtime.identity))
        numbers: dict[str, Path | int] = {name: item.fileno() for name, item in sockets.items()}
        taps = {name: stack.enter_context(opened) for name, opened in _open_taps(plan)}
        fds = {name: tap.fd for name, tap in taps.items()}
        numbers["vnc"] = runtime.vnc
        shares = Shares(layout.folders)
        if not layout.folders:
            owner = owner_for(plan.seed.user)
            shares = prepare_shares(plan.folders, owner, layout.secrets, runtime, cwd)
        serving = stack.enter_context(connect_servers(layout.servers, shares.beside, runtime))
        filled = replace(
            layout, sockets={**numbers, **serving.ends}, taps=fds, folders=shares.paths
        )
        arguments = build(plan, filled)
        argv = [word for argument in arguments for word in argument.words]
        listening = [item.fileno() for item in sockets.values()]
        inherited = [alive, *listening, *fds.values(), *serving.ends.values(), *layout.inherit]
        _note_commands(log, [*serving.commands, argv])
        serving.start(log)
        process = _spawn(argv, log, cwd, inherited, mortal=mortal, view=shares.view)
    engine = _greet(process, serving, plan.identity.name, runtime, log)
    if plan.display is not None and plan.display.private:
        with contextlib.suppress(FileNotFoundError):
            runtime.vnc.chmod(0o600)
    engine.taps = tuple(tap.link for tap in taps.values())
    return engine


def _open_taps(plan: Plan) -> Iterator[tuple[str, contextlib.AbstractContextManager[OpenTap]]]:
    for index, nic in enumerate(plan.nics):
        if nic.plan.tap is not None:
            yield netdev_name(index), open_tap(nic.plan.tap, nic.mac)


@contextlib.contextmanager
def _listen(path: Path) -> Iterator[socket.socket]:
    """A listening socket that only this user can connect to."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(os.fspath(path))
            path.chmod(0o600)
        except OSError as exc:
            raise explain_os_error("make the socket", path, exc) from exc
        listener.listen(8)
        yield listener


def _note_commands(log: Path, commands: Sequence[Sequence[str]]) -> None:
    """Write down what is started; what any of it says comes after that."""
    with log.open("ab") as output:
        for words in commands:
            output.write(f"$ {quote(words)}\n".encode(errors="surrogateescape"))


def _spawn(
    argv: list[str], log: Path, cwd: Path, fds: list[int], *, mortal: bool, view: View | None
) -> subprocess.Popen[bytes]:
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                pass_fds=fds,
                start_new_session=True,
                umask=0o077,
                # No thread of ours runs at that time.
                preexec_fn=_prepare(view, mortal=mortal),  # noqa: PLW1509
            )
    except subprocess.SubprocessError as exc:
        raise HostError(
            "QEMU can't be shown the folders that the guest is to mount",
            details=read_words(log),
            hint="'type = \"tar\"' in [[machine.folders]] copies them instead",
        ) from exc
    except FileNotFoundError as exc:
        raise missing_program(argv[0]) from exc
    except OSError as exc:
        raise explain_os_error("start", Path(argv[0]), exc) from exc


def _prepare(view: View | None, *, mortal: bool) -> Callable[[], object] | None:
    """What a child does before it becomes QEMU."""
    if view is None:
        return end_with_parent(signal.SIGKILL) if mortal else None
    enter = enter_or_explain(view)
    # A process that changes what it may do is forgotten to be somebody's: that comes second.
    bind = end_with_parent(signal.SIGKILL) if mortal else lambda: None

    def prepare() -> None:
        enter()
        bind()

    return prepare


def _greet(
    process: subprocess.Popen[bytes],
    serving: Serving,
    machine: str,
    runtime: RuntimeFolder,
    log: Path,
) -> Engine:
    try:
        control = Qmp.connect(runtime.control, timeout=GREETING_TIMEOUT)
        events = Qmp.connect(runtime.events, timeout=GREETING_TIMEOUT)
    except MonitorError as exc:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        if process.poll() is None:
            _end(process)
            said = f"QEMU was started, but {exc.message}\n{read_words(log)}"
        else:
            said = _describe_death(process, log)
        serving.end()
        raise MachineError(
            f"machine {machine}: QEMU did not start",
            details=said.strip(),
            hint=explain_refusal(said) or f"the whole command line: 'qup plan --qemu {machine}'",
            machine=machine,
        ) from exc
    except BaseException:
        _end(process)
        serving.end()
        raise
    return Engine(process, control, events, log, serving=serving)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def _describe_death(process: subprocess.Popen[bytes], log: Path) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    words = read_words(log)
    code = process.returncode
    if code is None:
        return words
    return f"{words}\n({describe_exit(code)})" if words else describe_exit(code)


def read_words(log: Path) -> str:
    """What QEMU said since its newest start, without the command line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 256 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    newest = lines[starts[-1] + 1 :] if starts else lines
    return "\n".join(newest)[-SAID_LIMIT:].strip()


def is_alive(folder: MachineFolder) -> bool:
    """Whether a QEMU of this machine lives: it holds the lock it was born with."""
    return is_locked(folder.alive)
