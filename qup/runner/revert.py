"""``qup snapshot restore``: a machine becomes again what it was.

The disks are copied from the snapshot each time, so its memory never meets a disk that has gone
on without it. A mark is left before the first change; while it is there, ``up`` begins the
restore anew.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qup import images
from qup.errors import BoxError, Interrupted, MachineError, QupError, StateError
from qup.files import clone_file, explain_os_error, sync_folder
from qup.host import boot_id
from qup.model.box import Box
from qup.model.events import Finished
from qup.model.plan import Plan
from qup.model.snapshot import MEMORY, SAVE_POINT, Snapshot
from qup.model.state import Launch, State
from qup.ownership import make_private
from qup.paths import MachineFolder, RuntimeFolder, SshFolder, runtime_folder
from qup.qemu.engine import Engine
from qup.runner import drives
from qup.runner.boxes import find_own
from qup.runner.context import Context
from qup.runner.environment import share_environment
from qup.runner.folders import bring_folders, has_folders
from qup.runner.incoming import describe_misfit, find_misfit, hardware_of, load_guest
from qup.runner.materials import find_stock, now
from qup.runner.observe import Observation, observe
from qup.runner.open_ports import OpenPorts, read_ports, remember_ports
from qup.runner.peers import share_names
from qup.runner.preflight import Itself, check_computer
from qup.runner.prepare import identity_of, make_plan
from qup.runner.ready import wait_until_ready
from qup.runner.save import require_folder, require_state
from qup.runner.snapshots import (
    CURRENT,
    RESTORING,
    check_files,
    clear_mark,
    find_snapshot,
    list_all,
    read_mark,
    remove_leftovers,
    write_mark,
)
from qup.runner.start import connect
from qup.runner.stillness import refresh
from qup.runner.stop import clean_up, stop_locked
from qup.runner.suspended import discard
from qup.runner.warm import find_base
from qup.store import lookup, remember, write_state, write_undo

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

MONITOR_TIMEOUT = 5.0
ASIDE = ".restored"


def restore(ctx: Context, config: MachineConfig, name: str, *, disk_only: bool = False) -> None:
    """Bring a machine back to a snapshot; what it is at the moment is lost.

    Args:
        ctx: the surroundings.
        config: what is asked of the machine now.
        name: the snapshot.
        disk_only: only the disks; the machine is stopped afterwards.

    Raises:
        QupError: it can't be; what could be known beforehand leaves the machine as it is.
    """
    folder = ctx.project.machine(config.name)
    require_folder(folder)
    with ctx.lock(folder):
        remove_leftovers(folder)
        seen = observe(folder)
        state = require_state(folder, seen)
        snapshot = find_snapshot(folder, name)
        if not snapshot.live and not disk_only:
            raise MachineError(
                f"machine {config.name}: snapshot {name} has no memory: it was saved of a stopped"
                " machine",
                hint="--disk-only restores its disks; 'qup up' boots from them",
                machine=config.name,
            )
        _Restoring(ctx, config, folder, state, snapshot, disk_only).run(seen)


def resume_restore(ctx: Context, config: MachineConfig, folder: MachineFolder) -> bool:
    """Finish a restore that was cut off; the caller holds the lock.

    Returns:
        Whether there was one.
    """
    mark = read_mark(folder, RESTORING)
    if mark is None:
        return False
    seen = observe(folder)
    words = mark.split()
    found = [item for item in list_all(folder) if words and item.id == words[0]]
    if not found or seen.state is None:
        clear_mark(folder, RESTORING)
        return True
    disk_only = words[1:] == ["disk-only"]
    what = "reset" if found[0].name == SAVE_POINT else f"restore of snapshot {found[0].name}"
    ctx.tell(folder.name, f"a {what} was interrupted; it is finished now")
    _Restoring(ctx, config, folder, seen.state, found[0], disk_only).run(seen)
    return True


def restore_save_point(
    ctx: Context, config: MachineConfig, folder: MachineFolder, seen: Observation, point: Snapshot
) -> None:
    """Bring a machine back to where its provisioning steps had succeeded; the caller holds the
    lock.

    Raises:
        QupError: see :func:`restore`.
    """
    state = require_state(folder, seen)
    _Restoring(ctx, config, folder, state, point, disk_only=False).run(seen)


def check_save_point(
    ctx: Context, config: MachineConfig, folder: MachineFolder, state: State, point: Snapshot
) -> None:
    """Raises QupError: what it needs is not there, or not as it was."""
    _Restoring(ctx, config, folder, state, point, disk_only=False).check_materials()


@dataclass(frozen=True)
class _Restoring:
    ctx: Context
    config: MachineConfig
    folder: MachineFolder
    state: State
    snapshot: Snapshot
    disk_only: bool

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def place(self) -> Path:
        return self.folder.snapshots / self.snapshot.id

    def run(self, seen: Observation) -> None:
        """Check all that can be, then do it."""
        began = time.monotonic()
        box = self.check_materials()
        plan = None
        if not self.disk_only:
            plan = self._plan(box, seen)
        ports = read_ports(self.folder, seen)
        way = "disk-only" if self.disk_only else "live"
        title = f"restoring {self._snapshot}"
        remember_ports(self.folder, ports)
        write_mark(self.folder, RESTORING, f"{self.snapshot.id} {way}")
        with self.ctx.phase(self.name, "disk", title) as phase:
            if seen.alive:
                stop_locked(self.ctx, self.folder, seen, force=True, timeout=0.0)
            else:
                clean_up(self.ctx, self.folder, self.state)
            discard(self.folder)
            state = self._place_disks()
            phase.result = f"{len(self.snapshot.disks)} of its disks"
        failures: list[MachineError] = []
        if plan is not None:
            failures = self._launch(plan, box, state, ports)
        clear_mark(self.folder, RESTORING)
        if self.snapshot.name != SAVE_POINT:  # then there is more to come
            data = observe(self.folder, thorough=False).to_dict()
            self.ctx.emit(Finished(self.name, "restore", True, time.monotonic() - began, data))
        if failures:
            raise MachineError(
                f"machine {self.name} runs, but {len(failures)} of its forwards could not be"
                " opened",
                details="\n".join(failure.message for failure in failures),
                hint=f"free the port and run 'qup up {self.name}'",
                machine=self.name,
            )

    @property
    def _snapshot(self) -> str:
        """What it is called in messages."""
        hidden = self.snapshot.name == SAVE_POINT
        return "its save point" if hidden else f"snapshot {self.snapshot.name}"

    # --- beforehand -----------------------------------------------------------------------

    def check_materials(self) -> Box:
        """The box, once it is sure that the files are what was saved."""
        check_files(self.folder, self.snapshot)
        was = replace(
            self.state, box_digest=self.snapshot.box_digest, template=self.snapshot.template
        )
        box = find_own(self.ctx, was)
        if box is None:
            raise BoxError(
                f"machine {self.name}: the box that {self._snapshot} is based on"
                f" ({self.snapshot.box_digest[:12]}) is no longer in the cache",
                hint=f"put it back at {self.ctx.boxes.folder(self.snapshot.box_digest)}",
                machine=self.name,
            )
        self.ctx.boxes.check(box)
        stock = find_stock(self.ctx, was.template)
        for name in self.snapshot.disks:
            main = name == self.folder.disk.name
            if main:
                images.check_overlay(self.place / name, find_base(self.ctx, box, was))
            else:
                further = Path(name).parent == Path(self.folder.disks.name)
                base = drives.find_base(stock, Path(name).stem) if further else None
                drives.check_overlay(self.place / name, base)
        return box

    def _plan(self, box: Box, seen: Observation) -> Plan:
        """The plan to go on with: the hardware has to be what it was."""
        plan = make_plan(self.ctx, self.config, identity_of(self.state), box.spec, box.digest)
        names = find_misfit(self.snapshot.hardware, hardware_of(self.ctx, plan.to_dict()))
        only_disks = (
            f"'qup snapshot restore --disk-only {self.snapshot.name} {self.name}' takes its disks"
            " alone, for a boot"
        )
        if names:
            raise MachineError(
                f"machine {self.name}: the memory of snapshot {self.snapshot.name} does not fit"
                f" any more: {describe_misfit(names)} changed since",
                hint=f"change it back; or {only_disks}",
                machine=self.name,
            )
        if self.snapshot.machine != self.state.id or lookup(self.state.id) is None:
            raise StateError(
                f"machine {self.name}: the memory of snapshot {self.snapshot.name} is that of"
                " another machine",
                hint=only_disks,
                machine=self.name,
            )
        check_computer(self.ctx, self.config, self.folder, plan, Itself(seen.pid, None))
        return plan

    # --- doing it -------------------------------------------------------------------------

    def _place_disks(self) -> State:
        """Put copies of the disks in their places; the machine is stopped."""
        try:
            for name in self.snapshot.disks:
                target = self.folder.root / name
                make_private(target.parent)
                aside = target.with_name(target.name + ASIDE)
                aside.unlink(missing_ok=True)
                clone_file(self.place / name, aside)
                os.replace(aside, target)
                sync_folder(target.parent)
        except OSError as exc:
            raise explain_os_error("write the disks of", self.folder.root, exc) from exc
        # What the guest knew of its neighbours was another time's.
        self.folder.hosts.unlink(missing_ok=True)
        state = replace(
            self.state,
            launch=None,
            template=self.snapshot.template,
            box_digest=self.snapshot.box_digest,
            provisioned=self.snapshot.provisioned,
        )
        write_state(self.folder, state)
        hidden = self.snapshot.name == SAVE_POINT
        origin = self.snapshot.parent if hidden else self.snapshot.id
        if origin:
            write_mark(self.folder, CURRENT, origin)
        else:
            clear_mark(self.folder, CURRENT)
        return state

    def _launch(self, plan: Plan, box: Box, state: State, ports: OpenPorts) -> list[MachineError]:
        """Start a QEMU that goes on with the guest; whatever keeps it from that, the machine is
        stopped then, with the snapshot's disks.
        """
        runtime = runtime_folder(state.id)
        launch = Launch(
            boot_id(), now(), plan.digest(), str(runtime.root),
            of_template=self.snapshot.of_template,
        )  # fmt: skip
        state = state.with_launch(launch)
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        write_undo(state.id, [action.undo for action in plan.actions])
        engine: Engine | None = None
        try:
            engine = load_guest(
                self.ctx, self.folder, plan, box, runtime, self.place / MEMORY,
                of_template=self.snapshot.of_template,
            )  # fmt: skip
            failures = self._connect(plan, state, engine, ports)
            engine.close()
        except BaseException as exc:
            if engine is not None:
                engine.kill()
            clean_up(self.ctx, self.folder, state)
            write_state(self.folder, state.with_launch(None))
            clear_mark(self.folder, RESTORING)
            if isinstance(exc, KeyboardInterrupt):
                raise Interrupted from None
            if isinstance(exc, QupError):
                more = f"its disks are the snapshot's now: 'qup up {self.name}' boots from them"
                exc.hint = f"{exc.hint}; {more}" if exc.hint else more
            raise
        return failures

    def _connect(
        self, plan: Plan, state: State, engine: Engine, ports: OpenPorts
    ) -> list[MachineError]:
        state, failures = connect(self.ctx, self.config, self.folder, plan, state, engine, ports)
        assert state.launch is not None
        runtime, keys = RuntimeFolder.of(state.launch.runtime), SshFolder(self.folder.ssh)
        waiting, login = self.snapshot.waiting, plan.seed_form.login
        reason = None
        if waiting:  # before it does any cryptography
            reason = refresh(keys, runtime, self.name, waiting=True, login=login)
        state = wait_until_ready(self.ctx, self.folder, plan, state, engine.events, listening=True)
        if not waiting or reason:
            reason = refresh(keys, runtime, self.name, waiting=False, login=login)
        if reason:
            text = f"its clock is that of the snapshot: {reason}"
            self.ctx.tell(self.name, text, level="warning")
        share_names(self.ctx, self.config, login=login)
        share_environment(self.ctx, self.config, login=login)
        if login and has_folders(self.folder, plan):
            bring_folders(self.ctx, self.folder, plan, state)
        return failures
