"""``qup up``: from a configuration to a guest that answers ssh.

Every step can be done again: an ``up`` that was interrupted, killed or failed is finished by
the next one.
"""

from __future__ import annotations

import importlib
import shutil
import time
from typing import TYPE_CHECKING

from qup.model.events import Finished
from qup.model.runstate import Way
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.observe import BROKEN, SUSPENDED, Observation, observe, require_alive
from qup.runner.open_ports import NO_PORTS, read_ports
from qup.runner.resume import Resuming
from qup.runner.revert import resume_restore
from qup.runner.running import Running
from qup.runner.save import finish_saving
from qup.runner.snapshots import DRAFT, read_mark
from qup.runner.start import Starting, forget_unfinished
from qup.runner.stop import stop_locked
from qup.runner.stopwatch import Stopwatch
from qup.runner.suspended import discard
from qup.runner.work import UpOptions
from qup.store import create_folders, ensure_project_id, is_copy, read_state

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


LATE = ("cryptography.hazmat.primitives.serialization", "pycdlib")
"""What makes keys and seeds. It is imported where that is done, as most starts need none."""


def share_imports() -> None:
    """Import before workers are forked what each of them would import for itself."""
    for name in LATE:
        importlib.import_module(name)


def up(ctx: Context, config: MachineConfig, options: UpOptions) -> bool:
    """Bring a machine up until ssh answers.

    Returns:
        Whether anything had to be done.

    Raises:
        QupError: see :mod:`qup.errors`; what was started is stopped again, unless there is
            something to look at in the guest.
    """
    began = time.monotonic()
    ctx.watch = Stopwatch(ctx.prelude)
    folder = create_folders(ctx.project, config.name)
    with ctx.lock(folder):
        create_folders(ctx.project, config.name)  # somebody may have destroyed it meanwhile
        if folder.export.exists():  # of an export that was killed: it would hold the machine's lock
            shutil.rmtree(folder.export, ignore_errors=True)
        ensure_project_id(ctx.project)
        seen = observe(folder)
        if seen.status == BROKEN:
            read_state(folder)  # raises, with the hint
        drafted = read_mark(folder, DRAFT) is not None
        if seen.alive and (drafted or not seen.let_go or seen.way is Way.ANEW):
            reason = "QEMU stayed on after the guest had powered off"
            if drafted:
                reason = "it was stopped while a template was made of it"
            elif not seen.let_go:
                reason = "an earlier start was cut off before the guest ran"
            ctx.tell(config.name, f"{reason}; starting over")
            stop_locked(ctx, folder, seen, force=True, timeout=0.0)
            if seen.state is not None:
                forget_unfinished(folder, seen.state)
            seen = observe(folder)
        ctx.watch.lap("lock")
        if resume_restore(ctx, config, folder):
            seen = observe(folder)
        resumed = seen.status == SUSPENDED and not _is_copied(seen, folder)
        if resumed:
            Resuming(ctx, config, options, folder).resume(seen)
            seen = observe(folder)
        elif seen.alive:
            discard(folder)  # whoever was about to resume it was killed: it is in QEMU now
        if seen.alive:
            changed = Running(ctx, config, options, folder).finish(seen) or resumed
        else:
            ports = NO_PORTS if _is_copied(seen, folder) else read_ports(folder, seen)
            changed = Starting(ctx, config, options, folder, ports).start(seen)
        finish_saving(ctx, folder)
        data = observe(folder, thorough=False).to_dict()
        ctx.emit(Finished(config.name, "up", changed, time.monotonic() - began, data))
        return changed


def _is_copied(seen: Observation, folder: MachineFolder) -> bool:
    return seen.state is not None and is_copy(seen.state, folder)


def check_start(ctx: Context, config: MachineConfig, options: UpOptions) -> None:
    """Make sure that a machine could be started before it is stopped for that.

    Raises:
        QupError: what would keep it from starting.
    """
    Starting(ctx, config, options, create_folders(ctx.project, config.name)).check()


def provision_again(ctx: Context, config: MachineConfig, options: UpOptions) -> None:
    """Run the provisioning steps of a machine that is up, as far as they are wanted.

    Raises:
        MachineError: it isn't up.
        ProvisionError: a step failed.
    """
    began = time.monotonic()
    folder = ctx.project.machine(config.name)
    require_alive(folder)
    with ctx.lock(folder):
        ran = Running(ctx, config, options, folder).provision_again(require_alive(folder))
        ctx.emit(Finished(config.name, "provision", ran, time.monotonic() - began))
    if not ran:
        ctx.tell(config.name, "has no provisioning steps to run")
