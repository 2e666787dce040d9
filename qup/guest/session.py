"""A guest as provisioners see it: run a command, put a file there, get one back."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qup import process
from qup.errors import ProvisionError
from qup.guest import ssh
from qup.paths import RuntimeFolder, SshFolder
from qup.process import Result

SSH_FAILED = 255
COPY_TIMEOUT = 600.0
TIDY_TIMEOUT = 20.0
"""Seconds that a short command may take though its step's time is over."""
_RECEIVE = 'umask 077 && cat > "$1.qup-part" && chmod "$2" "$1.qup-part" && mv "$1.qup-part" "$1"'


class SshGuest:
    """A guest reached by OpenSSH over the machine's shared connection."""

    def __init__(
        self,
        machine: str,
        folder: SshFolder,
        runtime: RuntimeFolder,
        *,
        own: Path,
        reach: Callable[[int], tuple[str, int]],
        timeout: float | None = None,
        environment: str | None = None,
        find_peers: Callable[[], Mapping[str, Path]] = dict,
    ) -> None:
        """Reach a machine.

        Args:
            machine: its name.
            folder: its keys and configuration.
            runtime: where its shared connection is.
            own: what the provisioner keeps of it on this computer; made when it is asked for.
            reach: says where a port of the guest is reached from here.
            timeout: seconds from now, for all that is done in it.
        """
        self._machine = machine
        self._folder = folder
        self._runtime = runtime
        self._own = own
        self._reach = reach
        self._timeout = timeout
        self._environment = environment
        self._find_peers = find_peers
        self._began = time.monotonic()

    @property
    def name(self) -> str:
        return self._machine

    @property
    def ssh_config(self) -> Path:
        """Configuration for OpenSSH in which the machine's name is a host."""
        return self._folder.config

    @property
    def environment(self) -> str | None:
        """A script in the guest that sets the variables of ``[machine.env]``, if there are any."""
        return self._environment

    @property
    def folder(self) -> Path:
        """A folder of this computer for the provisioner; see :class:`qup.api.Guest`."""
        for path in (self._own.parent, self._own):
            path.mkdir(mode=0o700, exist_ok=True)
        return self._own

    def reach(self, port: int) -> tuple[str, int]:
        """Where a port of the guest is reached; see :class:`qup.api.Guest`."""
        return self._reach(port)

    @property
    def peers(self) -> Mapping[str, Path]:
        """The machines of the project that are up; see :class:`qup.api.Guest`."""
        return {**self._find_peers(), self._machine: self.ssh_config}

    @property
    def time_left(self) -> float | None:
        """Seconds that the step may still take; None for any number."""
        if self._timeout is None:
            return None
        return max(0.0, self._timeout - (time.monotonic() - self._began))

    @property
    def _patience(self) -> float | None:
        """Seconds for a short command: tidying up is possible even when the time is over."""
        return None if self.time_left is None else max(TIDY_TIMEOUT, self.time_left)

    def stream(self, argv: Sequence[str], report: Callable[[str], None]) -> int:
        """Run a command and hand over its output as it comes; see :class:`qup.api.Guest`."""
        code = process.follow(self._words(argv), report, timeout=self.time_left).code
        if code == SSH_FAILED:
            raise ProvisionError(
                "the connection to the guest broke, or the command ended with 255",
                hint="a step that reboots the guest has to do so in the background, as its last"
                " act: '(sleep 1; reboot) >/dev/null 2>&1 &'",
            )
        return code

    def _words(self, argv: Sequence[str]) -> list[str]:
        return ssh.command(
            self._folder, self._machine, ("-T", "-o", "BatchMode=yes"), (shlex.join(argv),)
        )

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Result:
        """Run a command in the guest; see :class:`qup.api.Guest`."""
        result = ssh.run_in_guest(
            self._folder, self._machine, argv, input=input, timeout=self._patience
        )
        if result.code == SSH_FAILED:
            raise ProvisionError("the connection to the guest broke", details=result.stderr)
        if check and result.code != 0:
            raise ProvisionError(
                f"{shlex.join(argv)[:200]}: {result.outcome}",
                details=(result.stdout + result.stderr)[-4000:].strip() or None,
            )
        return result

    def put(self, source: Path, target: str, *, mode: int = 0o644) -> None:
        """Copy a file into the guest: written aside there, then renamed."""
        remote = ["sh", "-c", _RECEIVE, "sh", target, f"{mode:o}"]
        with source.open("rb") as file:
            self._copy(remote, stdin=file.fileno(), stdout=subprocess.DEVNULL)

    def get(self, source: str, target: Path) -> None:
        """Copy a file out of the guest."""
        with target.open("wb") as file:
            self._copy(["cat", "--", source], stdin=subprocess.DEVNULL, stdout=file.fileno())

    def _copy(self, remote: Sequence[str], *, stdin: int, stdout: int) -> None:
        words = self._words(remote)
        done = subprocess.run(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
            timeout=COPY_TIMEOUT,
        )
        if done.returncode != 0:
            raise ProvisionError(
                f"copying failed: {shlex.join(remote[-2:])}",
                details=done.stderr.decode(errors="replace").strip() or None,
            )
