"""``qup reset``: a machine as it was after the last ``up`` that provisioned it.

There are three ways, the first that is there is taken: its save point, if its steps ran in itself;
the template that it is restored from, with its steps or without; a new disk and a boot. What
the Qupfile says now counts: if it has changed since, the machine is made anew by it. Whatever
way it is, the machine keeps its id, its keys, its addresses and its ports.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qup.errors import Interrupted, QupError
from qup.model.events import Finished
from qup.model.snapshot import Snapshot
from qup.model.state import State
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.incoming import describe_misfit, find_misfit, hardware_of
from qup.runner.observe import observe
from qup.runner.open_ports import read_ports
from qup.runner.provision import ALWAYS, BEFORE, DURING
from qup.runner.revert import check_save_point, restore_save_point
from qup.runner.running import Running
from qup.runner.save import require_folder, require_state
from qup.runner.save_point import describe_steps, drop_save_point, find_save_point
from qup.runner.snapshots import RESTORING, clear_mark, remove_leftovers
from qup.runner.start import Starting
from qup.runner.stop import stop_locked
from qup.runner.stopwatch import Stopwatch
from qup.runner.work import UpOptions
from qup.store import read_state

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


def reset(ctx: Context, config: MachineConfig, options: UpOptions) -> None:
    """Bring a machine back, running or not; what it is at the moment is lost.

    Raises:
        MachineError: it was never up.
        QupError: see :func:`qup.runner.up.up`. What could be known beforehand leaves the machine
            as it is.
    """
    began = time.monotonic()
    ctx.watch = Stopwatch(ctx.prelude)
    folder = ctx.project.machine(config.name)
    require_folder(folder)
    with ctx.lock(folder):
        state = require_state(folder, observe(folder, thorough=False))
        work = _Resetting(ctx, config, options, folder, state)
        if not work.go_back():
            work.make_anew()
        data = observe(folder, thorough=False).to_dict()
        ctx.emit(Finished(config.name, "reset", True, time.monotonic() - began, data))


@dataclass(frozen=True)
class _Resetting:
    ctx: Context
    config: MachineConfig
    options: UpOptions
    folder: MachineFolder
    state: State

    def make_anew(self) -> None:
        """Give it a new disk and start it, as its first ``up`` did."""
        seen = observe(self.folder)
        options = replace(self.options, anew=True)
        ports = read_ports(self.folder, seen)
        work = Starting(self.ctx, self.config, options, self.folder, ports)
        work.check()
        clear_mark(self.folder, RESTORING)
        stop_locked(self.ctx, self.folder, seen, force=True, timeout=0.0)
        work.start(observe(self.folder))

    def go_back(self) -> bool:
        """Restore its save point; whether it has one that is of use."""
        point = find_save_point(self.folder, self.state)
        if point is None or self.options.cold:
            return False
        work = Running(self.ctx, self.config, self.options, self.folder)
        plan, _ = work.plan_again(self.state)
        changed = find_misfit(point.hardware, hardware_of(self.ctx, plan.to_dict()))
        what = [describe_misfit(changed)] if changed else []
        if describe_steps(plan) != point.steps:
            what.append("its provisioning steps")
        if what:
            self.ctx.tell(
                self.config.name, f"{', '.join(what)} changed since its last 'up': made anew"
            )
            return False
        remove_leftovers(self.folder)
        each_time = [n for n, step in enumerate(plan.provision, 1) if step.run == ALWAYS]
        work.provision(plan, self.state, BEFORE, each_time)
        if not self._restore(point):
            return False
        state = read_state(self.folder)
        assert state is not None
        work.provision(plan, state, DURING, each_time)
        return True

    def _restore(self, point: Snapshot) -> bool:
        """Whether the machine came back."""
        checked = False
        try:
            check_save_point(self.ctx, self.config, self.folder, self.state, point)
            checked = True
            restore_save_point(self.ctx, self.config, self.folder, observe(self.folder), point)
        except Interrupted:
            raise
        except QupError as exc:
            if checked and observe(self.folder, thorough=False).alive:
                raise
            self.ctx.tell(
                self.config.name,
                f"its save point can't be restored, it is made anew: {exc.message}",
                level="warning",
            )
            drop_save_point(self.folder)
            return False
        return True
