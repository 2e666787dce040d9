"""Whose files and folders are: nobody else may have put something where qup reads or writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qup.errors import ConfigError, HostError


def _is_folder_of_ours(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid()


def make_private(path: Path) -> Path:
    """Create a folder that only this user can enter, with its parents.

    Raises:
        HostError: it can't be made, or something that isn't ours is in its place.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_folder_of_ours(path):
            raise HostError(f"{path} belongs to somebody else or is no folder")
        if stat.S_IMODE(path.lstat().st_mode) != 0o700:  # it may be where nothing can be written
            path.chmod(0o700)
    except OSError as exc:
        raise HostError(
            f"can't create {path}: {exc.strerror}",
            hint=f"{path.parent} must be a folder that you can write to",
        ) from exc
    return path


def create_runtime(root: Path) -> None:
    """Make the folder for a machine's sockets, where nobody else can have put anything.

    The folder above may be one that the user named: its mode is not ours to change.

    Raises:
        HostError: the folder above belongs to somebody else, or others may write to it.
    """
    above = root.parent
    try:
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_folder_of_ours(above) or above.stat().st_mode & 0o022:
            raise HostError(
                f"others may write to the folder for sockets, or it is not yours: {above}",
                hint="remove it, or set QUP_RUNTIME_DIR to a folder of your own",
            )
    except OSError as exc:
        raise HostError(f"can't create {above}: {exc.strerror}") from exc
    make_private(root)


def refuse_foreign_cache(root: Path) -> Path:
    """A part of the cache as it is, unless others could put something there: what it holds
    becomes memory and disks.

    Raises:
        HostError: it belongs to somebody else.
    """
    try:
        ours = _is_folder_of_ours(root)
    except OSError:
        return root  # it is not there yet
    if not ours:
        raise HostError(
            f"{root} belongs to somebody else or is no folder",
            hint="each user has a cache of their own: set QUP_CACHE_DIR to a folder of yours",
        )
    return root


def refuse_foreign_qupfile(qupfile: Path) -> None:
    """Accept the Qupfile of this user, of root, or of whoever called sudo.

    Raises:
        ConfigError: it belongs to somebody else and ``QUP_ALLOW_FOREIGN`` is not set.
    """
    owner = qupfile.lstat().st_uid
    mine = {os.getuid(), 0}
    if os.getuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        mine.add(int(os.environ["SUDO_UID"]))
    if owner not in mine and os.getuid() != 0 and not os.environ.get("QUP_ALLOW_FOREIGN"):
        raise ConfigError(
            f"{qupfile} belongs to another user (uid {owner})",
            hint="copy the project, or set QUP_ALLOW_FOREIGN=1 if you trust its owner",
        )
