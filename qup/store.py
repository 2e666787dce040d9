"""What a project keeps in ``.qup/``: one folder a machine, its lock, its state.

Writers hold the machine's lock; readers need none, because a state is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qup.errors import StateError
from qup.files import explain_os_error, write_atomic
from qup.locks import lock
from qup.model.state import STATE_SCHEMA, State
from qup.ownership import make_private
from qup.paths import MachineFolder, Project, index_root, undo_root

REMOVE_TRIES = 10
"""Times that a machine's folder is removed while somebody writes into it."""


def create_folders(project: Project, name: str) -> MachineFolder:
    """Make ``.qup/machines/<name>/`` with what belongs around it."""
    make_private(project.state)
    ignore = project.state / ".gitignore"
    if not ignore.exists():
        write_atomic(ignore, "*\n", durable=False)
    make_private(project.machines)
    make_private(project.locks)
    folder = project.machine(name)
    make_private(folder.root)
    make_private(folder.logs)
    make_private(folder.ssh)
    return folder


def find_project_id(project: Project) -> str | None:
    """The project's id, if it has one. A copy of a project has none: it is another project.

    Which is which the folder itself tells: by its inode, which a move within a file system
    leaves as it is, and a copy doesn't have.
    """
    try:
        data = json.loads(project.identity.read_bytes())
        here = project.state.stat()
        if [data["device"], data["inode"]] == [here.st_dev, here.st_ino]:
            return str(data["id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def ensure_project_id(project: Project) -> str:
    """The project's id; made now if it has none. Several can ask at once."""
    if known := find_project_id(project):
        return known
    folder = os.open(project.state, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if known := find_project_id(project):
            return known
        here = os.fstat(folder)
        fresh = {"id": os.urandom(16).hex(), "device": here.st_dev, "inode": here.st_ino}
        write_atomic(project.identity, json.dumps(fresh) + "\n")
        return str(fresh["id"])
    finally:
        os.close(folder)


def lock_machine(
    folder: MachineFolder, *, timeout: float, on_wait: Callable[[str], None] | None = None
) -> contextlib.AbstractContextManager[None]:
    """Hold a machine's lock; see :func:`lock`."""
    with contextlib.suppress(FileNotFoundError):  # no .qup: opening the lock will say so
        folder.lock.parent.mkdir(mode=0o700, exist_ok=True)
    return lock(folder.lock, what=f"machine {folder.name}", timeout=timeout, on_wait=on_wait)


def read_state(folder: MachineFolder) -> State | None:
    """A machine's state, or None if it was never started.

    Raises:
        StateError: the file is damaged or comes from a newer qup.
    """
    try:
        text = folder.state.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise _broken(folder, f"can't be read: {exc.strerror}") from exc
    try:
        data = json.loads(text)
        schema = data["schema"]
        if isinstance(schema, int) and schema > STATE_SCHEMA:
            raise StateError(
                f"machine {folder.name}: {folder.state} was written by a newer qup"
                f" (schema {schema}, this qup knows {STATE_SCHEMA})",
                hint="upgrade qup; nothing was changed",
                machine=folder.name,
            )
        return State.from_dict(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise _broken(folder, "is damaged") from exc


def _broken(folder: MachineFolder, reason: str) -> StateError:
    return StateError(
        f"machine {folder.name}: {folder.state} {reason}",
        hint=f"'qup destroy {folder.name}' removes the machine and its disk;"
        f" to keep the disk, copy {folder.disk} first",
        machine=folder.name,
    )


def write_state(folder: MachineFolder, state: State) -> None:
    """Replace a machine's state."""
    write_atomic(folder.state, json.dumps(state.to_dict(), indent=2) + "\n")


def machine_names(project: Project) -> list[str]:
    """Names of the machines that have a folder, created or half-made."""
    try:
        with os.scandir(project.machines) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise explain_os_error("read", project.machines, exc) from exc


def remove_machine(folder: MachineFolder) -> None:
    """Remove a machine's folder. Its state goes first, so that a half-removed machine is
    never taken for a whole one.

    Raises:
        HostError: something in it can't be removed.
    """
    import shutil

    with contextlib.suppress(OSError):
        folder.state.unlink()
    for left in reversed(range(REMOVE_TRIES)):
        try:
            shutil.rmtree(folder.root)
            break
        except FileNotFoundError:
            break
        except OSError as exc:
            # Whoever begins to wait for the machine's lock notes that in its log, once.
            if exc.errno == errno.ENOTEMPTY and left:
                continue
            raise explain_os_error("remove", folder.root, exc) from exc


# --- The index: where this user's machines are. Losing it loses nothing. ---


class IndexEntry(NamedTuple):
    """Where a machine was last seen."""

    id: str
    project: Path
    name: str


def remember(state: State, project: Project) -> None:
    """Note in the index where a machine is."""
    root = make_private(index_root())
    entry = {"project": os.fspath(project.home), "name": state.name}
    write_atomic(root / f"{state.id}.json", json.dumps(entry), durable=False)


def forget(machine_id: str) -> None:
    """Take a machine out of the index."""
    with contextlib.suppress(OSError):
        (index_root() / f"{machine_id}.json").unlink()


def lookup(machine_id: str) -> IndexEntry | None:
    """Where a machine was last seen, or None."""
    return _read_entry(index_root() / f"{machine_id}.json")


def indexed() -> list[IndexEntry]:
    """All machines of this user that the index knows, whether they still exist or not."""
    try:
        names = sorted(path for path in index_root().iterdir() if path.suffix == ".json")
    except OSError:
        return []
    return [entry for path in names if (entry := _read_entry(path)) is not None]


def is_copy(state: State, folder: MachineFolder) -> bool:
    """Whether a machine's folder is a copy, and the original is still in its place.

    What is known by the machine's id (its sockets, its journal, its QEMU) is the original's
    then, and none of this folder's business. A project that was moved is no copy.
    """
    entry = lookup(state.id)
    if entry is None:
        return False
    original = Project(entry.project).machine(entry.name)
    try:
        if original.root.samefile(folder.root):
            return False
        twin = read_state(original)
    except (OSError, StateError):
        return False
    return twin is not None and twin.id == state.id


def _read_entry(path: Path) -> IndexEntry | None:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        return IndexEntry(path.stem, Path(data["project"]), str(data["name"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- The journal: how to take back what a start did to the host. It is kept with the user and
# not with the project, because its lines are executed and a project may come from anybody. ---


def write_undo(machine_id: str, commands: Sequence[Sequence[str]]) -> None:
    """Note how to take back what is about to be done for a machine."""
    make_private(undo_root())
    write_atomic(undo_root() / f"{machine_id}.json", json.dumps([list(c) for c in commands]))


def read_undo(machine_id: str) -> list[list[str]]:
    """What was noted and not cleared; the last to be done is the first to be undone."""
    try:
        data = json.loads((undo_root() / f"{machine_id}.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [[str(word) for word in words] for words in reversed(data)]


def clear_undo(machine_id: str) -> None:
    """All of it was taken back."""
    with contextlib.suppress(OSError):
        (undo_root() / f"{machine_id}.json").unlink()
