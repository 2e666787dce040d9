"""What a machine is doing: asked of the kernel and of QEMU each time, never remembered.

``qup status`` is this module and little else: nothing slow is imported here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qup.errors import MachineError, QupError
from qup.model.runstate import Way, explain_run_state
from qup.model.state import Launch, State
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.liveness import find_by_uuid, holder, is_locked, is_machine
from qup.qemu.qmp import MonitorError, Qmp
from qup.runner.links import find_silence, find_trouble
from qup.store import read_state

MONITOR_TIMEOUT = 1.0
LOG_TAIL = 4096

NOT_CREATED = "not-created"
STARTING = "starting"
RUNNING = "running"
STOPPED = "stopped"
SUSPENDED = "suspended"
CRASHED = "crashed"
UNRESPONSIVE = "unresponsive"
BROKEN = "broken"

_UNTOLD = ("state", "way")


@dataclass(frozen=True)
class Observation:
    """What a machine is doing at this moment.

    Attributes:
        name: the machine.
        status: one word; see ``docs/reference/status.md``.
        detail: more about it, for people.
        pid: QEMU's process id if it lives.
        ready: ssh has answered since the newest start.
        state: what qup remembers, if it can be read.
        way: how ``up`` gets a machine running whose QEMU lives.
    """

    name: str
    status: str
    detail: str | None = None
    pid: int | None = None
    ready: bool = False
    state: State | None = None
    way: Way = Way.NONE

    @property
    def alive(self) -> bool:
        """Whether there is a QEMU."""
        return self.status not in (NOT_CREATED, STOPPED, SUSPENDED, CRASHED, BROKEN)

    @property
    def let_go(self) -> bool:
        """Whether a start got as far as letting its guest run: only then ssh's port is known."""
        launch = self.state.launch if self.state else None
        return launch is not None and launch.ssh_port is not None

    def to_dict(self) -> dict[str, Any]:
        """As ``qup status --json`` prints it."""
        data = {key: value for key, value in asdict(self).items() if key not in _UNTOLD}
        launch = self.state.launch if self.state else None
        data["id"] = self.state.id if self.state else None
        data["box"] = self.state.box if self.state else None
        data["ssh"] = (
            {
                "address": launch.ssh_address,
                "port": launch.ssh_port,
                "user": self.state.user,
                "source": launch.ssh_source,
            }
            if self.state and launch and self.alive and launch.ssh_address
            else None
        )
        return data


def observe(folder: MachineFolder, *, thorough: bool = True) -> Observation:
    """Look at a machine without changing anything and without waiting for its lock.

    Args:
        folder: the machine's folder.
        thorough: also ask QEMU; otherwise only whether it lives.
    """
    name = folder.name
    try:
        state = read_state(folder)
    except QupError as exc:
        return Observation(name, BROKEN, exc.message, pid=holder(folder.pidfile))
    if state is None:
        return Observation(name, NOT_CREATED)
    if not is_locked(folder.alive):
        return _observe_dead(folder, state)
    seen = Observation(name, RUNNING, pid=find_pid(folder, state), state=state)
    seen = replace(seen, ready=bool(state.launch and state.launch.ready))
    return _ask(folder, seen) if thorough and state.launch else seen


def find_pid(folder: MachineFolder, state: State) -> int | None:
    """The process of a living QEMU: by its own lock, or else by its command line."""
    pid = holder(folder.pidfile)
    if pid is not None and is_machine(pid, state.uuid):
        return pid
    return find_by_uuid(state.uuid)


def _observe_dead(folder: MachineFolder, state: State) -> Observation:
    """QEMU removes its pidfile when it ends by itself; what kills it leaves the file."""
    if folder.suspended.is_dir():
        detail = f"'qup resume {folder.name}' continues it"
        return Observation(folder.name, SUSPENDED, detail, state=state)
    if state.launch is None:
        return Observation(folder.name, STOPPED, state=state)
    if state.project != str(folder.project):
        detail = f"the project was copied or moved from {state.project}"
        return Observation(folder.name, STOPPED, detail, state=state)
    if folder.pidfile.exists():
        detail = "QEMU died without a word: it was killed, or the host went down"
        return Observation(folder.name, CRASHED, detail, state=state)
    words = _last_words(folder.log("qemu"))
    detail = words if words.startswith("QEMU was ended by") else "the guest powered off by itself"
    return Observation(folder.name, STOPPED, detail, state=state)


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = lines[-1] if lines and not lines[-1].startswith("$ ") else ""
    if "terminating on signal" in said:
        return "QEMU was ended by " + said.partition("terminating on ")[2]
    return said


def _ask(folder: MachineFolder, seen: Observation) -> Observation:
    assert seen.state is not None
    assert seen.state.launch is not None
    runtime = RuntimeFolder.of(seen.state.launch.runtime)
    try:
        with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
            answer = monitor.execute("query-status", timeout=MONITOR_TIMEOUT)
    except MonitorError as exc:
        if not is_locked(folder.alive):  # it ended just now
            return _observe_dead(folder, seen.state)
        return replace(seen, status=UNRESPONSIVE, detail=exc.message, way=Way.REFUSE)
    state = explain_run_state(str(answer["status"]))
    detail = state.detail
    if state.word == RUNNING and not seen.ready:
        if is_locked(folder.lock):
            return replace(seen, status=STARTING)
        detail = "ssh has not answered yet; 'qup up' waits for it"
        if not seen.state.launch.login:
            detail = "qup has no key in this guest: 'qup console', 'qup view'"
    if state.word == RUNNING:
        detail = _look_at_cables(seen.state.launch, ready=seen.ready) or detail
    return replace(seen, status=state.word, detail=detail, way=state.way)


def _look_at_cables(launch: Launch, *, ready: bool) -> str | None:
    trouble = find_trouble(launch)
    if trouble is None and ready and (silence := find_silence(launch)):
        return f"{silence}; 'qup up' looks for it"
    return trouble


def require_alive(folder: MachineFolder) -> State:
    """The state of a machine that must be running.

    Raises:
        MachineError: it isn't.
    """
    seen = observe(folder, thorough=False)
    if seen.status == BROKEN:
        read_state(folder)  # raises, with the hint
    if not seen.alive or seen.state is None or seen.state.launch is None:
        way = "resume" if seen.status == SUSPENDED else "up"
        raise MachineError(
            f"machine {folder.name} is not running ({seen.status})",
            hint=f"'qup {way} {folder.name}' {'continues it' if way == 'resume' else 'starts it'}",
            machine=folder.name,
        )
    return seen.state
