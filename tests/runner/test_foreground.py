"""``qup up --nographic`` without a terminal: what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT
from tests.fakes.world import QUPFILE, World
from tests.vm.lab import wait_until

PROVISIONED = QUPFILE + '[[machine.provision]]\nshell = "true"\n'


def runtime_is_empty(world: World) -> bool:
    folder = os.path.join(os.environ["QUP_RUNTIME_DIR"])
    return not os.path.isdir(folder) or os.listdir(folder) == []


@contextmanager
def spawn(world: World, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start qup; what hangs is killed at the end of the test, which fails by then."""
    with subprocess.Popen(
        [sys.executable, "-m", "qup", *words],
        cwd=world.folder,
        env={
            **os.environ,
            **world.variables(),
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGABRT)  # faulthandler tells where it was


def end(process: subprocess.Popen[str]) -> int:
    """The exit code, with the last words of one that takes too long."""
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        pytest.fail(f"it did not end: {process.communicate(timeout=10)}")
    return process.returncode


def test_a_guest_that_does_its_work_and_powers_off(world: World) -> None:
    world.scenario = {"prints": "first\n\x1b[1mlast\0\n", "powers_off": 1.5}
    done = world("up", "--nographic").ok()
    assert done.stdout.encode() == (world.machine / "logs" / "serial.log").read_bytes()
    assert done.stdout == "first\n\x1b[1mlast\0\n"
    assert "waiting for ssh" in done.stderr
    assert "the guest powered off by itself" in done.stderr
    assert world.status()["status"] == "stopped"
    assert runtime_is_empty(world)


def test_a_guest_without_sshd_may_power_off_too(world: World) -> None:
    world.scenario = {"prints": "done\n", "powers_off": 0.5, "banner": False}
    assert world("up", "--nographic").ok().stdout == "done\n"
    assert runtime_is_empty(world)
    # In the background nobody saw what it did: there it is a failure.
    assert world("up").code == 10


def test_steps_that_could_not_run_are_a_failure(world: World) -> None:
    (world.folder / "Qupfile").write_text(PROVISIONED)
    world.scenario = {"prints": "done\n", "powers_off": 0.5, "banner": False}
    done = world("up", "--nographic")
    assert (done.code, done.stdout) == (10, "done\n"), done
    assert "powered off before ssh answered" in done.stderr
    assert runtime_is_empty(world)


def test_a_death_is_a_failure(world: World) -> None:
    world.scenario = {"prints": "x", "die_after": 1.5}
    done = world("up", "--nographic")
    assert (done.code, done.stdout) == (9, "x"), done
    assert runtime_is_empty(world)


def test_a_panic_is_a_failure(world: World) -> None:
    world.scenario = {"prints": "x", "status": "guest-panicked"}
    done = world("up", "--nographic")
    assert done.code == 9, done
    assert "panicked" in done.stderr
    assert "down --force" in done.stderr


def test_a_failed_start_leaves_nothing(world: World) -> None:
    world.scenario = {"start": "die", "stderr": "no such thing\n"}
    done = world("up", "--nographic")
    assert (done.code, done.stdout) == (9, ""), done
    assert "no such thing" in done.stderr
    assert runtime_is_empty(world)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_it_ends_the_machine(world: World, number: signal.Signals) -> None:
    world.scenario = {"prints": "up\n"}
    with spawn(world, "up", "--nographic") as process:
        assert wait_until(lambda: world.status()["ready"], 60)
        process.send_signal(number)
        assert end(process) == 130
    assert world.status()["status"] == "stopped"
    assert not world.qemus()
    assert runtime_is_empty(world)


def test_who_hangs_up_leaves_it_running(world: World) -> None:
    world.scenario = {"prints": "up\n"}
    with spawn(world, "up", "--nographic") as process:
        assert wait_until(lambda: world.status()["ready"], 60)
        process.send_signal(signal.SIGHUP)
        assert end(process) == 129
    assert world.status()["status"] == "running"
    world("down").ok()


def test_another_qup_stops_it(world: World) -> None:
    with spawn(world, "up", "--nographic") as process:
        assert wait_until(lambda: world.status()["ready"], 60)
        world("down").ok()
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "stopped by another qup" in said


def test_output_and_progress_in_one_file_are_not_mixed(world: World) -> None:
    world.scenario = {"prints": "half a li", "powers_off": 1.5}
    process = subprocess.run(
        [sys.executable, "-m", "qup", "up", "--nographic"],
        cwd=world.folder,
        env={**os.environ, **world.variables(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    assert process.returncode == 0, process.stdout
    before, _, after = process.stdout.partition("half a li")
    assert "starting QEMU" in before
    assert "waiting for ssh" not in before
    assert "waiting for ssh" in after


def test_in_the_qupfile_and_for_a_machine_that_runs(world: World) -> None:
    world("up").ok()
    (world.folder / "Qupfile").write_text(QUPFILE + "[machine.qemu]\nnographic = true\n")
    refused = world("up")
    assert refused.code == 4, refused
    assert "the guest gets your terminal" in refused.stderr
    world("trust").ok()
    with spawn(world, "up") as process:
        assert wait_until((world.machine / "console.lock").exists, 60)
        refused = world("up")
        assert refused.code == 6, refused
        assert str(process.pid) in refused.stderr
        world("down").ok()
        assert end(process) == 0
    assert world("up", "--no-nographic").ok().stdout.startswith("default is ready")
    world("down").ok()


def test_what_can_not_be_shown(world: World) -> None:
    refused = world("up", "--nographic", "--json")
    assert refused.code == 2, refused
    (world.folder / "Qupfile").write_text(QUPFILE + "[machines.a]\n[machines.b]\n")
    refused = world("up", "--nographic")
    assert refused.code == 2, refused
    assert "there are 2 machines: a, b" in refused.stderr
    assert "--no-nographic" in refused.stderr
    assert not world.qemus()
