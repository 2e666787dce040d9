"""A file that is only partly here: its data, and what must be known to go on with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qup.errors import StateError
from qup.files import write_atomic
from qup.locks import lock


@dataclass(frozen=True)
class Partial:
    """Where the beginning of a file is kept between two tries.

    Attributes:
        folder: the folder of downloads in progress.
        key: made from the address and the expected digest.
    """

    folder: Path
    key: str

    @classmethod
    def of(cls, folder: Path, url: str, digest: str | None) -> Partial:
        text = f"{url}\0{digest or ''}"
        return cls(folder, hashlib.sha256(text.encode()).hexdigest()[:24])

    @property
    def data(self) -> Path:
        return self.folder / f"{self.key}.part"

    @property
    def notes(self) -> Path:
        return self.folder / f"{self.key}.json"

    @property
    def lock(self) -> Path:
        """Held by the one who fetches this file; never removed, as locks aren't."""
        return self.folder / f"{self.key}.lock"

    def size(self) -> int:
        """Bytes that are here."""
        with contextlib.suppress(OSError):
            return self.data.lstat().st_size
        return 0

    def validators(self) -> dict[str, str]:
        """The headers that said which version of the file this is the beginning of."""
        try:
            noted: Any = json.loads(self.notes.read_bytes())
            return {key: str(noted[key]) for key in ("ETag", "Last-Modified") if noted.get(key)}
        except (OSError, ValueError, AttributeError):
            return {}

    def promised(self) -> int | None:
        """Bytes that the whole file has, as the server has said; None if it has not."""
        try:
            found = json.loads(self.notes.read_bytes())["size"]
            return found if isinstance(found, int) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, headers: Mapping[str, str], total: int | None = None) -> None:
        """Write down which version of the file is being fetched, and how many bytes it has."""
        found: dict[str, object] = {
            key: headers[key] for key in ("ETag", "Last-Modified") if headers.get(key)
        }
        if total is not None:
            found["size"] = total
        write_atomic(self.notes, json.dumps(found) + "\n", durable=False)

    def discard(self) -> None:
        """Forget what is here."""
        for path in (self.data, self.notes):
            with contextlib.suppress(OSError):
                path.unlink()

    def open_at(self, offset: int) -> int:
        """A descriptor of the data for writing behind so many bytes; what follows is cut off.

        Raises:
            OSError: it can't be opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self.data, flags, 0o600)
        os.ftruncate(handle, offset)
        os.lseek(handle, offset, os.SEEK_SET)
        return handle


def sweep_partials(folder: Path, *, dry_run: bool = False) -> int:
    """Remove the beginnings of files that nobody is fetching.

    Args:
        folder: the folder of downloads in progress.
        dry_run: only count.

    Returns:
        Their bytes.
    """
    freed = 0
    for data in folder.glob("*.part"):
        partial = Partial(folder, data.stem)
        with (
            contextlib.suppress(StateError),  # somebody is at it
            lock(partial.lock, what="a download", timeout=0.0),
        ):
            freed += partial.size()
            if not dry_run:
                partial.discard()
    return freed
