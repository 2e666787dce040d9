"""What is different since a machine was started, and how it can be applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qup.model.plan import Plan
from qup.paths import MachineFolder
from qup.planner import describe_change, describe_obstacles, take_forwards
from qup.runner.context import Context
from qup.runner.display import keep_display
from qup.runner.stored_plan import read_plan, write_plan

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


def tell_changes(
    ctx: Context, config: MachineConfig, folder: MachineFolder, plan: Plan, box: str
) -> None:
    """Say what is different about a machine that runs.

    Args:
        ctx: the surroundings.
        config: what is asked for now.
        folder: the machine's folder; its plan takes the forwards that were applied already.
        plan: the plan for now, with the box that the machine has.
        box: the box that is asked for.
    """
    stored = read_plan(folder)
    if not stored:
        return
    wanted = keep_display(config, stored, plan.to_dict())
    wanted["box"] = {**wanted["box"], "name": box}
    current = take_forwards(stored, wanted)
    if current != stored:
        write_plan(folder, current)
    if changes := describe_change(current, wanted):
        ctx.tell(
            folder.name,
            "the configuration has changed since it was started: " + "; ".join(changes),
            level="warning",
            hint=f"'qup reload {folder.name}', with the same options, applies it",
        )
    before = stored.get("box")
    if isinstance(before, dict) and before.get("iso") and before.get("name") != box:
        ctx.tell(
            folder.name,
            f"boots from {before.get('name')}, and the Qupfile now says {box}",
            level="warning",
            hint=f"'qup upgrade {folder.name}' boots it from that and keeps its disk",
        )
    tell_obstacles(ctx, folder, wanted)


def tell_obstacles(ctx: Context, folder: MachineFolder, wanted: Mapping[str, Any]) -> None:
    """Say what was asked for and can't be had without a new machine."""
    if obstacles := describe_obstacles(read_plan(folder), wanted):
        ctx.tell(
            folder.name,
            "what can't be changed stays as it is: " + "; ".join(obstacles),
            level="warning",
            hint=f"only a new machine has it: 'qup destroy {folder.name}', then 'qup up'",
        )
