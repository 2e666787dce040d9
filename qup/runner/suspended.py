"""Where a suspended machine's memory is: ``suspended/`` in its folder.

It is made aside and renamed while QEMU still holds the guest, which stands still; and it is
renamed away before the guest runs again. So wherever qup is killed, or the computer goes down:
memory in ``suspended/`` is that of a guest that has not run since, and fits the disks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qup.errors import MachineError, StateError
from qup.files import explain_os_error, sync_folder, write_atomic
from qup.model.suspension import Suspension
from qup.ownership import make_private
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.observe import SUSPENDED, Observation

MANIFEST = "suspension.json"
MEMORY = "memory"
BLOCK = 4 << 20
SECOND = 1_000_000_000


def is_suspended(folder: MachineFolder) -> bool:
    """Whether there is memory to resume the machine from; sound or not."""
    return folder.suspended.is_dir()


def memory_of(folder: MachineFolder) -> Path:
    """The file with the memory."""
    return folder.suspended / MEMORY


def read_suspension(folder: MachineFolder) -> Suspension:
    """What is known about it, once it is sure that its file is as large as it was.

    Raises:
        StateError: it is damaged.
    """
    try:
        found = Suspension.from_dict(json.loads((folder.suspended / MANIFEST).read_bytes()))
        info = memory_of(folder).lstat()
    except OSError as exc:
        name = Path(str(exc.filename)).name
        raise damaged(folder, f"{name} can't be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise damaged(folder, f"{MANIFEST} is not what was saved") from exc
    if info.st_size != found.size:
        raise damaged(folder, f"{MEMORY} has {info.st_size} bytes instead of {found.size}")
    return found


def damaged(folder: MachineFolder, reason: str) -> StateError:
    """The error about memory that isn't what was saved; nothing has been changed."""
    return StateError(
        f"machine {folder.name} is suspended, and its memory is damaged: {reason}",
        hint=explain_choice(folder.name, "put the file back"),
        machine=folder.name,
    )


def explain_choice(machine: str, way: str) -> str:
    """What can be done where memory does not fit: mend it, or give it up."""
    return (
        f"{way}; or give its memory up, as a power cut would, and keep its disks: 'qup down"
        f" --force {machine}', or 'qup reload --force {machine}' to boot it at once"
    )


def open_draft(folder: MachineFolder) -> Path:
    """An empty folder for memory that is to be saved; the file in it."""
    remove_leftovers(folder)
    return make_private(folder.suspending) / MEMORY


def publish(folder: MachineFolder, suspension: Suspension) -> None:
    """From now on the machine is suspended; the memory is safely on disk.

    Raises:
        HostError: it can't be written.
    """
    draft = folder.suspending
    write_atomic(draft / MANIFEST, json.dumps(suspension.to_dict(), indent=1))
    try:
        sync_folder(draft)
        os.replace(draft, folder.suspended)
        sync_folder(folder.root)
    except OSError as exc:
        raise explain_os_error("write the memory in", draft, exc) from exc


def consume(folder: MachineFolder) -> None:
    """From now on the machine is not suspended any more: its guest is about to run.

    Raises:
        HostError: that can't be written down.
    """
    shutil.rmtree(folder.resumed, ignore_errors=True)
    try:
        os.replace(folder.suspended, folder.resumed)
        sync_folder(folder.root)
    except OSError as exc:
        raise explain_os_error("rename", folder.suspended, exc) from exc


def put_back(folder: MachineFolder) -> None:
    """Take :func:`consume` back: it is certain that the guest has not run.

    Raises:
        HostError: that can't be written down.
    """
    try:
        os.replace(folder.resumed, folder.suspended)
        sync_folder(folder.root)
    except OSError as exc:
        raise explain_os_error("rename", folder.resumed, exc) from exc


def discard(folder: MachineFolder) -> bool:
    """Give the memory up; whether there was any.

    Raises:
        HostError: it can't be.
    """
    found = is_suspended(folder)
    if found:
        consume(folder)
    remove_leftovers(folder)
    return found


def give_memory_up(ctx: Context, folder: MachineFolder, seen: Observation, *, force: bool) -> bool:
    """Discard what a machine that is shut down would be resumed from; whether there was any.

    Raises:
        MachineError: the guest has to be resumed first, so that it can shut down.
    """
    if seen.status == SUSPENDED and not force:
        raise MachineError(
            f"machine {folder.name} is suspended: its guest has to go on to be shut down",
            hint=f"'qup resume {folder.name}' first; or 'qup down --force {folder.name}' gives its"
            " memory up, as a power cut would, and keeps its disks",
            machine=folder.name,
        )
    found = discard(folder)  # a QEMU that lives has all that is in it
    if found and not seen.alive:
        ctx.tell(
            folder.name,
            "was suspended; its memory is discarded, its disks stay",
            level="warning",
        )
    return found and not seen.alive


def remove_leftovers(folder: MachineFolder) -> None:
    """Remove memory that was used up, or never whole; the caller holds the lock."""
    for path in (folder.suspending, folder.resumed):
        shutil.rmtree(path, ignore_errors=True)


def digest_file(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        HostError: it can't be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as exc:
        raise explain_os_error("read", path, exc) from exc
    return digest.hexdigest()


def flush_file(path: Path) -> None:
    """Have a file safely on disk.

    Raises:
        HostError: it can't be.
    """
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as exc:
        raise explain_os_error("write", path, exc) from exc


def look_at_disks(paths: Mapping[str, Path]) -> dict[str, tuple[int, int]]:
    """Size and time of the last change of each file, by its name."""
    found = {}
    for name, path in paths.items():
        with contextlib.suppress(OSError):
            info = path.stat()
            found[name] = (info.st_size, info.st_mtime_ns)
    return found


def find_changed(before: Mapping[str, Any], now: Mapping[str, tuple[int, int]]) -> str | None:
    """The first disk that was changed without its guest, in words; or None.

    A copy of a project may have lost the fractions of seconds.
    """
    for name, (size, changed) in before.items():
        if name not in now:
            return f"{name} is gone"
        size_now, changed_now = now[name]
        same_time = changed_now == changed or changed_now == changed - changed % SECOND
        if size_now != size or not same_time:
            return f"{name} was changed"
    return None
