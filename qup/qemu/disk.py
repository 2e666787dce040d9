"""Disk images: making them, growing them, checking them, with ``qemu-img``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qup.errors import ConfigError, HostError
from qup.images import virtual_size
from qup.model.units import format_size
from qup.process import run

SECTOR = 512
_CREATE_TIMEOUT = 60.0
_CHECK_TIMEOUT = 3600.0
_FLATTEN_TIMEOUT = 4 * 3600.0


def create_overlay(
    path: Path, backing: Path, backing_format: str, size: int, *, cluster: int | None = None
) -> None:
    """Make a qcow2 image that starts with another image's contents.

    Args:
        path: the new image; replaced if it exists.
        backing: the image below, which is never written to.
        backing_format: ``qcow2`` or ``raw``; QEMU never guesses.
        size: virtual size in bytes, at least the one of ``backing``.
        cluster: bytes of a cluster: the least that a guest can give back.

    Raises:
        ConfigError: the size is smaller than the one of ``backing``.
        HostError: no space left, or ``qemu-img`` is missing or fails.
    """
    least = virtual_size(backing, backing_format)
    if size < least:
        raise ConfigError(
            f"a disk of {format_size(size)} is too small: the box has {format_size(least)}",
            hint="raise 'disk' in the Qupfile",
        )
    grain = ("-o", f"cluster_size={cluster}") if cluster is not None else ()
    _create(path, size, ("-F", backing_format, "-b", os.fspath(backing.absolute()), *grain))


def create_blank(path: Path, size: int, beginning: bytes = b"") -> None:
    """Make an empty qcow2 image; replaces the file if it exists.

    Args:
        path: the new image.
        size: virtual size in bytes.
        beginning: bytes that its guest finds at the start of it.

    Raises:
        HostError: no space left, or ``qemu-img`` is missing or fails.
    """
    if not beginning:
        _create(path, size, ())
        return
    with _built_aside(path) as draft, _explained(path.absolute()):
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=draft.parent) as raw:
            raw.write(beginning + bytes(-len(beginning) % SECTOR))
            raw.flush()
            run(
                ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw.name, draft],
                timeout=_CREATE_TIMEOUT,
            )
        run(["qemu-img", "resize", "-q", "-f", "qcow2", draft, str(size)], timeout=_CREATE_TIMEOUT)


def convert(source: Path, format: str, path: Path) -> None:
    """Make a qcow2 image with the contents of another image; replaces the file if it exists.

    Args:
        source: the other image.
        format: its format, ``qcow2`` or ``raw``; QEMU never guesses.
        path: the new image.

    Raises:
        HostError: no space left, or ``qemu-img`` is missing or fails.
    """
    with _built_aside(path) as draft:
        run(
            ["qemu-img", "convert", "-f", format, "-O", "qcow2", source.absolute(), draft],
            timeout=_CREATE_TIMEOUT,
        )


def flatten(source: Path, path: Path) -> None:
    """Make a compressed qcow2 image of all that a guest sees of another one, whatever that is
    based on; what is zero takes no space.

    Args:
        source: the other image, a qcow2 that was looked at before: QEMU opens what it names.
        path: the new image.

    Raises:
        HostError: no space left, or ``qemu-img`` is missing or fails.
    """
    with _built_aside(path) as draft:
        run(
            ["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "qcow2", "-c", "-W", "-m", "4",
             "-o", "compression_type=zstd", source.absolute(), draft],
            timeout=_FLATTEN_TIMEOUT,
        )  # fmt: skip


def rebase(path: Path, backing: Path) -> None:
    """Let a qcow2 image name another file with the same contents as its backing file.

    Raises:
        HostError: ``qemu-img`` is missing or fails.
    """
    with _explained(path.absolute()):
        run(
            ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2",
             "-b", os.fspath(backing.absolute()), path.absolute()]
        )  # fmt: skip


def _create(path: Path, size: int, more: tuple[str, ...]) -> None:
    with _built_aside(path) as draft:
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *more, draft, str(size)],
            timeout=_CREATE_TIMEOUT,
        )


@contextmanager
def _built_aside(path: Path) -> Iterator[Path]:
    """A path next to another that takes its place when all went well."""
    path = path.absolute()
    with _explained(path):
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(fd)
        draft = Path(name)
        try:
            yield draft
            _sync(draft)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of a full filesystem which one it is."""
    try:
        yield
    except OSError as exc:
        raise HostError(
            f"can't write {path}: {exc.strerror} (filesystem {_mount_point(path)})"
        ) from exc
    except HostError as exc:
        if exc.details is None or "No space left on device" not in exc.details:
            raise
        raise HostError(
            f"can't write {path}: no space left on the filesystem {_mount_point(path)}",
            hint=f"free some space on {_mount_point(path)}, then run the command again",
            details=exc.details,
        ) from exc


def _mount_point(path: Path) -> Path:
    return next(folder for folder in path.parents if os.path.ismount(folder))


def grow(path: Path, size: int) -> None:
    """Make a qcow2 image larger; its machine must not run.

    Args:
        path: the image.
        size: the new virtual size in bytes.

    Raises:
        ConfigError: the size is smaller than it is now.
        HostError: no space left, or ``qemu-img`` fails.
    """
    now = virtual_size(path, "qcow2")
    if size < now:
        raise ConfigError(
            f"a disk can't shrink: it has {format_size(now)}, asked for {format_size(size)}",
            hint="'qup destroy' and 'qup up' make a new one",
        )
    if size > now:
        with _explained(path.absolute()):
            run(["qemu-img", "resize", "-q", "-f", "qcow2", path.absolute(), str(size)])


def check(path: Path) -> str | None:
    """Look for damage in a qcow2 image; its machine must not run. Can take minutes.

    Nothing is repaired. ``qemu-img check`` ends with 0 for sound, 2 for damaged, 3 for sound
    with space that is lost (which does no harm), and 1 or 63 when it could not look.

    Returns:
        None for a sound image, or what is wrong with it.
    """
    result = run(
        ["qemu-img", "check", "-f", "qcow2", path.absolute()], check=False, timeout=_CHECK_TIMEOUT
    )
    if result.code in (0, 3):
        return None
    said = (result.stderr.strip() or result.stdout.strip())[-2000:]
    verdict = "is damaged" if result.code == 2 else f"can't be checked ({result.outcome})"
    return f"{path} {verdict}: {said}"
