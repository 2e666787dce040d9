"""Commands in a guest whose input and output are bytes, over the machine's shared connection."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qup.errors import GuestError
from qup.guest import ssh
from qup.paths import SshFolder
from qup.process import describe_exit, explain_start

SAID_LIMIT = 4000
CHUNK = 1 << 20


class CommandFailed(GuestError):
    """A command in the guest failed.

    Attributes:
        code: its exit code; 255 is ssh's own failure.
    """

    def __init__(self, message: str, code: int, *, details: str | None, machine: str) -> None:
        super().__init__(message, details=details, machine=machine)
        self.code = code


@dataclass(frozen=True)
class Link:
    """A guest that can be talked to.

    Attributes:
        keys: where its ssh configuration is.
        machine: its name.
    """

    keys: SshFolder
    machine: str

    @property
    def name(self) -> str:
        """The machine's, as plugins see it."""
        return self.machine

    @property
    def ssh_config(self) -> Path:
        """Configuration for OpenSSH."""
        return self.keys.config

    def words(self, remote: Sequence[str], *options: str) -> list[str]:
        """The command line that runs something in the guest."""
        given = ("-T", "-o", "BatchMode=yes", *options)
        return ssh.command(self.keys, self.machine, given, (shlex.join(remote),))

    def call(self, what: str, script: str, *arguments: str, input: Iterable[bytes] = ()) -> bytes:
        """Run a script in the guest's shell; what it printed.

        Args:
            what: what it is for, for messages: ``copying into the guest``.
            script: the script; its arguments are ``$1`` and so on.
            arguments: the script's arguments.
            input: for its standard input.

        Raises:
            CommandFailed: it failed; the details are its own words.
            HostError: there is no ssh.
        """
        words = self.words(["sh", "-c", script, "sh", *arguments])
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as output:
            with _running(words, subprocess.PIPE, output, said) as process:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError), process.stdin as stream:
                    for part in input:
                        stream.write(part)
                code = process.wait()
            if code != 0:
                raise self._failure(what, code, said)
            output.seek(0)
            return output.read()

    def _failure(self, what: str, code: int, said: IO[bytes]) -> CommandFailed:
        said.seek(0)
        text = said.read()[-SAID_LIMIT:].decode(errors="replace").strip()
        reason = "the connection to the guest broke" if code == 255 else describe_exit(code)
        message = f"machine {self.machine}: {what} failed: {reason}"
        return CommandFailed(message, code, details=text or None, machine=self.machine)


@contextlib.contextmanager
def _running(
    words: Sequence[str], stdin: int, stdout: IO[bytes], stderr: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    with explain_start(words[0]):
        process = subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
