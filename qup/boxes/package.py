"""Writing a box as one file: an archive with its image, what boots it, and what it is."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from qup.files import explain_os_error, sync_folder, write_atomic
from qup.model.package import METADATA

LEVEL = 3
"""The image is packed already; what boots it is not."""


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def write_package(target: Path, metadata: str, files: Mapping[str, Path]) -> tuple[str, int]:
    """Write the archive, packed with zstd, and its digest beside it: ``TARGET.sha256``, as
    ``sha256sum`` writes it.

    It is written aside and put in place when it is whole and on disk; where the file system can
    have files without a name, SIGKILL leaves nothing. The same files make the same archive.

    Args:
        target: the archive; replaced if it exists.
        metadata: what it says about itself.
        files: its other members by name.

    Returns:
        Its SHA-256 and its size in bytes.

    Raises:
        HostError: it can't be written.
    """
    import zstandard  # 10 ms that most commands don't need

    draft: Path | None = None
    try:
        handle, draft = _open_draft(target)
        with os.fdopen(handle, "wb") as file:
            hashing = _Hashing(file)
            packer = zstandard.ZstdCompressor(level=LEVEL, threads=-1)
            with packer.stream_writer(hashing, closefd=False) as packed:  # type: ignore[arg-type]
                _write_members(packed, metadata, files)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            size = file.tell()
            beside = target.with_name(f"{target.name}.sha256")
            beside.unlink(missing_ok=True)  # it must never be another file's
            if draft is None:
                draft = _give_name(file.fileno(), target)
        digest = hashing.sha256.hexdigest()
        os.replace(draft, target)
        draft = None
        sync_folder(target.parent)
        write_atomic(beside, f"{digest}  {target.name}\n", mode=0o644)
    except OSError as exc:
        raise explain_os_error("write", target, exc) from exc
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
    return digest, size


def _open_draft(target: Path) -> tuple[int, Path | None]:
    """A file in the target's folder; None for its path if it has none yet."""
    try:
        return os.open(target.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600), None
    except OSError:  # not every file system can; what is really wrong is wrong here, too
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        return handle, Path(name)


def _give_name(handle: int, target: Path) -> Path:
    """Let a file without a name have one beside the target (``open(2)``, O_TMPFILE)."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of another process that had this number
    # Without src_dir_fd Python takes link(2), which doesn't follow (its issue 81793).
    os.link(f"/proc/self/fd/{handle}", draft, src_dir_fd=handle, follow_symlinks=True)
    return draft


def _write_members(out: IO[bytes], metadata: str, files: Mapping[str, Path]) -> None:
    # USTAR has no room for what has 8 GiB; PAX says so only where it is needed.
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        data = metadata.encode()
        archive.addfile(_member(METADATA, len(data)), io.BytesIO(data))
        for name, path in files.items():
            with path.open("rb") as source:
                size = os.fstat(source.fileno()).st_size
                archive.addfile(_member(name, size), source)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member
