"""The serial console in a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.vm.lab import SMALL, Lab, open_lab, wait_until

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, SMALL) as made:
        made("up").ok()
        yield made


@dataclass
class Terminal:
    process: subprocess.Popen[bytes]
    master: int
    before: list[Any]
    text: str = field(default="")

    def expect(self, pattern: str, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.text!r}"
            ready, _, _ = select.select([self.master], [], [], left)
            if ready:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # nobody is at the other end any more
                    assert re.search(pattern, self.text), self.text
                    return

    def type(self, text: str) -> None:
        self.text = ""
        os.write(self.master, text.encode())

    def code(self) -> int:
        return self.process.wait(15)


@contextmanager
def open_terminal(lab: Lab, *words: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    before = termios.tcgetattr(master)
    process = subprocess.Popen(
        [sys.executable, "-m", "qup", *words],
        cwd=lab.folder,
        env={**os.environ, **lab.env, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    try:
        yield Terminal(process, master, before)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(slave)
        os.close(master)


def test_attach_type_detach(lab: Lab) -> None:
    pid = lab.pid()
    with open_terminal(lab, "console") as terminal:
        terminal.expect("Ctrl-]")
        terminal.expect("qup-tiny: ready")  # what came before
        for _ in range(20):
            terminal.type("\r")
            try:
                terminal.expect(r"[$#] ", 2)
                break
            except AssertionError:
                continue
        terminal.type("echo typed-$((40+2))\r")
        terminal.expect("typed-42")
        terminal.type("sleep 100\r")
        time.sleep(0.5)
        terminal.type("\x03")  # Ctrl-C belongs to the guest
        terminal.type("echo after-$((1+1))\r")
        terminal.expect("after-2")
        terminal.type("\x1d")
        assert terminal.code() == 0
        terminal.expect("runs on")
    assert lab.pid() == pid
    assert lab.sh("echo in") == "in\n"


def test_the_terminal_is_as_before(lab: Lab) -> None:
    with open_terminal(lab, "console") as terminal:
        terminal.expect("Ctrl-]")
        assert wait_until(lambda: termios.tcgetattr(terminal.master) != terminal.before)
        terminal.type("\x1d")
        assert terminal.code() == 0
        assert termios.tcgetattr(terminal.master) == terminal.before


def test_a_second_one_is_told_who_has_it(lab: Lab) -> None:
    with open_terminal(lab, "console") as terminal:
        terminal.expect("Ctrl-]")
        done = lab("console", input="x")
        assert done.code == 6, done
        assert str(terminal.process.pid) in done.stderr
        terminal.type("\x1d")
        assert terminal.code() == 0
    lab("console", input="").ok()


def test_a_terminal_that_dies_leaves_the_console_free(lab: Lab) -> None:
    with open_terminal(lab, "console") as terminal:
        terminal.expect("Ctrl-]")
        terminal.process.send_signal(signal.SIGKILL)
        terminal.process.wait()
    with open_terminal(lab, "console") as terminal:
        terminal.expect("Ctrl-]")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.code() in (130, 143)
    assert lab.status() == "running"


def test_without_a_terminal_input_is_sent(lab: Lab) -> None:
    lab("console", input="\r").ok()  # Enter starts the shell, which forgets what came too early
    # A shell that is just starting throws away what was typed before it asked.
    for _ in range(5):
        lab("console", input="echo piped > /tmp/piped\r").ok()
        if wait_until(lambda: lab("ssh", "--", "cat /tmp/piped").stdout == "piped\n", 3):
            return
    pytest.fail("it never arrived")


def test_a_terminal_of_ssh(lab: Lab) -> None:
    with open_terminal(lab, "ssh") as terminal:
        terminal.expect(r"[$#] ")
        terminal.type("tty; exit 5\r")
        terminal.expect("/dev/pts/")
        assert terminal.code() == 5


def test_a_live_up_on_a_terminal(lab: Lab) -> None:
    with open_terminal(lab, "up") as terminal:
        terminal.expect("is up already")
        terminal.expect("qup ssh")
        assert terminal.code() == 0


def test_the_machine_ends_while_attached(lab: Lab) -> None:
    with open_terminal(lab, "console") as terminal:
        terminal.expect("Ctrl-]")
        lab("down").ok()
        terminal.expect("is off")
        assert terminal.code() == 0
