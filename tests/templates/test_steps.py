"""Which provisioning steps a template has behind it, and what makes another one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qup.model.folders import FolderPlan
from qup.model.network import NicPlan
from qup.model.plan import Plan, ProvisionStep, TemplatePlan
from qup.templates.steps import add_steps, describe_provisioned
from tests.templates.test_key import PLAN, QEMU


def step(name: str, **more: object) -> ProvisionStep:
    known = ProvisionStep("shell", {"env": {"T": "secret"}}, f"digest of {name}", name)
    return replace(known, by_content=True, **more)  # type: ignore[arg-type]


def planned(*steps: ProvisionStep, plan: Plan = PLAN, after: tuple[str, ...] = ()) -> TemplatePlan:
    return add_steps(TemplatePlan("k"), replace(plan, provision=steps), QEMU, after=after)


def named(plan: Plan, hostname: str) -> Plan:
    return replace(plan, seed=replace(plan.seed, hostname=hostname))


A, B = step("a"), step("b")


@pytest.mark.parametrize(
    ("steps", "numbers", "obstacle"),
    [
        ((A, B), (1, 2), None),
        ((step("late", on="after-up"), A), (2, 1), None),
        ((step("x", run="never"), A), (2,), None),
        # The last steps that run anyway are of no use in it; others may build on an earlier one.
        ((A, step("x", run="always")), (1,), None),
        ((step("x", run="always"), A), (1, 2), None),
        ((step("x", run="always"),), (), None),
        ((A, step("x", share="none"), B), (1,), 'x has share = "none"'),
        ((A, step("x", on_host=True), B), (1,), "x runs on this computer"),
        ((A, step("x", on_host=True, on="after-up")), (1,), "x runs on this computer"),
        ((step("x", on_host=True, on="before-up"), A), (), "x may change"),
        ((replace(A, by_content=False, provisioner="salt"), B), (), "what salt leaves"),
        ((), (), None),
    ],
)
def test_which_steps(
    steps: tuple[ProvisionStep, ...], numbers: tuple[int, ...], obstacle: str | None
) -> None:
    found = planned(*steps)
    assert found.steps == numbers
    assert (found.provisioned is None) == (not numbers)
    assert found.key == "k"
    assert (found.steps_obstacle or "").startswith(obstacle or "")
    assert bool(found.steps_obstacle) == bool(obstacle)


def test_what_makes_another_one() -> None:
    one = planned(A, B).provisioned
    assert one == planned(A, replace(B, name="renamed", timeout=9.0)).provisioned
    others = [
        planned(B, A),
        planned(A),
        planned(A, step("c")),
        planned(A, B, plan=replace(PLAN, memory_mib=512)),
        planned(A, B, plan=named(PLAN, "db")),
    ]
    assert len({one, *(other.provisioned for other in others)}) == 6


def test_a_name_that_no_step_looks_at_is_not_in_the_key() -> None:
    everybody = step("a", share="all"), step("b", share="all")
    one = planned(*everybody, plan=named(PLAN, "web")).provisioned
    assert one == planned(*everybody, plan=named(PLAN, "db")).provisioned
    mixed = step("a", share="all"), B
    assert (
        planned(*mixed, plan=named(PLAN, "web")).provisioned
        != planned(*mixed, plan=named(PLAN, "db")).provisioned
    )


def test_steps_that_may_talk_to_others_are_shared_only_where_that_is_said() -> None:
    tap = replace(PLAN.nics[0], mode="tap", plan=NicPlan({"type": "tap"}))
    plan = replace(PLAN, nics=(*PLAN.nics, tap))
    assert planned(A, plan=plan).steps_obstacle == (
        "its steps may talk to other machines (network mode tap)"
    )
    assert planned(A, after=("db",)).steps_obstacle == "its steps may talk to db"
    assert planned(step("a", share="name"), after=("db",), plan=plan).steps == (1,)


def test_steps_that_may_read_folders_are_shared_only_where_that_is_said() -> None:
    plan = replace(PLAN, folders=(FolderPlan("folder0", ".", "/srv/app", "copy"),))
    found = planned(step("a", share="name"), step("b"), plan=plan)
    assert (found.steps, found.steps_obstacle) == ((1,), "b may read the folder /srv/app")


def test_no_option_is_kept() -> None:
    assert "secret" not in str(describe_provisioned(PLAN, QEMU, [A, B]))
