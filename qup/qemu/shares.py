"""Folders that a guest mounts: QEMU's options for them, and the view in which QEMU sees them.

QEMU sees each at an empty place in the machine's runtime folder, with an empty folder wherever
qup keeps something of its own. It takes you for the guest's user, so that what is yours here is
that user's there. Nobody but QEMU sees any of that. A program that serves a folder beside QEMU has
such a view of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qup.errors import HostError
from qup.model.folders import FolderPlan, Owner
from qup.namespaces import Bind, View
from qup.ownership import make_private
from qup.paths import STATE_FOLDER, RuntimeFolder

Options = tuple[str, Mapping[str, str]]


def is_served(folder: FolderPlan) -> bool:
    """Whether QEMU serves a folder."""
    return folder.share is not None and bool(folder.share.backend)


def describe_share(folder: FolderPlan, path: Path) -> tuple[Options, Options]:
    """QEMU's ``-fsdev`` and ``-device`` for a folder that it serves.

    Args:
        folder: the folder.
        path: where QEMU finds it.
    """
    assert folder.share is not None
    backend, device = dict(folder.share.backend), dict(folder.share.device)
    fsdriver, driver = backend.pop("fsdriver"), device.pop("driver")
    backend = {"id": folder.id, "path": os.fspath(path), **backend}
    tag = folder.tag or folder.id
    return (fsdriver, backend), (driver, {"fsdev": folder.id, "mount_tag": tag, **device})


def describe_device(folder: FolderPlan) -> Options:
    """QEMU's ``-device`` for a folder that is served beside it; the ``-chardev`` is called so."""
    assert folder.share is not None
    device = dict(folder.share.device)
    driver = device.pop("driver")
    return driver, {"chardev": folder.id, "tag": folder.tag or folder.id, **device}


@dataclass(frozen=True)
class Shares:
    """Folders for one start.

    Attributes:
        paths: where QEMU finds each, by its id.
        view: what it has to be started with; None if there is no folder.
        beside: what each program that serves one beside QEMU has to be started with.
    """

    paths: Mapping[str, Path]
    view: View | None = None
    beside: Mapping[str, View] = field(default_factory=dict)


def prepare_shares(
    folders: Iterable[FolderPlan],
    owner: Owner,
    secrets: tuple[Path, ...],
    runtime: RuntimeFolder,
    project: Path,
) -> Shares:
    """Make the places for folders that QEMU serves, or a program beside it.

    Args:
        folders: a machine's folders; those that nobody here serves are left out.
        owner: the guest's user to whom yours belong.
        secrets: what is hidden.
        runtime: the machine's runtime folder, which is there.
        project: what the folders' paths begin at.

    Raises:
        HostError: a folder isn't there, or a place can't be made.
    """
    binds: dict[str, Bind] = {}
    beside: dict[str, View] = {}
    for folder in folders:
        if not (is_served(folder) or folder.vhost):
            continue
        source = find_folder(folder, project)
        place = make_private(runtime.place(folder.id))
        hidden = find_hidden(source, (*secrets, project / STATE_FOLDER))
        bind = Bind(source, place, hidden, read_only=folder.read_only)
        if folder.vhost:
            beside[folder.id] = View(owner.uid, owner.gid, (bind,))
        else:
            binds[folder.id] = bind
    view = View(owner.uid, owner.gid, tuple(binds.values())) if binds else None
    return Shares({name: bind.place for name, bind in binds.items()}, view, beside)


def is_replaced(folder: FolderPlan, pid: int, runtime: RuntimeFolder, source: Path) -> bool:
    """Whether QEMU serves another folder than the one that is here now: the one that there was when
    the machine was started has been moved away or removed since.

    Args:
        folder: the folder.
        pid: QEMU's process.
        runtime: the machine's runtime folder.
        source: where the folder is.
    """
    place = runtime.place(folder.id).resolve()
    try:
        served = Path(f"/proc/{pid}/root{place}").stat()
    except OSError:
        return False  # the kernel doesn't let us look
    try:
        return not os.path.samestat(served, source.stat())
    except OSError:
        return True


def find_folder(folder: FolderPlan, project: Path) -> Path:
    """The folder here, with links followed.

    Raises:
        HostError: there is none.
    """
    path = (project / Path(folder.host).expanduser()).resolve()
    if path.is_dir():
        return path
    reason = "is no folder" if path.exists() else "does not exist"
    raise HostError(
        f"the folder {path} {reason}",
        hint="'host' of [[machine.folders]] is relative to the Qupfile",
    )


def find_hidden(source: Path, secrets: tuple[Path, ...]) -> tuple[Path, ...]:
    """What has to be hidden in a folder, seen from it; the outermost folders only."""
    found: list[Path] = []
    for path in sorted(secrets):
        if path != source and path.is_relative_to(source) and path.is_dir():
            inner = path.relative_to(source)
            if not any(inner.is_relative_to(other) for other in found):
                found.append(inner)
    return tuple(found)
