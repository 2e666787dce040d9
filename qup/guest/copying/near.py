"""This computer's end of a copy: files and folders, and the standard streams."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qup.files import explain_os_error
from qup.guest.copying.ends import (
    BLOCK,
    MODE_BITS,
    Chunks,
    CopyError,
    Draft,
    Item,
    Notes,
    Wish,
)
from qup.guest.copying.pack import Packer, is_holey
from qup.guest.copying.unpack import unpack, write_with_holes


@dataclass
class LocalSource:
    """A file or a folder of this computer.

    Attributes:
        path: as it was typed.
        follow: in a folder, copy what links lead to.
        packer: what was left for the files with holes in a tree, once it has been read.
    """

    path: str
    follow: bool = False
    packer: Packer | None = None

    @property
    def title(self) -> str:
        return self.path

    @property
    def label(self) -> str:
        return os.path.realpath(self.path)

    @property
    def name(self) -> str:
        return name_of(self.path)

    def look(self) -> Item:
        try:
            info = Path(self.path).stat()
        except FileNotFoundError:
            return Item("missing")
        except OSError as exc:
            raise explain_os_error("read", Path(self.path), exc) from exc
        mode = stat.S_IMODE(info.st_mode) & MODE_BITS
        if stat.S_ISREG(info.st_mode):
            return Item("file", info.st_size, int(info.st_mtime), mode, is_holey(info))
        if stat.S_ISDIR(info.st_mode):
            return Item("folder", None, int(info.st_mtime), mode)
        return Item("other")

    @contextlib.contextmanager
    def read_file(self, start: int) -> Iterator[Chunks]:
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123  the name may be any bytes
                file.seek(start)
                yield iter(lambda: file.read(BLOCK), b"")
        except OSError as exc:
            raise explain_os_error("read", Path(self.path), exc) from exc

    @contextlib.contextmanager
    def read_tree(self, notes: Notes) -> Iterator[Chunks]:
        self.packer = Packer(self.path, notes, self.follow, keep_holes=True)
        yield self.packer.pack()

    def digest(self, size: int) -> str | None:
        return _digest(Path(self.path), size)

    def extents(self) -> list[tuple[int, int]]:
        """Where a file has data: first byte and length, in whole pages."""
        found: list[tuple[int, int]] = []
        with open(self.path, "rb") as file:  # noqa: PTH123
            size, at = os.fstat(file.fileno()).st_size, 0
            while at < size:
                try:
                    at = os.lseek(file.fileno(), at, os.SEEK_DATA) // PAGE * PAGE
                except OSError:  # ENXIO: nothing but a hole is left
                    break
                end = -(-os.lseek(file.fileno(), at, os.SEEK_HOLE) // PAGE) * PAGE
                if found and at - sum(found[-1]) < CLOSE:
                    at = found.pop()[0]
                found.append((at, end - at))
                at = end
        return found


PAGE = 4096
CLOSE = 256 * 1024
"""Bytes of a hole that is not worth a second piece."""


@dataclass
class LocalTarget:
    """A place on this computer."""

    path: str

    @property
    def title(self) -> str:
        return self.path

    def prepare(self, wish: Wish) -> Draft:
        path = Path(self.path)
        into = path.is_dir()
        if not into and (wish.several or (self.path.endswith("/") and wish.item.kind == "file")):
            raise CopyError(
                f"{self.path} is no folder" if path.exists() else f"there is no folder {self.path}",
                hint=f"make it: mkdir -p {self.path}",
            )
        if into:
            folder, name = path, wish.name or "."
        else:
            folder, name = path.parent, path.name
        if not folder.is_dir():
            raise CopyError(f"there is no folder {folder}", hint=f"make it: mkdir -p {folder}")
        target = folder / name
        if wish.item.kind == "file" and target.is_symlink():  # as cp does: through the link
            target = Path(os.path.realpath(target))
            folder, name = target.parent, target.name
        refuse_clash(str(target), wish, folder=target.is_dir(), there=os.path.lexists(target))
        draft, kept = wish.draft_of(name)
        start = (folder / draft).stat().st_size if kept and (folder / draft).is_file() else 0
        merge = wish.item.kind == "folder" and target.is_dir()
        return Draft(str(folder), name, draft, start, merge, kept, holes=True)

    def digest(self, draft: Draft) -> str | None:
        return _digest(Path(draft.folder, draft.draft), draft.start)

    def write_file(self, draft: Draft, item: Item, chunks: Chunks) -> None:
        path = Path(draft.folder, draft.draft)
        try:
            if draft.kept:
                _remove_older(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(path, flags, 0o666 if item.mode is None else 0o600)
            with os.fdopen(handle, "wb") as file:
                os.ftruncate(file.fileno(), draft.start)
                file.seek(draft.start)
                if item.holey:
                    write_with_holes(chunks, file)
                else:
                    for chunk in chunks:
                        file.write(chunk)
                file.flush()
                if item.mode is not None:
                    os.fchmod(file.fileno(), item.mode)
            if item.mtime is not None:
                os.utime(path, (item.mtime, item.mtime))
            os.replace(path, Path(draft.folder, draft.name))
        except OSError as exc:
            with contextlib.suppress(OSError):  # no space: what is there is of no use
                path.unlink()
            raise explain_os_error("write", Path(draft.folder, draft.name), exc) from exc

    def write_tree(self, draft: Draft, chunks: Chunks, notes: Notes) -> None:
        root = Path(draft.folder, draft.draft)
        try:
            root.mkdir(mode=0o700)
            unpack(chunks, root, notes)
        except OSError as exc:
            raise explain_os_error("write", Path(exc.filename or root), exc) from exc
        except tarfile.TarError as exc:
            raise CopyError(f"the archive that arrived is incomplete: {exc}") from exc

    def finish_tree(self, draft: Draft, item: Item) -> None:
        root, target = Path(draft.folder, draft.draft), Path(draft.folder, draft.name)
        try:
            if not draft.merge:
                root.chmod(stat.S_IRWXU if item.mode is None else item.mode | stat.S_IRWXU)
                if item.mtime is not None:
                    os.utime(root, (item.mtime, item.mtime))
                os.replace(root, target)
                return
            clashes = list(_merge(root, target))
            shutil.rmtree(root, ignore_errors=True)
        except OSError as exc:
            raise explain_os_error("write", target, exc) from exc
        if clashes:
            raise CopyError(
                f"{len(clashes)} files could not be put into {target}: a file can't take a"
                " folder's place, nor a folder a file's or a link's",
                details="\n".join(clashes[:20]),
            )

    def discard(self, draft: Draft) -> None:
        path = Path(draft.folder, draft.draft)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not draft.kept:
            with contextlib.suppress(OSError):
                path.unlink()


def refuse_clash(target: str, wish: Wish, *, folder: bool, there: bool) -> None:
    """Raise a CopyError if a source can't take the place of what is there."""
    if wish.item.kind == "file" and folder:
        raise CopyError(f"{target} is a folder, which a file can't replace")
    if wish.item.kind == "folder" and there and not folder:
        raise CopyError(f"{target} is there and no folder")


