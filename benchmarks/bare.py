"""The same QEMU without qup: started by hand, watched by the same prober.

Everything is there beforehand: disk, seed, keys, a port. The guest runs from QEMU's first
moment on, instead of being held until forwards are open. So it is a lower bound.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BenchmarkError, Sample
from benchmarks.workshop import Workshop, end, peak_memory
from qup.guest.prober import Prober

TICK = 0.05
"""Seconds between two looks."""

PATIENCE = 170.0


@dataclass(frozen=True)
class Start:
    """One bare start: seconds until the banner, and until ``ssh true`` was done."""

    banner: float
    login: float
    peak: int


class BareMachine:
    """What is needed to start a machine's QEMU by hand, again and again."""

    def __init__(self, workshop: Workshop, project: Path) -> None:
        """Take over a machine that runs in the project, and stop it.

        Raises:
            BenchmarkError: qup does not do what is expected of it.
        """
        self._workshop = workshop
        seen = workshop.ask(project, "inspect")
        folder = Path(seen["folder"])
        self._name = str(seen["name"])
        self._argv, sockets = self._command_line(project)
        config = (folder / "ssh" / "config").read_text()
        self._control = sockets / "qmp"
        workshop.call(project, "down", "--force")
        self._home = project / "bare"
        self._home.mkdir()
        shutil.copytree(folder / "ssh", self._home / "ssh")
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The keys' paths lead through the runtime folder, which is gone with the machine.
        self._config = config.replace(f"{sockets}/ssh/", f"{self._home}/ssh/")
        self._disk = folder / "disk.qcow2"
        info = _qemu_img("info", "--output=json", str(self._disk))
        self._backing = json.loads(info)

    def _command_line(self, project: Path) -> tuple[list[str], Path]:
        plan = self._workshop.ask(project, "plan", "--qemu")
        words = [word for item in plan["arguments"] for word in item["words"] if word != "-S"]
        paths = [re.search(r"id=control,path=([^,]+)", word) for word in words]
        found = [match[1] for match in paths if match]
        if not found:
            raise BenchmarkError("'qup plan --qemu --json' names no control socket")
        return words, Path(found[0]).parent

    def start(self) -> Start:
        """Make a new overlay, start QEMU, and wait until the guest lets us in.

        Raises:
            BenchmarkError: it never did.
        """
        self._make_disk(Path(self._backing["backing-filename"]))
        port = free_port()
        argv = self._forwarding(self._argv, port)
        began = time.perf_counter()
        process = self._workshop.start(argv, self._home, self._home / "qemu.log")
        try:
            return self._follow(process, port, began)
        finally:
            end(process)

    def _make_disk(self, base: Path) -> None:
        """A new overlay in the machine's place."""
        self._disk.unlink(missing_ok=True)
        size = str(self._backing["virtual-size"])
        backing = ["-F", "qcow2", "-b", str(base)]
        _qemu_img("create", "-q", "-f", "qcow2", *backing, str(self._disk), size)

    def _forwarding(self, argv: list[str], port: int) -> list[str]:
        """A command line with a forward to ssh, and ssh's configuration for it."""
        config = re.sub(r"(?m)^  Port .*$", f"  Port {port}", self._config)
        (self._home / "config").write_text(config)
        forward = f",hostfwd=tcp:127.0.0.1:{port}-:22"
        return [word + forward if word.startswith("user,") else word for word in argv]

    def _follow(self, process: subprocess.Popen[bytes], port: int, began: float) -> Start:
        """Wait until the guest lets us in."""
        config = str(self._home / "config")
        login = ["ssh", "-F", config, "-o", "ControlPath=none", self._name, "true"]
        self._wait_for_banner(process, port, began)
        banner = time.perf_counter() - began
        while not self._log_in(login):
            self._check(process, began)
            time.sleep(TICK)
        done = time.perf_counter() - began
        return Start(banner, done, peak_memory(process.pid))

    def _log_in(self, words: list[str]) -> bool:
        with (self._home / "ssh.log").open("ab") as said:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
            )
        return done.returncode == 0

    def _check(self, process: subprocess.Popen[bytes], began: float) -> None:
        if process.poll() is not None:
            said = (self._home / "qemu.log").read_text(errors="replace")
            raise BenchmarkError(f"bare QEMU ended: {said.strip()}")
        if time.perf_counter() - began > PATIENCE:
            raise BenchmarkError(f"no answer from the bare guest within {PATIENCE:.0f} s")

    def _wait_for_banner(self, process: subprocess.Popen[bytes], port: int, began: float) -> None:
        """Probe as qup does, which no sshd is kept from answering by, and take the first banner."""
        with (
            selectors.DefaultSelector() as selector,
            contextlib.closing(Prober("127.0.0.1", port, selector)) as prober,
        ):
            while True:
                prober.attempt(time.monotonic())
                self._check(process, began)
                for key, _ in selector.select(TICK):
                    _, slot = key.data
                    if prober.read(slot):
                        return


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _qemu_img(*words: str) -> str:
    done = subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"qemu-img {words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def as_samples(start: Start) -> tuple[Sample, Sample]:
    """The two ends of a start as samples: the banner, the login."""
    return Sample(start.banner, start.peak), Sample(start.login, start.peak)
