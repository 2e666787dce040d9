"""What the two ends of a copy have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from qup.errors import QupError

BLOCK = 256 * 1024
"""Bytes that are handed on at once."""
RESUMED = 16 * 1024 * 1024
"""Bytes from which on a file that was cut off is gone on with."""
HOLE = 1024 * 1024
"""Bytes that a file's holes must have together, so that they are kept as holes."""
MODE_BITS = 0o777
"""What is taken over of a file's mode: no set-uid, no set-gid."""

Kind = Literal["file", "folder", "other", "missing"]
Chunks = Iterator[bytes]


class CopyError(QupError):
    """Something could not be copied."""


@dataclass(frozen=True)
class Item:
    """What a source is.

    Attributes:
        kind: what kind of thing; links are followed.
        size: bytes of a file; None if nobody knows.
        mtime: when it was last changed, in seconds; None if nobody knows.
        mode: its permissions; None for what the target's side makes of it.
        holey: a file with holes worth keeping.
    """

    kind: Kind
    size: int | None = None
    mtime: int | None = None
    mode: int | None = None
    holey: bool = False


@dataclass(frozen=True)
class Draft:
    """Where something is written until all of it is there.

    Attributes:
        folder: the folder that it will be in.
        name: what it will be called there; ``.`` for the folder itself.
        draft: what it is called until then.
        start: bytes of a file that are there already, from a copy that was cut off.
        merge: there is such a folder: what is new goes into it.
        kept: what is there stays if the copy is cut off, to be gone on with.
        holes: the target can write a file with holes.
    """

    folder: str
    name: str
    draft: str
    start: int = 0
    merge: bool = False
    kept: bool = False
    holes: bool = False


@dataclass(frozen=True)
class Wish:
    """What is to become of a source at a target.

    Attributes:
        item: the source.
        name: its own name; empty if only what is in the folder is meant.
        label: what tells this source from others.
        several: there are more sources, so that the target must be a folder.
    """

    item: Item
    name: str
    label: str
    several: bool = False

    def draft_of(self, target: str) -> tuple[str, bool]:
        """A draft's name beside a target, and whether it is kept after an interruption: such a
        name is the same for the same source, and begins the same for the same target.
        """
        import secrets

        size = self.item.size
        if self.item.kind != "file" or size is None or size < RESUMED or self.item.holey:
            return f".qup-{secrets.token_hex(8)}.part", False
        source = f"{self.label}\0{size}\0{self.item.mtime}"
        return f".qup-{_short(target)}-{_short(source)}.part", True


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


@dataclass
class Notes:
    """What could not be copied, or was left out: said at the end."""

    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Source(Protocol):
    """Where something is copied from."""

    @property
    def title(self) -> str:
        """What it is called in messages."""

    @property
    def label(self) -> str:
        """What tells it from others, for going on with a copy that was cut off."""

    @property
    def name(self) -> str:
        """Its own name, or nothing if only what is in it is meant."""

    def look(self) -> Item:
        """What it is."""

    def read_file(self, start: int) -> AbstractContextManager[Chunks]:
        """A file's bytes from a place on."""

    def read_tree(self, notes: Notes) -> AbstractContextManager[Chunks]:
        """A tar archive of what is in a folder."""

    def digest(self, size: int) -> str | None:
        """SHA-256 of the first bytes of a file, in hexadecimal; None if it can't be had."""


class Target(Protocol):
    """Where something is copied to."""

    @property
    def title(self) -> str:
        """What it is called in messages."""

    def prepare(self, wish: Wish) -> Draft:
        """Find out where a source goes.

        Raises:
            CopyError: it can't go there.
        """

    def digest(self, draft: Draft) -> str | None:
        """SHA-256 of what is in a draft, in hexadecimal; None if it can't be had."""

    def write_file(self, draft: Draft, item: Item, chunks: Chunks) -> None:
        """Take a file's bytes, from the draft's start on, and put it into its place."""

    def write_tree(self, draft: Draft, chunks: Chunks, notes: Notes) -> None:
        """Take a tar archive into a draft."""

    def finish_tree(self, draft: Draft, item: Item) -> None:
        """Put a draft's tree into its place; a folder that is new gets the source's mode and
        time.
        """

    def discard(self, draft: Draft) -> None:
        """Remove a draft; never an error."""
