"""Verbs on several machines at once: order, failures, interrupts, workers that die."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qup.errors import ConfigError, GuestError, MachineError, QupError
from qup.guest.ssh import SshFailure
from qup.qemu.qmp import CommandFailed
from qup.runner.parallel import _Order, invert
from tests.conftest import Done, kill_leaks
from tests.fakes.world import QUPFILE, World
from tests.runner.test_interrupts import spawn

THREE = QUPFILE + "[machines.web]\nafter = ['app']\n[machines.app]\nafter = ['db']\n[machines.db]\n"
LOOSE = QUPFILE + "[machines.a]\n[machines.b]\n[machines.c]\n"


def events(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def moments(done: Done, kind: str, **wanted: object) -> dict[str, int]:
    """For each machine the place of an event among all of them."""
    return {
        event["machine"]: place
        for place, event in enumerate(events(done))
        if event.get("event") == kind and wanted.items() <= event.items()
    }


def statuses(world: World) -> dict[str, str]:
    seen = json.loads(world("status", "--json").ok().stdout)["machines"]
    return {item["name"]: item["status"] for item in seen}


@pytest.fixture
def loose(make_world: Callable[..., World]) -> World:
    world = make_world(LOOSE)
    world("up").ok()
    world("destroy", "-y").ok()
    return world


def test_several_at_once_and_one_by_one(loose: World) -> None:
    """That they are at work at the same time is what the interrupted ones below show."""
    done = loose("up", "--json").ok()
    assert sorted(moments(done, "finished")) == ["a", "b", "c"]
    # Events come from the workers, and are noted once.
    log = (loose.folder / ".qup/machines/a/logs/qup.log").read_text()
    assert log.count("launch ended") == 1
    assert len(loose.qemus()) == 3

    done = loose("down", "--json", "--jobs", "1").ok()
    ended = moments(done, "finished")
    begun = moments(done, "phase-started", phase="stop")
    assert ended["a"] < begun["b"]
    assert loose.qemus() == []


def test_order(make_world: Callable[..., World]) -> None:
    world = make_world(THREE)
    done = world("up", "--json").ok()
    begun, ended = moments(done, "phase-started", phase="launch"), moments(done, "finished")
    assert ended["db"] < begun["app"] < ended["app"] < begun["web"]
    done = world("down", "--json").ok()
    begun, ended = moments(done, "phase-started", phase="stop"), moments(done, "finished")
    assert ended["web"] < begun["app"] < ended["app"] < begun["db"]
    # Only the machines that are named count.
    world("up", "web").ok()
    assert statuses(world) == {"web": "running", "app": "stopped", "db": "stopped"}
    # A broken Qupfile's order is still known from before, or does not matter.
    (world.folder / "Qupfile").write_text(THREE + "nonsense = 1\n")
    world("down").ok()
    world("destroy", "-y").ok()


def test_a_failure_stops_only_what_comes_after(make_world: Callable[..., World]) -> None:
    world = make_world(THREE.replace("[machines.db]", "[machines.x]\n[machines.db]\nmemory = '3T'"))
    done = world("up")
    assert done.code == 5, done
    assert "3145728 MiB" in done.stderr
    assert "machine web was left alone: it comes after app, which failed" in done.stderr
    assert "done: x; failed: web, app, db" in done.stderr
    assert statuses(world) == {
        "web": "not-created", "app": "not-created", "db": "not-created", "x": "running"
    } or statuses(world)["x"] == "running"  # fmt: skip
    last = events(world("up", "--json"))[-1]["error"]
    assert last["exit_code"] == 5


def test_an_interrupt_ends_the_work_on_all(loose: World) -> None:
    loose.scenario = {"banner": False}
    for number in (signal.SIGINT, signal.SIGTERM):
        process = spawn(loose, "up")
        wait_for(lambda: len(loose.qemus()) == 3)
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert loose.qemus() == []
        assert set(statuses(loose).values()) == {"stopped"}


def test_ctrl_c_in_a_terminal_reaches_each_machine_once(loose: World) -> None:
    loose.scenario = {"banner": False}
    process = spawn(loose, "up")
    wait_for(lambda: len(loose.qemus()) == 3)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert loose.qemus() == []


def test_two_interrupts_end_it_at_once(loose: World) -> None:
    loose.scenario = {"banner": False}
    process = spawn(loose, "up")
    wait_for(lambda: len(loose.qemus()) == 3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    loose("destroy", "-y").ok()
    assert loose.qemus() == []


def test_workers_don_t_outlive_a_parent_that_was_killed(loose: World) -> None:
    loose.scenario = {"banner": False}
    process = spawn(loose, "up")
    wait_for(lambda: len(loose.qemus()) == 3)
    process.kill()
    process.communicate(timeout=20)  # returns when no worker holds the output any more
    loose("destroy", "-y").ok()
    assert loose.qemus() == []


def test_a_worker_that_is_killed_is_told_of(loose: World) -> None:
    loose.scenario = {"banner": False}
    process = spawn(loose, "up")
    wait_for(lambda: len(loose.qemus()) == 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 9, said
    assert "the process that worked on it ended (killed by SIGKILL)" in said
    loose("destroy", "-y").ok()
    assert loose.qemus() == []


def test_a_bug_in_a_worker_is_a_bug(loose: World) -> None:
    tweak = (
        "import qup.runner.up as up\nold = up.up\n"
        "def broken(ctx, config, options):\n"
        "    if config.name == 'b': raise RuntimeError('oh no')\n"
        "    return old(ctx, config, options)\n"
        "up.up = broken"
    )
    done = loose.tweaked(tweak, "up")
    assert done.code == 3, done
    assert "this is a bug in qup" in done.stderr
    assert "oh no" in done.stderr
    kill_leaks(str(loose.folder), patience=0.0)


def wait_for(check: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- parts ----------------------------------------------------------------------------------


def test_who_is_taken_next() -> None:
    order = _Order(["web", "app", "db", "x"], {"web": ["app"], "app": ["db", "elsewhere"]})
    assert [order.take(), order.take(), order.take()] == ["db", "x", None]
    order.end("db", None)
    assert order.take() == "app"
    order.end("app", QupError("no"))
    assert order.take() is None
    assert [error.machine for error in order.errors] == ["app", "web"]


def test_the_way_down_is_the_way_up_backwards() -> None:
    assert invert({"web": ["app", "db"], "app": ["db"], "db": []}) == {
        "app": ["web"],
        "db": ["web", "app"],
    }


@pytest.mark.parametrize(
    "error",
    [
        QupError("a", hint="b", details="c", machine="d"),
        ConfigError("a"),
        MachineError("a", hint="h"),
        GuestError("g"),
        SshFailure("a", said="b", final=True, hint="c"),
        CommandFailed("cont", "GenericError", "no"),
    ],
)
def test_errors_travel(error: QupError) -> None:
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.__dict__ == error.__dict__
