"""QEMUs of ours whose machine is gone: somebody removed ``.qup`` while it ran."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from qup.errors import QupError
from qup.paths import MachineFolder, Project, RuntimeFolder, runtime_root
from qup.qemu.liveness import find_by_uuid, signal_process, wait_gone
from qup.qemu.qmp import MonitorError, Qmp
from qup.store import forget, lookup, machine_names, read_state

MONITOR_TIMEOUT = 2.0


@dataclass(frozen=True)
class Orphan:
    """A running QEMU that no project knows."""

    machine_id: str
    pid: int
    uuid: str
    runtime: RuntimeFolder


def find_orphans() -> list[Orphan]:
    """Look through the sockets of this user's machines for those without a machine."""
    try:
        folders = [path for path in runtime_root().iterdir() if path.is_dir()]
    except OSError:
        return []
    found = (_examine(RuntimeFolder(path)) for path in folders if not _has_machine(path))
    return [orphan for orphan in found if orphan is not None and not _was_moved(orphan)]


def _was_moved(orphan: Orphan) -> bool:
    """Whether its project was moved while it ran: QEMU's working folder moved along."""
    try:
        project = Project(Path(os.readlink(f"/proc/{orphan.pid}/cwd")))
    except OSError:
        return False
    return any(_is(project.machine(name), orphan.machine_id) for name in machine_names(project))


def _has_machine(path: Path) -> bool:
    """By the link to its ssh folder, which is right even when the index was lost or stale."""
    folder = _linked_machine(RuntimeFolder(path))
    return folder is not None and _is(folder, path.name)


def _is(folder: MachineFolder, machine_id: str) -> bool:
    try:
        state = read_state(folder)
    except QupError:
        return True  # damaged, but there: destroy deals with it
    return state is not None and state.id == machine_id


def _linked_machine(runtime: RuntimeFolder) -> MachineFolder | None:
    try:
        return MachineFolder(Path(os.readlink(runtime.ssh)).parent)
    except OSError:
        entry = lookup(runtime.root.name)
        return Project(entry.project).machine(entry.name) if entry else None


def _examine(runtime: RuntimeFolder) -> Orphan | None:
    try:
        with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
            answer = monitor.execute("query-uuid", timeout=MONITOR_TIMEOUT)
    except MonitorError:
        return None
    uuid = str(answer["UUID"])
    pid = find_by_uuid(uuid)
    return Orphan(runtime.root.name, pid, uuid, runtime) if pid is not None else None


def end_orphan(orphan: Orphan) -> None:
    """Power it down by QMP, and by signals if that doesn't help."""
    try:
        with Qmp.connect(orphan.runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
            monitor.execute("quit", timeout=MONITOR_TIMEOUT)
    except MonitorError:
        signal_process(orphan.pid, orphan.uuid, signal.SIGTERM)
    if not wait_gone(orphan.pid, 5.0):
        signal_process(orphan.pid, orphan.uuid, signal.SIGKILL)
        wait_gone(orphan.pid, 5.0)
    orphan.runtime.remove()
    forget(orphan.machine_id)
