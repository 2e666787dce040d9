"""Archives, read from front to end: a member's name is a word, never a path."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, ClassVar, cast

from qup.errors import BoxError
from qup.unpacking.streams import Peekable

MEMBERS = 10_000
"""The most members of an archive that are looked at."""
HEADER = 1 << 20
"""Bytes: the most that a member's long name or its attributes may have."""
TAR_AT = 257
"""Where a tar archive says what it is (``tar(5)``)."""


def is_tar(start: bytes) -> bool:
    """Whether a file is a tar archive, by its first 512 bytes."""
    return start[TAR_AT : TAR_AT + 5] == b"ustar"


class _Member(tarfile.TarInfo):
    """A member whose long headers are not read into memory if they are absurd."""

    _LONG: ClassVar = (
        tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    )  # fmt: skip

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in self._LONG and self.size > HEADER:
            raise tarfile.ReadError("a name in it is longer than any path")
        return cast("tarfile.TarInfo", super()._proc_member(archive))  # type: ignore[misc]


def read_members(source: Peekable, name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files of a tar archive, by their names without folders.

    Each has to be read before the next is asked for, and only as a stream. Links, devices and
    whatever else there is are passed over.

    Raises:
        BoxError: the archive is damaged, or has more members than any box.
    """
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_Member) as archive:
            for number, member in enumerate(archive):
                if number >= MEMBERS:
                    raise BoxError(f"{name} has more than {MEMBERS} members: it is no box")
                if member.isreg() and (content := archive.extractfile(member)) is not None:
                    # What has no end of its own is bounded as any other stream.
                    yield member.name.rpartition("/")[2], content
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as exc:
        raise BoxError(f"{name} is a damaged archive: {exc}", hint="fetch it again") from exc
