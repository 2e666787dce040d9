"""Machines whose provisioning steps have run before, by the same without any steps."""

from __future__ import annotations

from functools import partial

from benchmarks.cases import ONE
from benchmarks.measure import Series, attempt
from benchmarks.outcome import Aim, Outcome, Row
from benchmarks.workshop import Workshop

STEP = """
[[machine.provision]]
shell = "head -c 20000000 /dev/urandom >/root/made; sleep 3"
"""
SECRET = STEP.replace("shell", 'share = "none"\nshell')
CLONE = Aim(1.25, plus=0.1)
SAVED = Aim(2.5, plus=0.3)


def measure_provisioned(workshop: Workshop, rounds: int) -> Outcome:
    """A start and a reset with steps in a template, with a save point, and without steps."""
    plain = workshop.project("unprovisioned", ONE)
    shared = workshop.project("provisioned", ONE + STEP)
    own = workshop.project("provisioned-alone", ONE + SECRET)
    up, steps, again = (
        Series("qup up, no steps"),
        Series("qup up, a step of 3 s runs"),
        Series("qup up from a provisioned template"),
    )
    reset = Series("qup reset, no steps")
    of_template = Series("qup reset, the steps are in the template")
    of_point = Series("qup reset, to a save point")
    for project in (plain, shared, own):
        workshop.call(project, "up")
    for _ in range(rounds):
        for series, project in ((reset, plain), (of_template, shared), (of_point, own)):
            attempt(series, partial(workshop.call, project, "reset"))
        for series, project, words in (
            (up, plain, ("up",)),
            (steps, shared, ("up", "--no-cache")),
            (again, shared, ("up",)),
        ):
            workshop.call(project, "destroy", "-y")
            attempt(series, partial(workshop.call, project, *words))
    for project in (plain, shared, own):
        workshop.call(project, "destroy", "-y")
    rows = [
        Row(again, up, CLONE),
        Row(again, steps),
        Row(of_template, up, CLONE),
        Row(of_point, up, SAVED),
        Row(reset, up),
        Row(steps, up),
        Row(up),
    ]
    note = "The step writes 20 MB and waits for 3 s; with it, the first start saves a template."
    return Outcome("Provisioned before", rows, [note])
