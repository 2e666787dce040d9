"""Scripts that run in a guest, with their input or output as a stream."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from qup.errors import GuestError
from qup.guest import ssh
from qup.guest.copying import scripts
from qup.guest.copying.ends import (
    BLOCK,
    Chunks,
    CopyError,
    Notes,
)
from qup.paths import SshFolder
from qup.process import describe_exit, explain_start

SSH_FAILED = 255
CHANGED = 3
"""What a guest's script ends with when not as much came as was announced."""
SAID = 4000
TIDY_TIMEOUT = 10.0
"""Seconds that a script may take to remove what it wrote, once its input has ended too early."""


@dataclass(frozen=True)
class Guest:
    """How a guest is reached, and as whom.

    Attributes:
        machine: its name.
        keys: its ssh folder.
        sudo: read and write as root.
    """

    machine: str
    keys: SshFolder
    sudo: bool = False

    def words(self, script: str, *args: str) -> list[str]:
        """The command line for a script in the guest."""
        run = ["sh", "-c", script, "sh", *args]
        remote = shlex.join(ssh.as_root(run) if self.sudo else run)
        return ssh.command(self.keys, self.machine, ("-T", "-o", "BatchMode=yes"), (remote,))

    def expand(self, pattern: str) -> list[str]:
        """The paths that a pattern matches: what the shell's wildcards mean.

        Raises:
            CopyError: there are none.
        """
        code, said, errors = self._run(scripts.EXPAND, pattern)
        if code != 0:
            raise self.refused(f"looking for {self.machine}:{pattern}", code, errors)
        found = [os.fsdecode(path) for path in said.split(b"\0") if path]
        if not found:
            raise CopyError(
                f"nothing in {self.machine} matches {pattern}",
                hint=None if self.sudo else "--sudo looks as root",
            )
        return found

    def ask(self, script: str, *args: str) -> tuple[int, str, str]:
        """Run a script; returns its exit code, and what it said.

        Raises:
            GuestError: the connection broke.
        """
        code, said, errors = self._run(script, *args)
        return code, said.decode(errors="replace"), errors

    def _run(self, script: str, *args: str) -> tuple[int, bytes, str]:
        words = self.words(script, *args)
        with explain_start(words[0]):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        said = done.stderr.decode(errors="replace").strip()[-SAID:]
        if done.returncode == SSH_FAILED:
            raise self.broken(said)
        return done.returncode, done.stdout, said

    def broken(self, said: str) -> GuestError:
        """The error for a connection that broke."""
        return GuestError(
            f"machine {self.machine}: the connection broke",
            details=said or None,
            hint=f"'qup status {self.machine}' shows what it does",
            machine=self.machine,
        )

    def refused(self, what: str, code: int, said: str) -> CopyError:
        """The error for a script that failed."""
        denied = "ermission denied" in said and not self.sudo
        hint = "--sudo reads and writes as root" if denied else None
        if "No space left" in said:
            # Files may be too many, not only too large.
            hint = f"make room: qup ssh {self.machine} -- 'df -h; df -i'"
        return CopyError(
            f"{what} failed ({describe_exit(code)})",
            details=said or None,
            hint=hint,
            machine=self.machine,
        )

    @contextlib.contextmanager
    def start(self, what: str, script: str, *args: str, stdin: bool = False) -> Iterator[Running]:
        """Run a script whose standard input or output is a stream.

        When the block raises, it sees the end of its input and has a moment to tidy up.
        """
        words = self.words(script, *args)
        with tempfile.TemporaryFile() as errors, explain_start(words[0]):
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if stdin else subprocess.PIPE,
                stderr=errors,
            )
            try:
                yield Running(self, what, process, errors)
            finally:
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(TIDY_TIMEOUT if stdin else 0)
                process.kill()
                process.wait()


@dataclass
class Running:
    """A script that runs in a guest."""

    guest: Guest
    what: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def send(self, chunks: Chunks) -> None:
        """Hand it bytes, to their end, and wait for it.

        Raises:
            CopyError: it failed.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has failed, and says why
            for chunk in chunks:
                self.process.stdin.write(chunk)
            self.process.stdin.close()
        self.end()

    def receive(self) -> Chunks:
        """What it writes."""
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), BLOCK):
            yield data

    def end(self, notes: Notes | None = None) -> None:
        """Wait for it.

        Args:
            notes: takes what it complained of, where all else is of use.

        Raises:
            CopyError: it failed.
            GuestError: the connection broke.
        """
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read()[-SAID:].decode(errors="replace").strip()
        if code == SSH_FAILED or code < 0:
            raise self.guest.broken(said)
        if code == CHANGED and notes is None:
            raise CopyError(f"{self.what}: it changed while it was copied", hint="try again")
        if code != 0 and (notes is None or not said):
            raise self.guest.refused(self.what, code, said)
        if notes is not None and said:
            self._sort(said, notes)

    def _sort(self, said: str, notes: Notes) -> None:
        for line in said.splitlines():
            harmless = "ocket ignored" in line or "as we read it" in line
            if "Exiting with failure" not in line:
                (notes.left_out if harmless else notes.failed).append(
                    f"{self.guest.machine}: {line.removeprefix('tar: ')}"
                )
