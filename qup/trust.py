"""What the user has allowed to run code on this computer: by project and by content.

Kept in the user's own configuration, never in a project: ``{"/path/of/project": "digest"}``.
A project is trusted as its Qupfile is now; one that changes has to be trusted again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from qup import paths
from qup.errors import StateError
from qup.files import explain_os_error, write_atomic
from qup.ownership import make_private

MAX_BYTES = 16 * 1024 * 1024


def is_trusted(project_root: Path, digest: str) -> bool:
    """Whether the user has trusted a project with exactly this content.

    A file that can't be read or understood trusts nothing.
    """
    try:
        return _read(paths.trust_file()).get(_key(project_root)) == digest
    except (OSError, ValueError):
        return False


def trust(project_root: Path, digest: str) -> None:
    """Remember that a project is trusted with this content, and with no other.

    Raises:
        StateError: the file is damaged; it is left as it is.
        HostError: it can't be written.
    """
    with _changing() as trusted:
        trusted[_key(project_root)] = digest


def distrust(project_root: Path) -> None:
    """Forget that a project was trusted.

    Raises:
        StateError: the file is damaged; it is left as it is.
        HostError: it can't be written.
    """
    if not os.path.lexists(paths.trust_file()):
        return
    with _changing() as trusted:
        trusted.pop(_key(project_root), None)


def _key(project_root: Path) -> str:
    """The folder's real path; bytes that are no UTF-8 keep apart from those that are."""
    return os.fspath(project_root.resolve())


@contextlib.contextmanager
def _changing() -> Iterator[dict[str, str]]:
    """The file's content, to be changed while nobody else can."""
    path = paths.trust_file()
    with _locked(make_private(path.parent) / f"{path.name}.lock"):
        trusted = _read_or_refuse(path)
        before = dict(trusted)
        yield trusted
        if trusted != before:
            write_atomic(path, json.dumps(trusted, indent=2, sort_keys=True) + "\n", mode=0o600)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel lets go of when this process ends, however it does."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise explain_os_error("lock", path, exc) from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, str]:
    """The projects and their digests.

    Raises:
        OSError: the file can't be read.
        ValueError: it isn't what this module writes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(content) > MAX_BYTES:
        raise ValueError("it is too large")
    try:
        trusted = json.loads(content)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(trusted, dict) or not all(isinstance(item, str) for item in trusted.values()):
        raise ValueError("it is not a table of digests")
    return trusted


def _read_or_refuse(path: Path) -> dict[str, str]:
    try:
        return _read(path)
    except OSError as exc:
        raise explain_os_error("read", path, exc) from exc
    except ValueError as exc:
        raise StateError(
            f"the list of trusted projects is damaged: {path}",
            hint="look at it, then delete it: projects have to be trusted again",
            details=str(exc),
        ) from exc
