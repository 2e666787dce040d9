"""Which provisioning steps a template may have behind it. Pure: no I/O.

A guest in which the first steps have run can be a template, too: a new machine with the same
hardware and the same steps is restored from it and runs none of them. Steps count in the order
in which they run, from the first one up to the first that has to run in each machine. Which
those are depends on ``share``:

- ``name``: what it leaves is good for machines of the same host name.
- ``all``: it is good for any machine. The name is no part of the key if this holds for all steps.
- ``none``: it has to run in each machine.
- empty: as ``name``, unless it may depend on what no key can hold, such as another machine.

``always`` steps run again in each machine that is restored. They are a part of what others after
them build on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from qup.model.plan import Plan, ProvisionStep, TemplatePlan
from qup.templates.key import Emulator, describe_visible, make_key
from qup.templates.stand_in import USER

STEPS = 1
"""Counts how steps are run; what another way has left doesn't fit."""
MOMENTS = ("up", "after-up")
NEVER, ALWAYS = "never", "always"
NOBODY, EVERYBODY = "none", "all"


def add_steps(
    template: TemplatePlan, plan: Plan, emulator: Emulator, *, after: Sequence[str] = ()
) -> TemplatePlan:
    """A machine's template with its provisioning steps.

    Args:
        template: the one that it can have without.
        plan: with everything else in it.
        emulator: what runs the guest.
        after: the machines that it is started after.
    """
    numbers, obstacle = choose_steps(plan, after)
    if not numbers:
        return replace(template, steps_obstacle=obstacle)
    steps = [plan.provision[number - 1] for number in numbers]
    described = describe_provisioned(plan, emulator, steps)
    return replace(
        template, provisioned=make_key(described), steps=numbers, steps_obstacle=obstacle
    )


def describe_provisioned(
    plan: Plan, emulator: Emulator, steps: Sequence[ProvisionStep]
) -> dict[str, object]:
    """Everything that a guest is made from in which steps have run. No option of theirs is in it:
    it may be a secret.
    """
    visible = describe_visible(plan, emulator)
    if any(step.share != EVERYBODY for step in steps):
        visible["name"] = plan.seed.hostname
        visible["addresses"] = [list(nic.plan.address.addresses) for nic in plan.nics]
    return {**visible, "steps": [STEPS, *(step.digest for step in steps)]}


def choose_steps(plan: Plan, after: Sequence[str]) -> tuple[tuple[int, ...], str | None]:
    """The numbers of the steps that a template can have behind it, and why there are no more."""
    chosen: list[int] = []
    obstacle = None
    for number, step in _in_order(plan):
        obstacle = _find_obstacle(step, plan, after)
        if obstacle:
            break
        chosen.append(number)
    while chosen and plan.provision[chosen[-1] - 1].run == ALWAYS:
        chosen.pop()  # they run in each machine, and nothing builds on them
    return tuple(chosen), obstacle


def _in_order(plan: Plan) -> Iterator[tuple[int, ProvisionStep]]:
    """The steps that run when a machine is up, each with its number."""
    for moment in MOMENTS:
        for number, step in enumerate(plan.provision, 1):
            if step.on == moment and step.run != NEVER:
                yield number, step


def _find_obstacle(step: ProvisionStep, plan: Plan, after: Sequence[str]) -> str | None:
    """Why a step has to run in each machine, in a few words; or None."""
    if step.on_host:
        return f"{step.name} runs on this computer"
    if step.share == NOBODY:
        return f'{step.name} has share = "none"'
    if not step.by_content:
        return f"what {step.provisioner} leaves in a guest is not known beforehand"
    before = [other.name for other in plan.provision if other.on not in MOMENTS]
    if before:
        return f"{before[0]} may change on this computer what the steps use"
    if step.share:
        return None
    if plan.folders:
        return f"{step.name} may read the folder {plan.folders[0].guest}"
    others = [nic.mode for nic in plan.nics if nic.plan.netdev.get("type") != USER]
    if others or after:
        whom = after[0] if after else f"other machines (network mode {others[0]})"
        return f"its steps may talk to {whom}"
    return None
