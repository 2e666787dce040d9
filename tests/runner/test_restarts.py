"""Restarts in a row, with the locks of a real QEMU.

docker-machine's driver started the next QEMU before the last one was gone: "Cannot lock pid
file", or no write lock on the image.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fakes.world import World

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
