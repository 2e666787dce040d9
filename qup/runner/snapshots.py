"""Where a machine's snapshots are: ``snapshots/ID/`` in its folder.

Each has all its files, so any can be removed. A folder is made aside (``.new``) and renamed; what
has no whole ``snapshot.json`` is none. Who changes them holds the machine's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qup.errors import MachineError, QupError, StateError, UsageError
from qup.files import explain_os_error, sync_folder, write_atomic
from qup.model.snapshot import NAME, SAVE_POINT, Snapshot
from qup.ownership import make_private
from qup.paths import MachineFolder, Project
from qup.store import indexed

MANIFEST = "snapshot.json"
NEW = ".new"
CURRENT, SAVING, RESTORING = "current", "saving", "restoring"
"""The snapshot that the machine comes from; marks of what is under way."""
DRAFT = "draft"
"""The mark of a machine that is about to become a template: the template's id."""
BLOCK = 512
"""What ``st_blocks`` counts (``stat(2)``)."""


def list_snapshots(folder: MachineFolder) -> list[Snapshot]:
    """All of the user's that can be read, the oldest first."""
    return [item for item in list_all(folder) if item.name != SAVE_POINT]


def list_all(folder: MachineFolder) -> list[Snapshot]:
    """All that can be read, what ``reset`` goes back to among them, the oldest first."""
    found = []
    for path in folder.snapshots.glob(f"[!.]*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            item = Snapshot.from_dict(json.loads(path.read_bytes()))
            if item.id == path.parent.name:
                found.append(item)
    return sorted(found, key=lambda item: (item.created, item.id))


def check_name(name: str) -> None:
    """Raises UsageError: a snapshot can't be called so."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a snapshot can't be called {name!r}",
            hint="letters, digits, '.', '_' and '-', at most 64, with a letter or digit at each"
            " end: before-upgrade",
        )


def find_snapshot(folder: MachineFolder, name: str) -> Snapshot:
    """The snapshot of that name; the newest, if a replacement was cut off.

    Raises:
        MachineError: there is none.
    """
    known = list_snapshots(folder)
    found = [item for item in known if item.name == name]
    if found:
        return found[-1]
    names = ", ".join(dict.fromkeys(item.name for item in known)) or "none"
    raise MachineError(
        f"machine {folder.name} has no snapshot {name!r}",
        hint=f"it has: {names}; 'qup snapshot save NAME {folder.name}' makes one",
        machine=folder.name,
    )


def read_mark(folder: MachineFolder, name: str) -> str | None:
    """What a mark says; None if there is none."""
    try:
        return (folder.snapshots / name).read_text().strip()
    except (OSError, ValueError):
        return None


def write_mark(folder: MachineFolder, name: str, text: str) -> None:
    """Leave a mark, safely on disk."""
    make_private(folder.snapshots)
    write_atomic(folder.snapshots / name, text + "\n")


def clear_mark(folder: MachineFolder, name: str) -> None:
    with contextlib.suppress(OSError):
        (folder.snapshots / name).unlink()


def forget_origin(folder: MachineFolder) -> None:
    """The machine begins anew: it comes from no snapshot, and nothing is under way."""
    for name in (CURRENT, SAVING, RESTORING, DRAFT):
        clear_mark(folder, name)


def open_draft(folder: MachineFolder) -> Path:
    """An empty folder for a new snapshot; what an interrupted one left is removed."""
    draft = make_private(folder.snapshots) / NEW
    remove_draft(folder)
    return make_private(draft)


def remove_draft(folder: MachineFolder) -> None:
    shutil.rmtree(folder.snapshots / NEW, ignore_errors=True)


def publish(folder: MachineFolder, snapshot: Snapshot) -> Snapshot:
    """Make the draft the snapshot that it is; it replaces those of its name.

    Returns:
        It, with the sizes of its files.

    Raises:
        HostError: it can't be written.
    """
    draft = folder.snapshots / NEW
    names = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
    sizes = {name: (draft / name).stat().st_size for name in names}
    snapshot = replace(snapshot, files=sizes)
    old = [item for item in list_all(folder) if item.name == snapshot.name]
    try:
        for path in draft.rglob("*"):
            if path.is_file():
                _flush(path)
        write_atomic(draft / MANIFEST, json.dumps(snapshot.to_dict(), indent=1))
        os.replace(draft, folder.snapshots / snapshot.id)
        sync_folder(folder.snapshots)
    except OSError as exc:
        raise explain_os_error("write the snapshot in", draft, exc) from exc
    if snapshot.name != SAVE_POINT:
        write_mark(folder, CURRENT, snapshot.id)
    for item in old:
        remove_snapshot(folder, item)
    return snapshot


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_snapshot(folder: MachineFolder, snapshot: Snapshot) -> None:
    """Remove one; its children become its parent's.

    Raises:
        HostError: something in it can't be removed.
    """
    path = folder.snapshots / snapshot.id
    try:
        for child in list_all(folder):
            if child.parent == snapshot.id:
                adopted = replace(child, parent=snapshot.parent)
                text = json.dumps(adopted.to_dict(), indent=1)
                write_atomic(folder.snapshots / child.id / MANIFEST, text)
        if read_mark(folder, CURRENT) == snapshot.id:
            if snapshot.parent:
                write_mark(folder, CURRENT, snapshot.parent)
            else:
                clear_mark(folder, CURRENT)
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
    except OSError as exc:
        raise explain_os_error("remove", path, exc) from exc


def find_family(folder: MachineFolder, snapshot: Snapshot) -> list[Snapshot]:
    """A snapshot and all that come from it, parents first."""
    family = [snapshot]
    known = list_snapshots(folder)
    for item in family:
        family += [child for child in known if child.parent == item.id and child not in family]
    return family


def remove_leftovers(folder: MachineFolder) -> None:
    """Remove what an interrupted removal or saving left; the caller holds the lock."""
    with contextlib.suppress(OSError):
        for path in folder.snapshots.iterdir():
            if path.is_dir() and not (path / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)


def measure(folder: MachineFolder, snapshot: Snapshot) -> int:
    """Bytes that it takes up on disk."""
    total = 0
    for name in snapshot.files:
        with contextlib.suppress(OSError):
            total += (folder.snapshots / snapshot.id / name).stat().st_blocks * BLOCK
    return total


def check_files(folder: MachineFolder, snapshot: Snapshot) -> None:
    """Make sure that all its files are there, as large as they were.

    Raises:
        StateError: it is damaged.
    """
    for name, size in snapshot.files.items():
        path = folder.snapshots / snapshot.id / name
        try:
            info = path.lstat()
        except OSError:
            reason = f"{name} is missing"
        else:
            if path.is_file() and not path.is_symlink() and info.st_size == size:
                continue
            reason = f"{name} is not what was saved"
        raise StateError(
            f"machine {folder.name}: snapshot {snapshot.name} is damaged: {reason}",
            hint=f"'qup snapshot delete {snapshot.name} {folder.name}' removes it; the machine is"
            " as it was",
            machine=folder.name,
        )


def find_template_users(template: str) -> Iterator[str]:
    """Machines of this user that have a snapshot whose disk is based on a template."""
    for entry in indexed():
        with contextlib.suppress(QupError, OSError):
            folder = Project(entry.project).machine(entry.name)
            if any(item.template == template for item in list_all(folder)):
                yield f"{entry.project}: {entry.name}"