def join(folder: str, name: str) -> str:
    """A path for messages."""
    if name == ".":
        return folder
    return name if folder == "." else f"{folder.rstrip('/')}/{name}"


def name_of(path: str) -> str:
    """A path's own name; empty for one that means only what is in a folder: ``x/.``, ``..``."""
    name = os.path.basename(path.rstrip("/"))  # noqa: PTH119  pathlib drops the final dot
    return "" if name in (".", "..", "~") else name


def _merge(root: Path, target: Path) -> Iterator[str]:
    """Put what is in a folder into another; yields what can't be."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        goal = target / entry.name
        here = entry.is_dir(follow_symlinks=False)
        there = goal.is_dir() and not goal.is_symlink()
        if here and there:
            yield from _merge(Path(entry.path), goal)
        elif there or (here and os.path.lexists(goal)):
            yield str(goal)
        else:
            os.replace(entry.path, goal)


def _remove_older(draft: Path) -> None:
    """Remove what other copies to the same target have left, whose source has changed since."""
    beginning = draft.name.rpartition("-")[0]
    for path in draft.parent.glob(f"{beginning}-*.part"):
        if path != draft:
            path.unlink(missing_ok=True)


def _digest(path: Path, size: int) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while size and (data := file.read(min(BLOCK, size))):
                digest.update(data)
                size -= len(data)
    except OSError:
        return None
    return digest.hexdigest() if size == 0 else None


class StandardInput:
    """Standard input as a file that nobody knows the size of."""

    title = "standard input"
    label = name = ""

    def look(self) -> Item:
        return Item("file")

    @contextlib.contextmanager
    def read_file(self, start: int) -> Iterator[Chunks]:
        assert start == 0
        yield iter(lambda: os.read(sys.stdin.fileno(), BLOCK), b"")

    def read_tree(self, notes: Notes) -> contextlib.AbstractContextManager[Chunks]:
        raise NotImplementedError

    def digest(self, size: int) -> str | None:  # noqa: ARG002  nothing is read twice
        return None


class StandardOutput:
    """Standard output: a file's bytes, or a folder as a tar archive."""

    title = "standard output"

    def prepare(self, wish: Wish) -> Draft:
        if wish.several:
            raise CopyError("standard output takes one source", hint="put them into a folder")
        if sys.stdout.isatty() and wish.item.kind == "folder":
            raise CopyError("a tar archive can't go to a terminal", hint="... - > all.tar")
        return Draft("", "", "")

    def digest(self, draft: Draft) -> str | None:  # noqa: ARG002
        return None

    def write_file(self, draft: Draft, item: Item, chunks: Chunks) -> None:  # noqa: ARG002
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(sys.stdout.fileno(), rest) :]

    def write_tree(self, draft: Draft, chunks: Chunks, notes: Notes) -> None:  # noqa: ARG002
        self.write_file(draft, Item("folder"), chunks)

    def finish_tree(self, draft: Draft, item: Item) -> None:
        """It is written already."""

    def discard(self, draft: Draft) -> None:
        """It can't be taken back."""
