"""qup is killed, interrupted or run several times at once: the next command copes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT, Done
from tests.fakes.world import QUPFILE, World
from tests.vm.lab import wait_until

MOMENTS = [0.05, 0.15, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.85]
"""Seconds after the start of a ``qup up`` that takes 0.6 to 1 s."""


def spawn(world: World, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qup", *argv],
        cwd=world.folder,
        env={**os.environ, **world.variables(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def hit(world: World, number: signal.Signals, after: float) -> tuple[int, str]:
    """Start ``up``, signal it after a while, and wait for it."""
    process = spawn(world, "up")
    time.sleep(after)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


@pytest.fixture
def warm(world: World) -> World:
    """The box is in the cache and the host's facts are known."""
    world("up").ok()
    world("destroy", "-y").ok()
    return world


@pytest.mark.parametrize("verb", ["up", "down", "destroy"])
def test_a_kill_at_any_moment_is_repaired_by_the_next_command(warm: World, verb: str) -> None:
    for moment in MOMENTS:
        code, said = hit(warm, signal.SIGKILL, moment)
        assert code in (0, -9), said
        assert len(warm.qemus()) <= 1
        done = warm(verb, *(["-y"] if verb == "destroy" else []), timeout=30).ok()
        assert done.seconds < 10, (moment, done)
        alive = warm.qemus()
        seen = warm.status()["status"]
        wanted = {"up": ("running",), "down": ("stopped", "not-created"), "destroy":
                  ("not-created",)}[verb]  # fmt: skip
        assert seen in wanted, (moment, seen)
        assert len(alive) == (verb == "up"), moment
        warm("destroy", "-y").ok()
        assert warm.qemus() == []


def test_an_interrupt_at_any_moment_ends_everything(warm: World) -> None:
    """130 or, when Python itself is still starting, death by the signal; nothing is left."""
    warm.scenario = {"banner": False}  # it would wait for ever
    for moment in [*MOMENTS, 1.2]:
        code, said = hit(warm, signal.SIGINT, moment)
        # CPython ends by the signal itself when it hit an exec() inside an import; shells call
        # both 130.
        assert code in (130, -signal.SIGINT), (moment, code, said)
        assert "this is a bug" not in said
        # Once qup itself has begun (and it may be slow to: moments are by the clock), it says no
        # more than that.
        assert "Traceback" not in said or ", in main\n" not in said, (moment, said)
        assert warm.qemus() == [], moment
        assert warm.status()["status"] in ("stopped", "not-created"), moment
    warm.scenario = {}
    warm("up").ok()


def test_an_interrupt_while_a_class_is_made(world: World) -> None:
    """Some versions of Python tell of it as of a RuntimeError."""
    tweak = """
import importlib
class Name:
    def __set_name__(self, owner, name): raise KeyboardInterrupt
def import_module(name): type("Class", (), {"name": Name()})
importlib.import_module = import_module
"""
    done = world.tweaked(tweak, "status")
    assert done.code == 130, done
    assert done.stderr == "interrupted\n"


def spawn_and_wait(world: World, *argv: str) -> subprocess.Popen[str]:
    """Start ``up``, of a guest that never answers, and return when it waits for that."""
    world.scenario = {"banner": False}
    process = spawn(world, "up", *argv)
    assert wait_until(lambda: world.status()["status"] == "starting", 60)
    return process


def test_sigterm_is_an_interrupt(warm: World) -> None:
    process = spawn_and_wait(warm)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert warm.qemus() == []


def test_two_interrupts(warm: World) -> None:
    process = spawn_and_wait(warm)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    warm.scenario = {}
    warm("up", timeout=30).ok()
    assert len(warm.qemus()) == 1


def test_ctrl_c_in_the_terminal_does_not_reach_the_machine(warm: World) -> None:
    """Fault F23: the machine is no part of the terminal's process group."""
    process = spawn(warm, "up")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    (pid,) = warm.qemus()
    assert os.getpgid(pid) not in (process.pid, os.getpgid(0))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
    assert warm.status()["status"] == "running"


def test_nothing_holds_on_to_the_output(warm: World) -> None:
    """``qup up | tee`` ends when qup does, though the machine runs on."""
    done = warm("up", timeout=20).ok()
    assert "ready" in done.stdout


# --- at once ------------------------------------------------------------------------------


def together(*calls: Callable[[], Done]) -> list[Done]:
    results: dict[int, Done] = {}

    def run(number: int, call: Callable[[], Done]) -> None:
        results[number] = call()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(calls))]


def test_five_ups_at_once_start_one_machine(world: World) -> None:
    """The box is not even there yet."""
    results = together(*[lambda: world("up") for _ in range(5)])
    assert [done.code for done in results] == [0] * 5, "\n".join(map(str, results))
    assert len(world.qemus()) == 1
    started = [done for done in results if "starting QEMU" in done.stderr]
    assert len(started) == 1


def test_up_and_destroy_at_once_are_serial(warm: World) -> None:
    for delay in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6):
        first = spawn(warm, "up")
        time.sleep(delay)
        results = together(
            lambda: warm("destroy", "-y"), lambda: warm("up"), lambda: warm("destroy", "-y")
        )
        said, _ = first.communicate(timeout=30)
        assert first.returncode == 0, said
        assert [done.code for done in results] == [0] * 3, "\n".join(map(str, results))
        alive = len(warm.qemus())
        seen = warm.status()["status"]
        assert (seen, alive) in (("running", 1), ("not-created", 0)), (delay, seen, alive)
    warm("destroy", "-y").ok()
    assert warm.qemus() == []


def test_several_machines_of_a_project_at_once(make_world: Callable[..., World]) -> None:
    world = make_world(QUPFILE + "".join(f"[machines.m{n}]\n" for n in range(4)))
    calls = [lambda name=f"m{n}": world("up", name) for n in range(4)]  # type: ignore[misc]
    results = together(*calls)
    assert [done.code for done in results] == [0] * 4, "\n".join(map(str, results))
    seen: list[dict[str, Any]] = json.loads(world("status", "--json").ok().stdout)["machines"]
    assert [item["status"] for item in seen] == ["running"] * 4
    assert len({item["id"] for item in seen}) == 4


def test_who_holds_the_lock_is_said(warm: World) -> None:
    first = spawn_and_wait(warm, "--boot-timeout", "5m")
    done = warm("--lock-timeout", "0.3", "down")
    assert done.code == 6, done
    assert "qup up --boot-timeout 5m" in done.stderr
    assert f"pid {first.pid}" in done.stderr
    assert "--lock-timeout" in done.stderr
    assert warm.status()["status"] == "starting"
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=20)
    assert first.returncode == 130


def test_a_lost_project_folder_leaves_an_orphan_that_doctor_ends(warm: World) -> None:
    """Fault F59."""
    import shutil

    warm("up").ok()
    pid = warm.qemus()[0]
    shutil.rmtree(warm.folder / ".qup")
    assert warm.status()["status"] == "not-created"
    assert f"pid {pid}" in warm("doctor").stdout
    warm("up").ok()  # a machine of its own, beside it
    assert len(warm.qemus()) == 2
    done = warm("doctor", "--fix", "--yes")
    assert f"pid {pid}" in done.stdout, done
    assert pid not in warm.qemus()
    assert warm.status()["status"] == "running"
