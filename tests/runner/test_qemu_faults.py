"""A QEMU that dies, hangs, talks nonsense or does not listen: what only a fake can do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import refused
from tests.fakes.world import QUPFILE, World


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ({"start": "die", "stderr": "qemu: out of luck\n", "code": 3}, ("out of luck", "code 3")),
        ({"start": "die", "stderr": "", "code": 0}, ("exit code 0",)),
        ({"start": "garbage"}, ("QEMU was started, but",)),
        ({"start": "long"}, ("QEMU was started, but",)),
        ({"start": "close"}, ("QEMU was started, but",)),
    ],
    ids=lambda value: value.get("start", "") if isinstance(value, dict) else "",
)
def test_a_qemu_that_never_greets_is_told_and_ended(
    world: World, scenario: dict[str, Any], words: tuple[str, ...]
) -> None:
    world.scenario = scenario
    done = world("up", timeout=30)
    refused(done, 9, *words)
    assert done.seconds < 6
    assert world.qemus() == []
    assert world.status()["status"] == "stopped"
    world.scenario = {}
    world("up").ok()


def test_what_a_dying_qemu_says_cannot_command_the_terminal(world: World) -> None:
    world.scenario = {"start": "die", "stderr": "\x1b]0;owned\x07bad\x1b[2J\n", "code": 1}
    done = world("up")
    refused(done, 9, "bad")
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_a_qemu_that_hangs_is_ended_after_the_greetings_limit(world: World) -> None:
    world.scenario = {"start": "hang"}
    done = world.tweaked("import qup.qemu.engine as engine; engine.GREETING_TIMEOUT = 1.0", "up")
    refused(done, 9, "did not start")
    assert world.qemus() == []


@pytest.mark.parametrize("version", ["Hello\n", "", "\0\xff" * 100, "QEMU emulator version x\n"])
def test_a_program_that_is_no_qemu(world: World, version: str) -> None:
    world.scenario = {"version": version}
    refused(world("up"), 5, "is not QEMU")
    refused(world("up", "--json"), 5)


def test_a_program_that_hangs_when_asked_for_its_version(world: World) -> None:
    world.scenario = {"version": "hang"}
    done = world("up")
    refused(done, 5, "did not finish")
    assert done.seconds < 10


def test_a_program_that_can_not_be_executed(world: World) -> None:
    world.program.chmod(0o644)
    refused(world("up"), 5, "not a program that can be started")


def test_a_program_that_is_a_folder(world: World) -> None:
    world.program.unlink()
    world.program.mkdir()
    refused(world("up"), 5, "not a program that can be started")


def test_a_program_that_is_missing(world: World) -> None:
    refused(world("up", "--program", "qemu-system-x86_64-nope"), 5, "was not found")
    world.program.unlink()
    refused(world("up"), 5, "was not found")


def test_a_script_with_a_missing_interpreter(world: World) -> None:
    world.program.write_text("#!/no/such/interpreter\n")
    done = world("up")
    assert done.code == 5, done
    assert "Traceback" not in done.stderr


def test_death_while_booting_ends_the_wait_at_once(world: World) -> None:
    world.scenario = {"die_after": 0.5, "banner": False}
    done = world("up")
    assert done.code in (9, 10), done
    assert done.seconds < 6
    assert world.qemus() == []


def test_a_guest_without_sshd_times_out_and_is_left_running(world: World) -> None:
    world.scenario = {"banner": False}
    done = world("up", "--boot-timeout", "1s")
    refused(done, 10, "not ready after 1 s", "left running")
    assert len(world.qemus()) == 1
    refused(world("up", "--boot-timeout", "1s"), 10, "not ready after 1 s")
    assert len(world.qemus()) == 1
    world("down").ok()
    assert world.qemus() == []


def test_the_whole_ladder_is_said_aloud(world: World) -> None:
    world.scenario = {"powerdown": "ignore", "quit": "ignore", "sigterm": "ignore"}
    world("up").ok()
    budgets = "import qup.runner.stop as stop; stop.SSH_BUDGET = stop.QUIT_BUDGET = 1.0"
    done = world.tweaked(f"{budgets}; stop.SIGNAL_BUDGET = 1.0", "down", "--timeout", "1").ok()
    for word in ("asked to power off", "does not react", "ssh", "cutting the power", "SIGKILL"):
        assert word in done.stderr, done
    assert world.qemus() == []
    assert world.status()["status"] == "stopped"


def test_force_goes_down_no_rung_too_many(world: World) -> None:
    world.scenario = {"powerdown": "ignore"}
    world("up").ok()
    done = world("down", "--force").ok()
    assert done.seconds < 3
    assert "asked to power off" not in done.stderr
    assert "QMP quit" in done.stderr


@pytest.mark.parametrize("status", ["io-error", "paused", "guest-panicked", "internal-error"])
def test_a_guest_that_stands_still_is_named_and_goes_down_at_once(
    world: World, status: str
) -> None:
    world.scenario = {"status": status, "powerdown": "ignore"}
    world("up").ok()
    seen = world.status()
    assert seen["status"] not in ("running", "starting"), seen
    assert seen["detail"]
    assert world("down").ok().seconds < 10
    assert world.qemus() == []


def test_a_forward_that_qemu_refuses_leaves_the_machine_running(
    make_world: Callable[..., World],
) -> None:
    world = make_world(QUPFILE + '[machine.network]\nforward = ["18099:80"]\n')
    world.scenario = {"refuse": "Could not set up host forwarding rule\n"}
    done = world("up")
    refused(done, 9, "18099", "runs, but")
    assert world.status()["status"] == "running"


def test_a_monitor_that_is_taken_is_named_within_seconds(world: World) -> None:
    """Fault F7: QMP serves one client; the next is accepted and never greeted."""
    world("up").ok()
    runtime = Path(os.environ["QUP_RUNTIME_DIR"]) / world.status()["id"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(runtime / "qmp"))
        assert client.recv(10)
        seen = world.status()
        assert seen["status"] == "unresponsive"
        assert "monitor" in seen["detail"]
        refused(world("port", "list"), 9, "monitor")
    assert world.status()["status"] == "running"


# --- signals and pids ---------------------------------------------------------------------


def test_another_process_with_the_same_pid_is_never_signalled(world: World) -> None:
    world("up").ok()
    os.kill(world.qemus()[0], signal.SIGKILL)
    (world.machine / "qemu.pid").write_text(f"{os.getpid()}\n")
    assert world.status()["status"] == "crashed"
    world("down", "--force").ok()
    assert world.status()["status"] == "stopped"
    world("up").ok()
    (world.machine / "qemu.pid").unlink()
    assert world.status()["status"] == "running"
    world("destroy", "-y").ok()
    assert world.qemus() == []


def test_the_lock_of_a_fake_pidfile_is_no_machine(world: World) -> None:
    """Somebody else holds a lock on the pidfile: still nobody of ours."""
    import fcntl

    world("up").ok()
    world("down").ok()
    with (world.machine / "qemu.pid").open("w") as file:
        file.write("1\n")
        file.flush()
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert world.status()["status"] == "stopped"
        world("down", "--force").ok()
        world("destroy", "-y").ok()


def test_a_zombie_is_dead(world: World) -> None:
    """Rule 20: nobody reaps in some containers; this test does not reap either."""
    world("up").ok()
    pid = world.qemus()[0]
    # An orphan that is adopted by this process stays a zombie until it is waited for.
    os.kill(pid, signal.SIGKILL)
    assert world.status()["status"] == "crashed"
    done = world("up").ok()
    assert "recovering" in done.stderr
