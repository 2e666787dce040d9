"""docker-machine's words, with a scripted QEMU: kill, restart, aliases, url, active, config."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fakes.world import QUPFILE, World

PORTS = QUPFILE + '[machine.network]\nforward = ["0:2375", "0:80"]\n'


def stop_process(world: World) -> None:
    os.kill(world.qemus()[0], signal.SIGSTOP)


# --- kill ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "harm"),
    [
        ({}, None),
        ({"powerdown": "ignore", "quit": "ignore", "sigterm": "ignore"}, None),
        ({}, stop_process),
    ],
    ids=["willing", "deaf", "stopped by a signal"],
)
def test_kill_is_fast_and_thorough(
    world: World, scenario: dict[str, Any], harm: Callable[[World], None] | None
) -> None:
    world.scenario = scenario
    world("up").ok()
    if harm:
        harm(world)
    done = world("kill").ok()
    assert world.qemus() == []
    assert done.seconds < 5
    assert "cutting the power" in done.stderr
    assert world.status()["status"] == "stopped"
    again = world("kill").ok()
    assert "is not running" in again.stderr
    world("up").ok()
    world("kill").ok()


def test_kill_does_not_ask_a_monitor_that_hangs(world: World) -> None:
    world("up").ok()
    import socket

    runtime = os.path.join(os.environ["QUP_RUNTIME_DIR"], world.status()["id"], "qmp")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(runtime)
        assert client.recv(10)
        assert world.status()["status"] == "unresponsive"
        assert world("kill").ok().seconds < 5
    assert world.qemus() == []


def test_kill_does_not_wait_for_an_up_that_waits_in_vain(world: World) -> None:
    world.scenario = {"banner": False}
    waiting = subprocess.Popen(
        [sys.executable, "-m", "qup", "up"],
        cwd=world.folder,
        env={**os.environ, **world.variables(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not (world.machine / "state.json").exists() or world.status()["ssh"] is None:
            assert time.monotonic() < deadline
        done = world("kill").ok()
        assert done.seconds < 5
        said, _ = waiting.communicate(timeout=20)
        assert waiting.returncode in (9, 10), said
        assert "Traceback" not in said
    finally:
        waiting.kill()
        waiting.wait()
    assert world.qemus() == []
    assert world.status()["status"] == "stopped"


def test_kill_of_a_machine_whose_state_is_damaged(world: World) -> None:
    world("up").ok()
    (world.machine / "state.json").write_text("{")
    world("kill").ok()
    assert world.qemus() == []
    assert "is not running" in world("kill").ok().stderr


def test_kill_of_what_never_was(world: World) -> None:
    assert "is not running" in world("kill").ok().stderr
    done = world("kill", "nosuch")
    assert done.code == 2


# --- other names --------------------------------------------------------------------------


def test_the_names_of_docker_machine(world: World) -> None:
    world("start").ok()
    pid = world.qemus()
    assert "is up already" in world("start").ok().stderr
    assert "default" in world("ls").ok().stdout
    assert world("ls", "-q").ok().stdout == "default\n"
    world("restart").ok()
    assert world.qemus() != pid
    world("stop").ok()
    assert "is not running" in world("stop").ok().stderr
    world("restart").ok()
    assert world.status()["status"] == "running"
    world("rm", "-f").ok()
    assert world.qemus() == []
    assert "never created" in world("rm", "-y").ok().stderr


def test_other_names_are_not_in_the_help(world: World) -> None:
    shown = world("--help").ok().stdout
    named = set(re.findall(r"^\W+([a-z-]+) ", shown, re.MULTILINE))
    assert {"kill", "url", "reload"} <= named
    assert not {"restart", "start", "stop", "rm", "ls", "halt"} & named


# --- states -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["internal-error", "guest-panicked", "save-vm"])
def test_up_does_not_go_on_with_a_guest_that_can_not(world: World, state: str) -> None:
    world.scenario = {"status": state}
    world("up").ok()
    done = world("up")
    assert done.code == 9
    assert world.status()["status"] in done.stderr
    assert "hint: " in done.stderr


def test_up_starts_anew_what_has_powered_off_and_hangs_on(world: World) -> None:
    world.scenario = {"status": "shutdown"}
    world("up").ok()
    assert world.status()["status"] == "shutdown"
    pid = world.qemus()
    done = world("up").ok()
    assert "powered off" in done.stderr
    assert world.qemus() != pid


# --- url, active, config ------------------------------------------------------------------


def test_the_way_to_an_engine(make_world: Callable[..., World]) -> None:
    world = make_world(PORTS)
    assert world("url").code == 9
    world("up").ok()
    forwards = json.loads(world("port", "list", "--json").ok().stdout)["forwards"]
    (port,) = [item["host"] for item in forwards if item["guest"] == 2375]
    engine = f"tcp://127.0.0.1:{port}"
    assert world("url").ok().stdout == f"{engine}\n"
    assert world("config").ok().stdout == f"-H={engine}\n"
    for host in (engine, f"{engine}/"):
        assert world("active", env={"DOCKER_HOST": host}).ok().stdout == "default\n"
    elsewhere = world("active", env={"DOCKER_HOST": engine}, cwd=world.bin).ok()
    assert elsewhere.stdout == "default\n"
    for env in ({}, {"DOCKER_HOST": ""}, {"DOCKER_HOST": "tcp://127.0.0.1:1"}):
        done = world("active", env=env)
        assert done.code == 1
        assert "no active machine" in done.stderr
    world("port", "add", "0:2376").ok()
    assert world("url").ok().stdout != f"{engine}\n"
    done = world("config")
    assert done.code == 9
    assert "no certificates" in done.stderr
    own = world.machine / "provisioners" / "docker"
    own.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (own / name).touch()
    url = world("url").ok().stdout.strip()
    assert world("config").ok().stdout.splitlines() == [
        "--tlsverify",
        f'--tlscacert="{own}/ca.pem"',
        f'--tlscert="{own}/cert.pem"',
        f'--tlskey="{own}/key.pem"',
        f"-H={url}",
    ]
    options = json.loads(world("config", "--json").ok().stdout)["options"]
    assert options[1] == f"--tlscacert={own}/ca.pem"
    world("down").ok()
    assert world("url").code == 9
    assert world("active", env={"DOCKER_HOST": engine}).code == 1


def test_no_way_to_an_engine(world: World) -> None:
    world("up").ok()
    done = world("url")
    assert done.code == 9
    assert "qup port add 0:2376 -m default" in done.stderr


def test_a_guest_with_an_address_of_its_own(world: World) -> None:
    world("up").ok()
    path = world.machine / "state.json"
    path.write_text(path.read_text().replace('"127.0.0.1"', '"192.0.2.7"'))
    assert world("url").ok().stdout == "tcp://192.0.2.7:2376\n"
    engine = {"DOCKER_HOST": "tcp://192.0.2.7:2376"}
    assert world("active", env=engine).ok().stdout == "default\n"


def test_inspect_in_a_form_of_ones_own(world: World) -> None:
    world("up").ok()
    assert world("inspect", "-f", "{{.Name}}: {{.status}}").ok().stdout == "default: running\n"
    done = world("inspect", "-f", "{{.nosuch}}")
    assert done.code == 2
    assert "character 1" in done.stderr
