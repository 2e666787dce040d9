"""Locks that the kernel drops when their holder ends, with a note in them of who that is."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from qup.errors import StateError
from qup.files import explain_os_error

LOCK_RETRY = 0.05
"""Seconds between two tries for a lock that another process holds (``flock`` has no limit)."""

ANONYMOUS = 10
"""Tries after which a lock's holder, who has not said who it is, is waited for aloud."""


class Holder(NamedTuple):
    """Who holds a lock."""

    pid: int
    command: str
    user: str
    since: float

    def __str__(self) -> str:
        seconds = max(0, round(time.time() - self.since))
        return f"'{self.command}' (pid {self.pid}, user {self.user}) for {seconds} s"


@contextlib.contextmanager
def lock(
    path: Path,
    *,
    what: str,
    timeout: float,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold an exclusive lock that the kernel drops when this process ends, however it does.

    Args:
        path: the lock's file; it is created and never removed by a lock.
        what: what is locked, for messages: ``machine web``.
        timeout: seconds to wait for another holder.
        on_wait: told once who is being waited for.

    Raises:
        StateError: somebody else held it all the time; the message says who.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise explain_os_error("lock", path, exc) from exc
    with os.fdopen(handle, "r+") as file:
        _acquire(file.fileno(), path, what=what, timeout=timeout, on_wait=on_wait)
        file.truncate(0)
        file.write(json.dumps(_describe_self()))
        file.flush()
        yield


def _acquire(
    handle: int, path: Path, *, what: str, timeout: float, on_wait: Callable[[str], None] | None
) -> None:
    deadline = time.monotonic() + timeout
    told = False
    for tries in itertools.count():
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = read_holder(path)
            by = f" by {holder}" if holder else ""
            if time.monotonic() >= deadline:
                raise StateError(
                    f"{what} is locked{by}",
                    hint="wait for it to end, or say how long to wait with --lock-timeout",
                ) from None
            # Whoever has it may not have written who it is yet.
            if not told and on_wait is not None and (holder or tries > ANONYMOUS):
                on_wait(f"waiting for {what}, locked{by}")
                told = True
            time.sleep(min(LOCK_RETRY, max(0.0, deadline - time.monotonic())))


def _describe_self() -> dict[str, object]:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    if words[0] == "__main__.py":
        words[0] = "qup"
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {"pid": os.getpid(), "command": " ".join(words), "user": user, "since": time.time()}


def read_holder(path: Path) -> Holder | None:
    """Who wrote itself into a lock's file last, or None if that can't be read."""
    try:
        data = json.loads(path.read_text())
        return Holder(data["pid"], data["command"], data["user"], data["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
