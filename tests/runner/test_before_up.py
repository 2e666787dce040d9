"""What is asked of a machine that never was, and of templates that may not be."""

from __future__ import annotations

import pytest

from tests.fakes.world import World


@pytest.mark.parametrize(
    "words",
    [
        ("reset",),
        ("snapshot", "save", "one"),
        ("snapshot", "restore", "one"),
        ("provision",),
    ],
)
def test_there_is_nothing_to_go_back_to(world: World, words: tuple[str, ...]) -> None:
    done = world(*words)
    assert done.code == 9, done
    assert "default" in done.stderr
    assert "'qup up default' starts it" in done.stderr
    assert not world.machine.exists()


def test_suspending_what_never_was_does_nothing(world: World) -> None:
    assert "is not running" in world("suspend").ok().stderr
    assert not world.machine.exists()


def test_without_a_quota_machines_boot(world: World) -> None:
    done = world("up", env={"QUP_TEMPLATES": "yes", "QUP_TEMPLATES_QUOTA": "0"}).ok()
    assert "cold boot: the quota for templates is 0" in done.stderr


def test_a_quota_that_is_no_size(world: World) -> None:
    done = world("up", env={"QUP_TEMPLATES": "yes", "QUP_TEMPLATES_QUOTA": "much"})
    assert done.code == 4, done
    assert "QUP_TEMPLATES_QUOTA" in done.stderr
    assert world.qemus() == []
