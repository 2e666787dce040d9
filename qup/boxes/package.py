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

    It is written aside and put in place when it is whole and on disk. The same files make the
    same archive.

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
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        draft = Path(name)
        with os.fdopen(handle, "wb") as file:
            hashing = _Hashing(file)
            packer = zstandard.ZstdCompressor(level=LEVEL, threads=-1)
            with packer.stream_writer(hashing, closefd=False) as packed:  # type: ignore[arg-type]
                _write_members(packed, metadata, files)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            size = file.tell()
        digest = hashing.sha256.hexdigest()
        beside = target.with_name(f"{target.name}.sha256")
        beside.unlink(missing_ok=True)  # it must never be another file's
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
