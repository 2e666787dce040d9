"""``qup up --nographic`` with real guests: the console from its first byte to the last."""

from __future__ import annotations

import os
import re
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, open_lab, wait_until
from tests.vm.test_console import Terminal, open_terminal

pytestmark = pytest.mark.vm

FIRST = b"SeaBIOS (version"
PROVISIONED = SMALL + '[[machine.provision]]\nshell = "echo provisioned > /etc/step"\n'


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, PROVISIONED) as made:
        yield made


def serial_log(lab: Lab) -> bytes:
    return (lab.machine() / "logs" / "serial.log").read_bytes()


def sockets(lab: Lab) -> list[Path]:
    return [*(lab.box.runtime / "qup").iterdir()]


def prompt(terminal: Terminal, key: str) -> None:
    """Press a key until the guest's shell asks for a command."""
    for _ in range(20):
        terminal.type(key)
        try:
            terminal.expect(r"[$#] ", 2)
            return
        except AssertionError:
            continue
    pytest.fail(f"no prompt: {terminal.text!r}")


def test_without_a_terminal_until_the_guest_powers_off(lab: Lab) -> None:
    output = lab.folder / "output"
    with output.open("wb") as file:
        process = lab.spawn("up", "--nographic", stdout=file, stderr=subprocess.PIPE)
        assert wait_until(lambda: lab("ssh", "--", "cat /etc/step").stdout == "provisioned\n", 60)
        lab("ssh", "--", "sudo poweroff")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    shown = output.read_bytes()
    assert shown == serial_log(lab)
    assert FIRST in shown[:200]
    assert b"reboot: Power down" in shown[-200:]
    assert "waiting for ssh" in said
    assert "powered off by itself" in said
    assert lab.status() == "stopped"
    assert sockets(lab) == []


def test_in_a_terminal(lab: Lab) -> None:
    with open_terminal(lab, "up", "--nographic") as terminal:
        before = termios.tcgetattr(terminal.master)
        terminal.expect("Ctrl-] leaves")
        terminal.expect("SeaBIOS", 30)
        terminal.expect("qup-tiny: ready", 60)
        assert termios.tcgetattr(terminal.master) != before
        prompt(terminal, "\r")
        terminal.type("sleep 1000\r")
        terminal.expect("sleep 1000\r\n")
        prompt(terminal, "\x03")  # the guest's, not ours
        terminal.type("echo after-$((1+1))\r")
        terminal.expect("after-2")
        assert wait_until(lambda: lab.inspect()["ready"], 60)
        terminal.type("\x1d")
        assert terminal.code() == 0
        terminal.expect("the machine runs on")
        terminal.expect("default is ready: qup ssh")
        # What qup did meanwhile is told now, and not in the middle of the console.
        text = terminal.text
        assert text.index("the machine runs on") < text.index("waiting for ssh")
        assert termios.tcgetattr(terminal.master) == before
    assert lab.sh("cat /etc/step") == "provisioned\n"

    with open_terminal(lab, "up", "--nographic") as terminal:
        terminal.expect("after-2")  # what came before
        prompt(terminal, "\r")  # what is typed before the terminal is the guest's is lost
        terminal.type("sudo poweroff\r")
        assert terminal.code() == 0
        terminal.expect("powered off by itself")
        assert "is ready" not in terminal.text
    assert sockets(lab) == []


def test_a_terminal_that_is_closed_leaves_the_machine_running(lab: Lab) -> None:
    with open_terminal(lab, "up", "--nographic") as terminal:
        terminal.expect("Ctrl-] leaves")
        assert wait_until(lambda: lab.inspect()["ready"], 60)
        os.kill(terminal.process.pid, 1)
        assert terminal.code() == 129
    assert lab.status() == "running"

    # Detached or not, a log has the same bytes: only the times in them differ.
    lab("reload", "--force", "--nographic", env={"QUP_NOGRAPHIC": ""}, input="\x1d").ok()
    attached = serial_log(lab)
    lab("down", "--force").ok()
    process = lab.spawn("up", "--nographic")
    assert wait_until(lambda: lab.inspect()["ready"], 60)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert lab.status() == "stopped"
    assert sockets(lab) == []
    detached = serial_log(lab)
    lines = [re.sub(rb"[0-9.]+", b"#", text).split(b"\r\n")[:5] for text in (attached, detached)]
    assert lines[0] == lines[1]
