"""``qup suspend``: a guest's memory goes to disk, and its QEMU ends.

Killed before the memory is published, the machine runs on with the next ``up``; after that it is
suspended. See :mod:`qup.runner.suspended`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qup.errors import HostError, MachineError
from qup.model.events import Finished
from qup.model.state import Launch, State
from qup.model.suspension import Suspension
from qup.model.units import MIB, format_size
from qup.paths import MachineFolder, Project, RuntimeFolder, SshFolder
from qup.qemu.migration import MigrationError, let_go_on, save_state
from qup.qemu.qmp import MonitorError, Qmp
from qup.runner.context import Context
from qup.runner.drives import find_image
from qup.runner.folders import attach, detach, refuse_shared_memory
from qup.runner.incoming import hardware_of
from qup.runner.materials import aside, now
from qup.runner.observe import BROKEN, RUNNING, STARTING, SUSPENDED, Observation, observe
from qup.runner.open_ports import OpenPorts, read_ports
from qup.runner.save import SAVE_SPEED, SAVE_TIMEOUT, SPARE, find_disks, refuse_while_restoring
from qup.runner.snapshots import DRAFT, read_mark
from qup.runner.stillness import catch_up, catch_up_waiting, make_wait, note_late
from qup.runner.stop import clean_up, stop_locked
from qup.runner.stored_plan import read_plan
from qup.runner.suspended import (
    digest_file,
    discard,
    flush_file,
    is_suspended,
    look_at_disks,
    open_draft,
    publish,
)
from qup.store import is_copy, read_state

MONITOR_TIMEOUT = 5.0
STANDS_STILL = ("saved", "paused", "restoring", STARTING)
"""What a QEMU is in whose guest has not run since its memory was published."""


def suspend(ctx: Context, folder: MachineFolder) -> bool:
    """Write a machine's memory to disk and end its QEMU.

    Returns:
        Whether it ran.

    Raises:
        MachineError: it can't be suspended as it is now; it runs on.
        HostError: no space left; it runs on.
        StateError: it is locked, or its state is damaged.
    """
    if not folder.root.is_dir():
        return False
    began = time.monotonic()
    with ctx.lock(folder):
        seen = observe(folder)
        if seen.status == BROKEN:
            read_state(folder)  # raises, with the hint
        if seen.state is None or is_copy(seen.state, folder):
            return False
        if not seen.alive:
            if seen.status == SUSPENDED:  # an earlier one may have been killed at the very end
                clean_up(ctx, folder, seen.state)
            return False
        if not (is_suspended(folder) and seen.status in STANDS_STILL):
            refuse_while_restoring(folder)
            _check_status(folder, seen)
            discard(folder)
            _Suspending(ctx, folder, seen.state, read_plan(folder)).run(seen)
        stop_locked(ctx, folder, observe(folder, thorough=False), force=True, timeout=0.0)
        ctx.emit(Finished(folder.name, "suspend", True, time.monotonic() - began))
    return True


def _check_status(folder: MachineFolder, seen: Observation) -> None:
    launch = seen.state.launch if seen.state else None
    assert launch is not None
    runs = seen.status == RUNNING or (seen.status == STARTING and not launch.login)
    if runs and seen.let_go and read_mark(folder, DRAFT) is None:
        return
    raise MachineError(
        f"machine {seen.name} can't be suspended, it is {seen.status}"
        + (f": {seen.detail}" if seen.detail else ""),
        hint=f"'qup up {seen.name}' first; or 'qup down {seen.name}'",
        machine=seen.name,
    )


@dataclass(frozen=True)
class _Suspending:
    ctx: Context
    folder: MachineFolder
    state: State
    plan: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def launch(self) -> Launch:
        assert self.state.launch is not None
        return self.state.launch

    @property
    def runtime(self) -> RuntimeFolder:
        return RuntimeFolder.of(self.launch.runtime)

    def run(self, seen: Observation) -> None:
        """Write the memory; the guest stands still then, and QEMU lives."""
        if not self.plan:
            raise MachineError(
                f"machine {self.name}: qup no longer knows how it was started:"
                f" {self.folder.plan} can't be read",
                hint=f"'qup reload {self.name}' restarts it",
                machine=self.name,
            )
        refuse_shared_memory(self.name, self.plan)
        self._check_space(int(self.plan["memory_mib"]) * MIB)
        hardware = hardware_of(self.ctx, self.plan)
        with (
            self._without_folders(),
            self.ctx.phase(self.name, "suspend", "writing its memory") as phase,
        ):
            waiting = bool(hardware["identity_port"]) and self._make_wait()
            ports = read_ports(self.folder, seen)
            file = open_draft(self.folder)
            note_late(self.folder, waiting=waiting)
            try:
                with (
                    Qmp.connect(self.runtime.control, timeout=MONITOR_TIMEOUT) as monitor,
                    self._running_on_failure(monitor),
                ):
                    size = self._save(monitor, file, hardware, ports, waiting=waiting)
            except MigrationError as exc:
                raise self._explain(exc) from exc
            phase.result = format_size(size)

    @contextmanager
    def _without_folders(self) -> Iterator[None]:
        """Have nothing mounted in the guest; what was is mounted again if the guest runs on."""
        if self.launch.ready:
            detach(self.ctx, self.folder, self.state, self.plan)
        try:
            yield
        except BaseException:
            if self.launch.ready and observe(self.folder).status == RUNNING:
                attach(self.ctx, self.folder, self.state, self.plan)
            raise

    def _make_wait(self) -> bool:
        if not self.launch.login:
            return False
        reason = make_wait(SshFolder(self.folder.ssh), self.name)
        if reason:
            self.ctx.note(self.name, f"the guest can't be made to wait: {reason}")
        return reason is None

    def _check_space(self, memory: int) -> None:
        free = shutil.disk_usage(self.folder.root).free
        if free < memory + SPARE:
            raise HostError(
                f"machine {self.name}: its memory may take {format_size(memory)}, and"
                f" {format_size(free)} are free; it runs on",
                hint=f"free some space on the file system of {self.folder.root}",
                machine=self.name,
            )

    def _save(
        self, monitor: Qmp, file: Path, hardware: dict[str, Any], ports: OpenPorts, *, waiting: bool
    ) -> int:
        """Stop the guest, write its memory and publish it; returns the bytes that it takes."""
        began = time.monotonic()
        timeout = SAVE_TIMEOUT + int(self.plan["memory_mib"]) * MIB / SAVE_SPEED
        save_state(monitor, file, timeout=timeout, whole=True)
        with aside(lambda: digest_file(file)) as digest:
            flush_file(file)
        size = file.stat().st_size
        found = Suspension(
            machine=self.state.id,
            created=now(),
            size=size,
            sha256=digest(),
            hardware=hardware,
            disks=look_at_disks(find_files(self.folder, self.plan)),
            waiting=waiting,
            of_template=self.launch.templated,
            ssh_port=ports.ssh if not self.launch.ssh_source else None,
            forwards=ports.rows(),
            pause=round(time.monotonic() - began, 3),
        )
        publish(self.folder, found)
        return size

    @contextmanager
    def _running_on_failure(self, monitor: Qmp) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._go_on(monitor)
            raise

    def _go_on(self, monitor: Qmp) -> None:
        """Let the guest run again, whose memory then is of no use on disk."""
        with contextlib.suppress(HostError):
            discard(self.folder)
        if is_suspended(self.folder):
            return  # it stands still until that can be removed
        with contextlib.suppress(MonitorError):
            let_go_on(monitor)
            catch_up_waiting(self.ctx, self.folder, self.runtime)
            catch_up(self.ctx, self.folder, login=self.launch.login)

    def _explain(self, exc: MigrationError) -> MachineError:
        runs = observe(self.folder).status == RUNNING
        return MachineError(
            f"machine {self.name} could not be suspended: {exc.message}"
            + ("; it runs on" if runs else ""),
            hint=f"'df -h {self.folder.root}' shows whether there is room for its memory",
            machine=self.name,
        )


def find_files(folder: MachineFolder, plan: Mapping[str, Any]) -> dict[str, Path]:
    """The files whose content a machine's guest remembers, by their names in a suspension.

    Among them are the user's images that are only read: a file system of theirs is in its memory.
    """
    files = {name: folder.root / name for name in find_disks(folder, plan)}
    for disk in plan.get("disks", ()):
        if disk.get("image"):
            files[str(disk["image"])] = find_image(Project(folder.project), disk["image"])
    return files
