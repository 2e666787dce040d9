"""Writing files so that a crash leaves the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from qup.errors import ConfigError, HostError, QupError


def explain_os_error(action: str, path: Path, exc: OSError) -> QupError:
    """Turn an OSError into an error that says which file, why, and what to do."""
    hint = None
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free some space on the file system of {path.parent} ('df -h {path.parent}')"
    elif exc.errno == errno.EROFS:
        hint = "the file system is read-only; copy the project to one that can be written"
    elif exc.errno in (errno.EACCES, errno.EPERM):
        hint = "check who owns it ('ls -ld') and its permissions"
    return HostError(f"can't {action} {path}: {exc.strerror or exc}", hint=hint)


def is_outside(path: str, folder: Path) -> bool:
    """Whether a path, seen from a folder and with links followed, leads out of the folder."""
    try:
        return not (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a circle of links
        return True


def read_text(path: Path, what: str, *, limit: int) -> str:
    """Read a text file of the user's.

    Args:
        path: the file.
        what: what it is, for messages: ``machine web: userdata``.
        limit: the most bytes that it may have.

    Raises:
        ConfigError: it isn't there, may not be read, is no file, too large, or no text.
    """
    try:
        # A fifo must not make the open wait.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{what}: {path} is not a file", hint="name a text file")
            content = file.read(limit + 1)
    except OSError as exc:
        reason = "is a folder" if exc.errno == errno.EISDIR else f"can't be read: {exc.strerror}"
        raise ConfigError(f"{what}: {path} {reason}", hint="name a text file") from exc
    if len(content) > limit:
        raise ConfigError(f"{what}: {path} is too large: the most is {limit // 1024} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{what}: {path} is no text", hint="save it as UTF-8") from exc


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a file's content: written aside, flushed to disk, then renamed into place.

    Args:
        path: the file.
        data: its new content.
        mode: its permissions.
        durable: flush it to disk; for what can be made again, the rename alone is enough.

    Raises:
        HostError: the file can't be written; the old content is still there.
    """
    import tempfile  # what only reads doesn't need it

    payload = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        if durable:
            sync_folder(path.parent)
    except OSError as exc:
        raise explain_os_error("write", path, exc) from exc
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


FICLONE = 0x40049409
"""``ioctl_ficlone(2)``"""
BLOCK = 4 << 20


def clone_file(source: Path, target: Path, *, durable: bool = True) -> None:
    """Copy a file, with its holes. Where the file system can share blocks, it takes no time and
    no space.

    Args:
        source: the file.
        target: the new one; it must not exist.
        durable: flush it to disk.

    Raises:
        HostError: it can't be written; nothing is left of it.
    """
    try:
        with source.open("rb") as old, target.open("xb") as new:
            os.fchmod(new.fileno(), 0o600)
            try:
                fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
            except OSError:
                _copy_data(old.fileno(), new.fileno())
            if durable:
                os.fsync(new.fileno())
    except OSError as exc:
        with contextlib.suppress(OSError):
            target.unlink()
        raise explain_os_error("copy to", target, exc) from exc


def _copy_data(old: int, new: int) -> None:
    size = os.fstat(old).st_size
    os.ftruncate(new, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(old, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(old, at, os.SEEK_HOLE)
        while at < end:
            data = os.pread(old, min(BLOCK, end - at), at)
            if not data:
                return
            at += os.pwrite(new, data, at)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, where the system allows that."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rotate_file(path: Path, *, over: int = 0) -> None:
    """Set a log aside as ``<name>.1`` when it has more bytes than that."""
    if path.exists() and path.stat().st_size > over:
        path.replace(path.with_name(f"{path.name}.1"))


def trim_file(path: Path, *, over: int, keep: int) -> None:
    """Cut a log that another program appends to, once it has too many bytes.

    Its last part goes to ``<name>.1``, and the file begins anew. What the other program
    writes between the two steps is lost.
    """
    try:
        size = path.stat().st_size
        if size > over:
            with path.open("r+b") as file:
                file.seek(size - keep)
                write_atomic(path.with_name(f"{path.name}.1"), file.read(keep))
                file.truncate(0)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise explain_os_error("trim", path, exc) from exc
