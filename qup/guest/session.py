"""A guest as provisioners see it: run a command, put a file there, get one back."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from qup.errors import ProvisionError
from qup.guest import ssh
from qup.paths import RuntimeFolder, SshFolder
from qup.process import Result

SSH_FAILED = 255
COPY_TIMEOUT = 600.0
_RECEIVE = 'umask 077 && cat > "$1.qup-part" && chmod "$2" "$1.qup-part" && mv "$1.qup-part" "$1"'


class SshGuest:
    """A guest reached by OpenSSH over the machine's shared connection."""

    def __init__(self, machine: str, folder: SshFolder, runtime: RuntimeFolder) -> None:
        self._machine = machine
        self._folder = folder
        self._runtime = runtime

    @property
    def name(self) -> str:
        return self._machine

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Result:
        """Run a command in the guest; see :class:`qup.api.Guest`."""
        result = ssh.run_in_guest(self._folder, self._machine, argv, input=input)
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
        words = ssh.command(
            self._folder, self._machine, ("-T", "-o", "BatchMode=yes"), (shlex.join(remote),)
        )
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
