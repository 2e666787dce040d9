"""What ``qup reset`` goes back to, where that is not a template: a machine after its steps.

It is a snapshot that no list shows: with memory, kept in the machine's folder, one at most. A
machine whose provisioning steps ran in itself gets one when they have succeeded. One that was
restored from a template and ran no more than what each ``up`` runs needs none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from qup.errors import QupError
from qup.model.plan import Plan
from qup.model.snapshot import SAVE_POINT, Snapshot
from qup.model.state import State
from qup.model.units import format_size
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.provision import ALWAYS, Wanted
from qup.runner.save import save_for_reset
from qup.runner.snapshots import list_all, measure, remove_snapshot

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


def find_save_point(folder: MachineFolder, state: State) -> Snapshot | None:
    """The save point of a machine, if it has one."""
    found = [item for item in list_all(folder) if item.name == SAVE_POINT]
    return next((item for item in found if item.machine == state.id), None)


def drop_save_point(folder: MachineFolder) -> None:
    """Forget the save point: what is going to be is another machine.

    Raises:
        HostError: it can't be removed.
    """
    for item in list_all(folder):
        if item.name == SAVE_POINT:
            remove_snapshot(folder, item)


def describe_steps(plan: Plan) -> str:
    """A digest of all that a plan says of provisioning."""
    steps = [(step.name, step.run, step.on, step.digest) for step in plan.provision]
    return hashlib.sha256(json.dumps(steps).encode()).hexdigest()


def is_lasting(folder: MachineFolder, plan: Plan, ran: Iterable[int], wanted: Wanted) -> bool:
    """Whether steps that ran have made a machine what the next ``up`` would not make of it.

    A step that runs at each ``up`` is no reason to save it each time. Where nobody knows what it
    leaves behind, as with one that installs something unless it is there, its first time is.
    """
    steps = [plan.provision[number - 1] for number in ran]
    if not wanted.plain:
        return bool(steps)
    if any(step.run != ALWAYS for step in steps):
        return True
    known = any(item.name == SAVE_POINT for item in list_all(folder))
    return not known and any(not (step.by_content or step.on_host) for step in steps)


def keep_save_point(
    ctx: Context, config: MachineConfig, folder: MachineFolder, plan: Plan
) -> Snapshot | None:
    """Save a machine whose steps have just succeeded, or say in the log why it can't be.

    Whatever keeps it from that, the machine is up and well; ``qup reset`` makes it anew then.
    """
    try:
        drop_save_point(folder)
        if not config.settings.templates:
            ctx.note(folder.name, "no save point for 'qup reset': templates = false")
            return None
        with ctx.phase(folder.name, "snapshot", "saving it for 'qup reset'") as phase:
            made = save_for_reset(ctx, folder, steps=describe_steps(plan))
            phase.result = f"{format_size(measure(folder, made))}; the guest stood still for"
            phase.result += f" {made.pause:.2f} s"
    except QupError as exc:
        text = f"no save point: {exc.message}; 'qup reset' will run the steps again"
        ctx.tell(folder.name, text)
        return None
    return made
