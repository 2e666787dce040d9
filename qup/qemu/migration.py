"""A guest's device state: written to a file, and read back by another QEMU.

Memory that is a shared file is left out (``x-ignore-shared``): saving takes milliseconds. For
a guest whose memory is no such file, the state has all of it (``whole``). It goes through a
descriptor that QEMU is handed, because its sandbox lets it start nothing and because no path of
ours has to be understood by it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Protocol

from qup.errors import MachineError
from qup.files import explain_os_error
from qup.qemu.qmp import CommandFailed, MonitorError, QmpEvent

UNLIMITED = 1 << 40
"""Bytes a second: QEMU's own limit is for networks."""
LATE_ANNOUNCEMENT = {"announce-rounds": 1, "announce-initial": 30_000}
"""QEMU has a guest announce its addresses five times within half a second, when those of one from
a template are still the template's; so once, after 30 s. Without any round QEMU 7.2 dies when the
guest restarts."""
NAME = "state"
"""What QEMU calls the descriptor."""
COMPLETED, FAILED = "completed", "failed"
ENDED = (COMPLETED, FAILED, "cancelled")
GO_ON_TIMEOUT = 10.0
POLL = 0.02
"""Seconds between two looks at a migration that is being given up."""
FINISHING = "finish-migrate"
"""QEMU's run state while it winds a migration up."""


class Monitor(Protocol):
    """The part of :class:`qup.qemu.qmp.Qmp` that is needed here."""

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout: float = 5.0,
        fds: tuple[int, ...] = (),
    ) -> Any: ...
    def wait(self, deadline: float) -> QmpEvent | None: ...


class MigrationError(MachineError):
    """A guest's state can't be written or read."""


def save_state(monitor: Monitor, path: Path, *, timeout: float, whole: bool = False) -> None:
    """Stop a guest and write its state to a new file; the guest stays stopped.

    Args:
        monitor: QEMU's.
        path: the file; it must not exist.
        timeout: seconds that it may take.
        whole: with all of its memory.

    Raises:
        HostError: the file can't be made.
        MigrationError: QEMU can't do it, died, or took too long.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise explain_os_error("make", path, exc) from exc
    _migrate(monitor, handle, ("stop", "migrate"), timeout, whole=whole)


def load_state(monitor: Monitor, path: Path, *, timeout: float, whole: bool = False) -> None:
    """Read a guest's state into a QEMU that was started with ``-incoming defer``; the guest
    stays stopped.

    Raises:
        HostError: the file can't be read.
        MigrationError: it doesn't fit this QEMU, QEMU died of it, or it took too long.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as exc:
        raise explain_os_error("read", path, exc) from exc
    _migrate(monitor, handle, ("migrate-incoming",), timeout, whole=whole)


def _migrate(
    monitor: Monitor, handle: int, commands: tuple[str, ...], timeout: float, *, whole: bool
) -> None:
    deadline = time.monotonic() + timeout
    try:
        _enable(monitor, "events", True)
        # A QEMU that can't leave memory out saves all of it anyway.
        with contextlib.suppress(*([CommandFailed] if whole else [])):
            _enable(monitor, "x-ignore-shared", not whole)
        parameters = {"max-bandwidth": UNLIMITED} if whole else LATE_ANNOUNCEMENT
        monitor.execute("migrate-set-parameters", parameters)
        monitor.execute("getfd", {"fdname": NAME}, fds=(handle,))
        for command in commands:
            uri = {} if command == "stop" else {"uri": f"fd:{NAME}"}
            monitor.execute(command, uri, timeout=max(0.1, deadline - time.monotonic()))
        _wait(monitor, deadline, timeout)
    except CommandFailed as exc:
        raise MigrationError(f"QEMU can't do it: {exc.description}") from exc
    except MonitorError as exc:
        raise MigrationError(f"QEMU did not survive it: {exc.message}") from exc
    finally:
        os.close(handle)


def _enable(monitor: Monitor, capability: str, state: bool) -> None:
    capabilities = [{"capability": capability, "state": state}]
    monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})


def _wait(monitor: Monitor, deadline: float, timeout: float) -> None:
    status = ""
    while status not in ENDED:
        event = monitor.wait(deadline)
        if event is None:
            raise MigrationError(f"QEMU did not finish within {timeout:g} s")
        if event.name == "MIGRATION":
            status = str(event.data.get("status"))
    if status != COMPLETED:
        reason = monitor.execute("query-migrate").get("error-desc", status)
        raise MigrationError(f"QEMU failed: {reason}")
    # The event comes before QEMU is done with it, and 'cont' would be refused until then.
    while monitor.execute("query-status")["status"] == FINISHING:
        if time.monotonic() >= deadline:
            raise MigrationError(f"QEMU did not finish within {timeout:g} s")


def let_go_on(monitor: Monitor, *, timeout: float = GO_ON_TIMEOUT) -> None:
    """Let a guest run whose state is being saved, or was; a saving under way is given up.

    Args:
        monitor: QEMU's.
        timeout: seconds that QEMU may take to give up.

    Raises:
        CommandFailed: QEMU refuses.
    """
    deadline = time.monotonic() + timeout
    with contextlib.suppress(CommandFailed):
        monitor.execute("migrate_cancel")
        while _is_under_way(monitor) and time.monotonic() < deadline:
            monitor.wait(time.monotonic() + POLL)
    monitor.execute("cont")


def _is_under_way(monitor: Monitor) -> bool:
    migration = monitor.execute("query-migrate").get("status", COMPLETED)
    return migration not in ("none", *ENDED) or (
        monitor.execute("query-status")["status"] == FINISHING
    )
