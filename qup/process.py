"""The one door through which qup starts other programs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qup.errors import HostError

TIMEOUT = 30.0
"""Seconds that a short-lived helper program may take unless the caller says otherwise."""

LINES_KEPT = 200
"""Lines of a followed program's output that its result has."""

END_TIMEOUT = 20.0
"""Seconds that a program may take to clean up after itself."""

PACKAGES = {
    "qemu-img": "qemu-utils",
    "ssh": "openssh-client",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "mke2fs": "e2fsprogs",
}
"""Debian's package for a program, where the names differ."""


@dataclass(frozen=True)
class Result:
    """What a finished program left behind; ``code`` is negative after a signal."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def outcome(self) -> str:
        """``exit code 1``, ``killed by SIGSEGV`` and so on."""
        return describe_exit(self.code)


def describe_exit(code: int) -> str:
    """Name a return code as :mod:`subprocess` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def quote(argv: Sequence[str | os.PathLike[str]]) -> str:
    """A command line that a person can paste into a shell."""
    return shlex.join(os.fspath(word) for word in argv)


def missing_program(name: str) -> HostError:
    """The error for a program that isn't on this computer."""
    package = PACKAGES.get(name, name)
    return HostError(
        f"the program {name!r} was not found",
        hint=f"install it: 'qup doctor --fix', or on Debian and Ubuntu 'apt install {package}'",
    )


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    check: bool = True,
    input: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = TIMEOUT,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Run a program to its end, with its output captured as text.

    Args:
        argv: the words of the command; no shell is involved.
        check: raise when the program doesn't end with 0.
        input: text for its standard input, which is empty otherwise.
        cwd: the folder to run in.
        env: variables added to the environment.
        timeout: seconds until the program is killed; None waits for ever.
        pass_fds: descriptors that it inherits under the same numbers.

    Raises:
        HostError: it is missing, may not be executed, ran too long, or (with check) failed.
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        done = subprocess.run(
            words,
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            timeout=timeout,
            check=False,
            pass_fds=pass_fds,
        )
    except FileNotFoundError as exc:
        if cwd is not None and not cwd.is_dir():
            raise HostError(f"the folder {cwd} does not exist") from exc
        raise missing_program(words[0]) from exc
    except PermissionError as exc:
        raise HostError(f"{words[0]} may not be executed", hint="check its permissions") from exc
    except OSError as exc:
        raise HostError(f"{words[0]} can't be executed: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise HostError(
            f"{words[0]} did not finish within {timeout:g} s", details=quote(words)
        ) from exc
    result = Result(words, done.returncode, done.stdout, done.stderr)
    if check and result.code != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-4000:]
        raise HostError(
            f"{words[0]} failed ({result.outcome})", details=f"$ {quote(words)}\n{said}".rstrip()
        )
    return result


def follow(
    argv: Sequence[str | os.PathLike[str]],
    tell: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    timeout: float,
) -> Result:
    """Run a program that takes long, and pass on each line that it writes.

    Args:
        argv: the words of the command; no shell is involved.
        tell: is given each line of its standard output and standard error.
        cwd: the folder to run in.
        env: variables added to the environment.
        descriptors: open files that it inherits under the same numbers.
        timeout: seconds until it is ended.

    Returns:
        What it left behind; ``stdout`` has the last lines of what it wrote.

    Raises:
        HostError: it is missing, may not be executed, or ran too long.
    """
    words = tuple(os.fspath(word) for word in argv)
    last: deque[str] = deque(maxlen=LINES_KEPT)
    with _explained(words, cwd):
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            pass_fds=tuple(descriptors),
        )
    late = threading.Event()

    def end() -> None:
        late.set()
        process.terminate()

    timer = threading.Timer(timeout, end)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip("\r\n"))
            tell(last[-1])
        code = process.wait()
    finally:
        timer.cancel()
        _end(process)
    if late.is_set():
        raise _too_long(words, timeout)
    return Result(words, code, "\n".join(last), "")


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a program to end and clean up after itself; kill it if it doesn't."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def _explained(words: Sequence[str], cwd: Path | None) -> Iterator[None]:
    """Say why a program can't be started."""
    try:
        yield
    except FileNotFoundError as exc:
        if cwd is not None and not cwd.is_dir():
            raise HostError(f"the folder {cwd} does not exist") from exc
        raise missing_program(words[0]) from exc
    except PermissionError as exc:
        raise HostError(f"{words[0]} may not be executed", hint="check its permissions") from exc
    except OSError as exc:
        raise HostError(f"{words[0]} can't be executed: {exc.strerror}") from exc


def _too_long(words: Sequence[str], timeout: float | None) -> HostError:
    return HostError(f"{words[0]} did not finish within {timeout:g} s", details=quote(words))
