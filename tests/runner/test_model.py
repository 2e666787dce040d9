"""Random sequences of verbs and accidents against a small model of what a machine is.

The fake QEMU makes a step a fraction of a second.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.fakes.world import World

STEPS = 60
"""Of one sequence."""

VERBS = ("up", "up", "down", "down --force", "destroy", "kill", "term", "status", "poweroff",
         "lose pidfile", "lose roster", "reload")  # fmt: skip


class Model:
    """What should be so after each step: ``not-created``, ``stopped``, ``running``, ``crashed``."""

    def __init__(self) -> None:
        self.status = "not-created"

    def step(self, verb: str) -> None:
        match verb:
            case "up":
                self.status = "running"
            case "reload":
                self.status = "running"
            case "down" | "down --force":
                self.status = "not-created" if self.status == "not-created" else "stopped"
            case "destroy":
                self.status = "not-created"
            case "kill" | "term" | "poweroff" if self.status == "running":
                self.status = "crashed" if verb != "poweroff" else "stopped"
            case "lose pidfile" if self.status == "crashed":
                self.status = "stopped"  # nothing is left to tell how it ended


def act(world: World, verb: str) -> None:
    match verb:
        case "kill" | "term":
            for pid in world.qemus():
                # The fake dies of SIGTERM as of SIGKILL: without tidying up.
                os.kill(pid, signal.SIGKILL if verb == "kill" else signal.SIGTERM)
                wait_gone(world, pid)
        case "poweroff":
            for pid in world.qemus():
                (world.machine / "qemu.pid").unlink(missing_ok=True)
                os.kill(pid, signal.SIGKILL)
                wait_gone(world, pid)
        case "lose pidfile":
            (world.machine / "qemu.pid").unlink(missing_ok=True)
        case "lose roster":
            (world.folder / ".qup" / "roster.json").unlink(missing_ok=True)
        case "destroy":
            world("destroy", "-y").ok()
        case _:
            world(*verb.split()).ok()


def wait_gone(world: World, pid: int) -> None:
    deadline = time.monotonic() + 5
    while pid in world.qemus() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_life(world: World, seed: int) -> None:
    chance = random.Random(seed)
    model = Model()
    story: list[str] = []
    while len(story) < STEPS:
        verb = chance.choice(VERBS)
        story.append(verb)
        act(world, verb)
        model.step(verb)
        seen = world.status()
        assert seen["status"] == model.status, (story, seen)
        assert len(world.qemus()) == (model.status == "running"), story
        if model.status == "running":
            assert seen["ready"], story
    world("destroy", "-y").ok()
    assert world.qemus() == []
