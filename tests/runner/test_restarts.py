"""Restarts in a row, with the locks of a real QEMU.

docker-machine's driver started the next QEMU before the last one was gone: "Cannot lock pid
file", or no write lock on the image.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fakes.world import QUPFILE, World

COUNT = 20

# The guest is a firmware that finds nothing to boot: its sshd is taken as read.
SCRIPT = f"""
import sys
import qup.runner.start as start
from qup.cli.main import run
from qup.paths import find_project
from qup.runner.observe import observe
from pathlib import Path

start.wait_until_ready = lambda ctx, folder, plan, state, *rest, **more: state
folder = find_project(Path()).machine("default")
pids = []
for number in range({COUNT} + 1):
    code = run(["restart", "--force", "-q"])
    if code:
        sys.exit(f"restart {{number}} ended with {{code}}")
    seen = observe(folder, thorough=False)
    assert seen.alive and seen.pid not in pids, seen
    pids.append(seen.pid)
print(*pids)
"""


def test_ports_that_were_picked_are_the_same_after_a_stop(world: World) -> None:
    # The kernel gives none of these to anybody by itself, and another run has others.
    first = 30000 + os.getpid() % 250 * 10
    text = f'{QUPFILE}[machine.network]\nforward = ["0:80"]\nports = "{first}-{first + 9}"\n'
    (world.folder / "Qupfile").write_text(text)
    with socket.create_server(("127.0.0.1", first)):  # free later: another one would be picked
        world("up").ok()
    before = world("port", "list").ok().stdout
    assert f":{first} " not in before
    assert world("port", "add", "0:81").ok()
    world("down", "--force").ok()
    world("up").ok()
    assert world("port", "list").ok().stdout == before


@pytest.mark.qemu
def test_twenty_restarts_in_a_row(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=world.folder,
        env={
            **os.environ,
            **world.variables(),
            "QUP_PROGRAM": "qemu-system-x86_64",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == COUNT + 1
    living = [pid for pid in pids if b"qemu" in command_of(pid)]
    assert living == pids[-1:]
    world("destroy", "-y").ok()
    assert b"qemu" not in command_of(pids[-1])


def command_of(pid: int) -> bytes:
    """The command line of a process; empty for one that is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
