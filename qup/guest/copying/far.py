"""A guest's end of a copy."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qup.guest.copying import scripts
from qup.guest.copying.ends import (
    BLOCK,
    HOLE,
    MODE_BITS,
    Chunks,
    CopyError,
    Draft,
    Item,
    Notes,
    Wish,
)
from qup.guest.copying.guest import Guest
from qup.guest.copying.near import PAGE, LocalSource, join, name_of, refuse_clash

MAX_EXTENTS = 200
"""Pieces of a file with holes; each is a program that the guest starts."""


@dataclass
class GuestSource:
    """A file or a folder in a guest."""

    guest: Guest
    path: str
    follow: bool = False
    sparse_tar: bool = False

    @property
    def title(self) -> str:
        return f"{self.guest.machine}:{self.path or '~'}"

    @property
    def label(self) -> str:
        return self.title

    @property
    def name(self) -> str:
        return name_of(self.path)

    def look(self) -> Item:
        code, said, errors = self.guest.ask(scripts.LOOK, self.path)
        lines = said.splitlines()
        if code != 0 and not lines:
            raise self.guest.refused(f"looking at {self.title}", code, errors)
        if lines[0] == "missing":
            return Item("missing")
        if "secret" in lines:
            raise CopyError(
                f"{self.title} may not be read by {self._user()}",
                hint=None if self.guest.sudo else "--sudo reads as root",
            )
        self.sparse_tar = "holes" in lines
        if lines[0] == "other":
            return Item("other")
        size, mtime, octal, blocks, unit = lines[1].split()
        mode = int(octal, 8) & MODE_BITS
        if lines[0] == "folder":
            return Item("folder", None, int(mtime), mode)
        holey = int(size) - int(blocks) * int(unit) >= HOLE
        return Item("file", int(size), int(mtime), mode, holey)

    def _user(self) -> str:
        return "root" if self.guest.sudo else "the user of ssh"

    @contextlib.contextmanager
    def read_file(self, start: int) -> Iterator[Chunks]:
        what = f"reading {self.title}"
        with self.guest.start(what, scripts.READ_FILE, self.path, str(start)) as running:

            def chunks() -> Iterator[bytes]:
                yield from running.receive()
                running.end()

            yield chunks()

    @contextlib.contextmanager
    def read_tree(self, notes: Notes) -> Iterator[Chunks]:
        flags = ("-h " if self.follow else "") + ("-S" if self.sparse_tar else "")
        what = f"reading {self.title}"
        with self.guest.start(what, scripts.READ_TREE, self.path, flags) as running:

            def chunks() -> Iterator[bytes]:
                yield from running.receive()
                running.end(notes)

            yield chunks()

    def digest(self, size: int) -> str | None:
        code, said, _ = self.guest.ask(scripts.DIGEST, self.path, str(size))
        return said.split()[0] if code == 0 and said else None


@dataclass
class GuestTarget:
    """A place in a guest.

    Attributes:
        guest: the guest.
        path: the place.
        owner: whom the files are to belong to: ``user`` or ``user:group``; empty for whoever
            writes them.
    """

    guest: Guest
    path: str
    owner: str = ""

    @property
    def title(self) -> str:
        return f"{self.guest.machine}:{self.path or '~'}"

    def prepare(self, wish: Wish) -> Draft:
        item = wish.item
        several = wish.several or (self.path.endswith("/") and item.kind == "file")
        head, _, own = self.path.rstrip("/").rpartition("/")
        parent = head or ("/" if self.path.startswith("/") else ".")
        drafts = {name: wish.draft_of(name) for name in (wish.name or ".", own)}
        # Which of the two it is, only the guest knows: it is asked for the one that it needs.
        kept = any(kept for _, kept in drafts.values())
        kind = "holey" if item.holey else item.kind
        draft, _ = drafts[wish.name or "."]
        if kept and wish.name != own:
            into = self._is_folder()
            draft, _ = drafts[(wish.name or ".") if into else own]
        words = (wish.name or ".", kind, str(int(several)), draft if kept else "", parent, own)
        code, said, errors = self.guest.ask(scripts.PREPARE, self.path, *words)
        found = said.split("\n")
        if code != 0 or not said:
            raise self.guest.refused(f"looking at {self.title}", code, errors)
        folder, name = (self.path or ".", wish.name or ".") if "into" in found else (parent, own)
        self._refuse(found, parent)
        place = f"{self.guest.machine}:{join(folder, name)}"
        there = "is-folder" in found or "is-file" in found
        refuse_clash(place, wish, folder="is-folder" in found, there=there)
        parts = [int(line.split()[1]) for line in found if line.startswith("part ")]
        merge = item.kind == "folder" and "is-folder" in found
        start = parts[0] if parts else 0
        return Draft(folder, name, draft, start, merge, kept, holes="holes" in found)

    def _is_folder(self) -> bool:
        _, said, _ = self.guest.ask(scripts.PREPARE, self.path, ".", "folder", "0", "", ".", ".")
        return said.startswith("into")

    def _refuse(self, found: Sequence[str], parent: str) -> None:
        machine = self.guest.machine
        if "no-folder" in found or "no-parent" in found:
            missing = self.path.rstrip("/") if "no-folder" in found else parent
            sudo = "sudo " if self.guest.sudo else ""
            raise CopyError(
                f"there is no folder {machine}:{missing}",
                hint=f"make it: qup ssh {machine} -- {sudo}mkdir -p {shlex.quote(missing)}",
            )
        if "not-writable" in found:
            raise CopyError(
                f"the user of ssh may not write to the folder of {self.title}",
                hint="--sudo writes as root, and --owner says whose it is to be",
            )

    def digest(self, draft: Draft) -> str | None:
        path = f"{draft.folder}/{draft.draft}"
        code, said, _ = self.guest.ask(scripts.DIGEST, path, str(draft.start))
        return said.split()[0] if code == 0 and said else None

    def write_file(self, draft: Draft, item: Item, chunks: Chunks) -> None:
        size = "" if item.size is None else str(item.size)
        words = [draft.folder, draft.draft, draft.name, str(draft.start), size]
        words += [str(int(draft.kept)), *_stamps(item), self.owner]
        what = f"writing {self.guest.machine}:{join(draft.folder, draft.name)}"
        with self.guest.start(what, scripts.WRITE_FILE, *words, stdin=True) as running:
            running.send(chunks)
        if item.size is None:
            words = [draft.folder, draft.draft, draft.name, self.owner]
            self._run(what, scripts.PLACE_FILE, *words)

    def write_holes(self, draft: Draft, item: Item, source: LocalSource) -> bool:
        """Take a file with its holes, if it has few enough pieces; whether it did."""
        extents = source.extents()
        if len(extents) > MAX_EXTENTS:
            return False
        words = [draft.folder, draft.draft, draft.name, str(item.size), *_stamps(item), self.owner]
        words += [str(number // PAGE) for extent in extents for number in extent]
        what = f"writing {self.guest.machine}:{join(draft.folder, draft.name)}"
        with self.guest.start(what, scripts.WRITE_HOLES, *words, stdin=True) as running:
            running.send(_read_extents(source.path, extents))
        return True

    def write_tree(self, draft: Draft, chunks: Chunks, notes: Notes) -> None:  # noqa: ARG002
        what = f"writing {self.guest.machine}:{join(draft.folder, draft.name)}"
        words = [draft.folder, draft.draft]
        with self.guest.start(what, scripts.WRITE_TREE, *words, stdin=True) as running:
            running.send(chunks)

    def finish_tree(self, draft: Draft, item: Item) -> None:
        words = [draft.folder, draft.draft, draft.name, self.owner, *_stamps(item)]
        what = f"writing {self.guest.machine}:{join(draft.folder, draft.name)}"
        self._run(what, scripts.FINISH_TREE, *words)

    def _run(self, what: str, script: str, *words: str) -> None:
        code, said, errors = self.guest.ask(script, *words)
        if code == 0:
            return
        if clashes := said.splitlines():
            raise CopyError(
                f"{what}: {len(clashes)} could not be put there: a file can't take a folder's"
                " place, nor a folder a file's or a link's",
                details="\n".join(clashes[:20]),
            )
        raise self.guest.refused(what, code, errors)

    def discard(self, draft: Draft) -> None:
        if not draft.kept:
            with contextlib.suppress(Exception):
                self.guest.ask(scripts.DISCARD, draft.folder, draft.draft)


def _stamps(item: Item) -> list[str]:
    """Mode and time for a script; the time also in words, for a ``touch`` that knows no more."""
    mode = "" if item.mode is None else f"{item.mode:o}"
    if item.mtime is None:
        return [mode, "", ""]
    words = time.strftime("%Y%m%d%H%M.%S", time.gmtime(item.mtime))
    return [mode, str(item.mtime), words]


def _read_extents(path: str, extents: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """The data of a file with holes; its last page is filled up."""
    with open(path, "rb") as file:  # noqa: PTH123  the name may be any bytes
        for start, length in extents:
            file.seek(start)
            left = length
            while left:
                data = file.read(min(BLOCK, left))
                if not data:
                    data = bytes(min(BLOCK, left))
                left -= len(data)
                yield data
