"""What stands still, sleeps, panics or hangs: real run states, and what up, down and kill do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup.qemu.qmp import Qmp
from tests.conftest import find_free_port
from tests.vm.lab import Lab, alive, open_lab, wait_until

pytestmark = pytest.mark.vm


def soon(lab: Lab, script: str) -> None:
    """Have root do something in the guest when this connection is over."""
    lab.sh(f"sudo sh -c '(sleep 0.3; {script}) >/dev/null 2>&1 </dev/null &'")


def monitor(lab: Lab, command: str) -> None:
    runtime = lab.box.runtime / "qup" / lab.inspect()["id"]
    with Qmp.connect(runtime / "qmp", timeout=10) as qmp:
        qmp.execute(command)


@pytest.fixture(scope="module")
def running(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache) as lab:
        lab("up").ok()
        yield lab


# The tests of this machine build on each other's running guest, not on its content.


def test_a_paused_guest_goes_on(running: Lab) -> None:
    monitor(running, "stop")
    assert "'qup up' continues it" in running("status").ok().stdout
    assert running.status() == "paused"
    done = running("up").ok()
    assert "goes on after a pause" in done.stderr
    assert running.sh("echo in") == "in\n"


def test_a_guest_that_a_debugger_has_stopped_goes_on(running: Lab) -> None:
    port = find_free_port()
    runtime = running.box.runtime / "qup" / running.inspect()["id"]
    with Qmp.connect(runtime / "qmp", timeout=10) as qmp:
        assert "Waiting for gdb" in qmp.hmp(f"gdbserver tcp:127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port), 10) as debugger:
        debugger.sendall(b"+$s#73")  # one step, and stop
        assert wait_until(lambda: "debugger" in running("status").ok().stdout, 60)
        assert "goes on" in running("up").ok().stderr
        assert running.sh("echo in") == "in\n"
    with Qmp.connect(runtime / "qmp", timeout=10) as qmp:
        qmp.hmp("gdbserver none")


def test_a_sleeping_guest_is_woken(running: Lab) -> None:
    running.sh("echo kept > /tmp/kept")
    soon(running, "echo mem > /sys/power/state")
    assert wait_until(lambda: running.status() == "asleep", 60)
    assert "'qup up' wakes it" in running("status").ok().stdout
    done = running("up").ok()
    assert "has been woken" in done.stderr
    assert running.status() == "running"
    assert running.sh("cat /tmp/kept") == "kept\n"


def test_a_sleeping_guest_is_shut_down_properly(running: Lab) -> None:
    running.sh("echo not yet written > late")
    soon(running, "echo mem > /sys/power/state")
    assert wait_until(lambda: running.status() == "asleep", 60)
    done = running("down").ok()
    assert "has been woken" in done.stderr
    assert "cutting the power" not in done.stderr
    running("up", "--set", 'qemu.args=["-no-shutdown"]').ok()
    assert running.sh("cat late") == "not yet written\n"


def test_a_guest_whose_qemu_stays_on_is_started_anew(running: Lab) -> None:
    """QEMU was told ``-no-shutdown`` by the test before."""
    pid = running.pid()
    soon(running, "poweroff")
    assert wait_until(lambda: running.status() == "shutdown", 60)
    done = running("up").ok()
    assert "starting over" in done.stderr
    assert running.pid() != pid
    assert running.sh("cat late") == "not yet written\n"


def test_a_panicked_guest_is_named_and_ended(running: Lab) -> None:
    soon(running, "echo c > /proc/sysrq-trigger")
    assert wait_until(lambda: running.status() == "panicked", 60)
    done = running("up")
    assert done.code == 9
    assert "kernel panicked" in done.stderr
    assert "qup reload" in done.stderr
    assert "Kernel panic" in running("logs").ok().stdout
    began = time.monotonic()
    done = running("down").ok()
    assert "cutting the power" in done.stderr
    assert time.monotonic() - began < 10


def test_kill_ends_a_qemu_that_hangs(running: Lab) -> None:
    running("up").ok()
    pid = running.pid()
    os.kill(pid, signal.SIGSTOP)
    assert running.status() == "unresponsive"
    done = running("kill").ok()
    assert done.seconds < 5
    assert not alive(pid)
    assert running.status() == "stopped"
    assert running.qemus() == []


@pytest.mark.root
def test_a_full_disk_of_the_host_stops_the_guest_and_room_lets_it_go_on(lab: Lab) -> None:
    place = lab.folder / ".qup"
    place.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        lab("up").ok()
        soon(lab, "head -c 12000000 /dev/urandom > /big; sync; sha256sum /big > /sum; sync")
        assert wait_until(lambda: lab.status() == "io-error", 120)
        assert "disk is full" in lab("status").ok().stdout
        done = lab("up")
        assert done.code == 9, done
        assert "stopped again at once" in done.stderr
        assert lab.status() == "io-error"
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        assert "goes on" in lab("up").ok().stderr
        assert wait_until(lambda: lab("ssh", "--", "cat /sum").stdout, 120)
        lab.sh("sha256sum -c /sum")
        lab("down").ok()
        lab("destroy", "-y").ok()
    finally:
        lab("kill")
        subprocess.run(["umount", "-l", str(place)], check=True)
