"""The one door through which qup starts other programs."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qup.errors import HostError

TIMEOUT = 30.0
"""Seconds that a short-lived helper program may take unless the caller says otherwise."""

LINES_KEPT = 200
"""Lines of a followed program's output that its result has."""

END_TIMEOUT = 20.0
"""Seconds that a program may take to clean up after itself."""

PR_SET_PDEATHSIG = 1
"""``<linux/prctl.h>``"""

LINE_LIMIT = 8 * 1024
"""Bytes after which a line that a program prints is cut."""

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


def end_with_parent(number: signal.Signals) -> Callable[[], object]:
    """What makes the kernel signal the calling process when its parent ends (``prctl(2)``).

    Linux only; elsewhere it does nothing. It is made before a fork and called after it.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes  # 10 ms that few need

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, number)


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


class TooLong(HostError):
    """A program did not finish in time, and was ended."""

    def __init__(self, words: Sequence[str], seconds: float) -> None:
        super().__init__(f"{words[0]} did not finish within {seconds:g} s", details=quote(words))


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
        with explain_start(words[0], cwd):
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
    except subprocess.TimeoutExpired as exc:
        raise TooLong(words, timeout or 0.0) from exc
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
    timeout: float | None,
) -> Result:
    """Run a program that takes long, and pass on each line that it writes.

    It runs in a session of its own: when it takes too long, or the caller is interrupted, all
    that it started is ended with it.

    Args:
        argv: the words of the command; no shell is involved.
        tell: is given each line of its standard output and standard error, cut after 8 KiB.
        cwd: the folder to run in.
        env: variables added to the environment.
        descriptors: open files that it inherits under the same numbers.
        timeout: seconds until it is ended; None waits for ever.

    Returns:
        What it left behind; ``stdout`` has the last lines of what it wrote.

    Raises:
        TooLong: it did not finish in time.
        HostError: it is missing or may not be executed.
    """
    words = tuple(os.fspath(word) for word in argv)
    last: deque[str] = deque(maxlen=LINES_KEPT)
    deadline = None if timeout is None else time.monotonic() + timeout
    with explain_start(words[0], cwd):
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            pass_fds=tuple(descriptors),
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        for line in _read_lines(process.stdout.fileno(), deadline):
            last.append(line)
            tell(line)
        code = process.wait(_left(deadline))
    except BaseException as exc:
        _end(process)
        if isinstance(exc, TimeoutError | subprocess.TimeoutExpired):
            raise TooLong(words, timeout or 0.0) from None
        raise
    finally:
        process.stdout.close()
    return Result(words, code, "\n".join(last), "")


def _left(deadline: float | None) -> float | None:
    """Seconds until a deadline on the monotonic clock; None for any number."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _read_lines(source: int, deadline: float | None) -> Iterator[str]:
    """What comes from a descriptor, line by line.

    Raises:
        TimeoutError: the deadline came before the end.
    """
    poller = select.poll()
    poller.register(source, select.POLLIN)
    rest = b""
    while True:
        left = _left(deadline)
        if left == 0 or not poller.poll(None if left is None else left * 1000):
            raise TimeoutError
        data = os.read(source, 64 * 1024)
        *lines, rest = (rest + data).split(b"\n")
        while len(rest) > LINE_LIMIT or (rest and not data):
            lines.append(rest[:LINE_LIMIT])
            rest = rest[LINE_LIMIT:]
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
        if not data:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program and what it started to end, then kill what is left of them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def explain_start(program: str, cwd: Path | None = None) -> Iterator[None]:
    """Say why a program can't be started in a folder.

    Raises:
        HostError: instead of the OSError.
    """
    try:
        yield
    except FileNotFoundError as exc:
        if cwd is not None and not cwd.is_dir():
            raise HostError(f"the folder {cwd} does not exist") from exc
        raise missing_program(program) from exc
    except PermissionError as exc:
        raise HostError(f"{program} may not be executed", hint="check its permissions") from exc
    except OSError as exc:
        raise HostError(f"{program} can't be executed: {exc.strerror}") from exc
