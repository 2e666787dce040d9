"""What is in a folder of this computer, as far as it can be copied.

Names are bytes: a file system's names are, and what is no UTF-8 has to get through, too.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qup.errors import HostError
from qup.files import explain_os_error
from qup.paths import STATE_FOLDER

MAX_ENTRIES = 1_000_000
"""Files and folders in a tree; each takes about 300 bytes of memory while it is compared."""
EXAMPLES = 5
"""Names that a message has at the most."""
REPORT_EVERY = 0.5
"""Seconds between reports of a scan."""

OWN = os.fsencode(STATE_FOLDER)


@dataclass
class Leftovers:
    """What was not copied: how many, and a few of them with the reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: bytes, reason: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{os.fsdecode(name)!r} ({reason})")

    def __str__(self) -> str:
        rest = self.count - len(self.examples)
        return ", ".join(self.examples) + (f" and {rest} more" if rest else "")


@dataclass
class Tree:
    """The entries of a folder.

    Attributes:
        root: the folder.
        entries: a stamp for each name, seen from the folder; folders come before what is in
            them. A stamp begins with ``f``, ``d`` or ``l`` and differs when the entry does.
        special: what is neither file, folder nor link.
        unreadable: what could not be looked into.
    """

    root: Path
    entries: dict[bytes, bytes] = field(default_factory=dict)
    special: Leftovers = field(default_factory=Leftovers)
    unreadable: Leftovers = field(default_factory=Leftovers)

    @property
    def folders(self) -> Iterator[bytes]:
        """The paths of all folders, the whole one included."""
        top = os.fsencode(self.root)
        yield top
        for name, stamp in self.entries.items():
            if stamp[:1] == b"d":
                yield os.path.join(top, name)


class Excludes:
    """Patterns of what is left out, in the manner of ``gitignore(5)``.

    ``*`` and ``?`` stand for anything but ``/``, ``**`` for anything. A pattern with a ``/`` at
    its beginning or within is meant from the top, one without anywhere; one that ends with ``/``
    means folders only. What is in a folder that is left out is left out with it.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile the patterns."""
        everything: list[bytes] = []
        folders: list[bytes] = []
        for pattern in patterns:
            body = pattern.strip("/")
            if not body:
                continue
            anchored = "/" in pattern.rstrip("/")
            expression = (b"" if anchored else b"(?:.*/)?") + _translate(os.fsencode(body))
            (folders if pattern.endswith("/") else everything).append(expression)
        self._everything = _compile(everything)
        self._folders = _compile(folders)

    def match(self, name: bytes, *, folder: bool) -> bool:
        """Whether an entry is left out by itself."""
        if self._everything is not None and self._everything.fullmatch(name):
            return True
        return folder and self._folders is not None and bool(self._folders.fullmatch(name))

    def cover(self, name: bytes, *, folder: bool) -> bool:
        """Whether an entry is left out, by itself or with a folder that it is in."""
        parts = name.split(b"/")
        if OWN in parts or self.match(name, folder=folder):
            return True
        above = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(self.match(path, folder=True) for path in above)


def _compile(expressions: list[bytes]) -> re.Pattern[bytes] | None:
    return re.compile(b"|".join(expressions), re.DOTALL) if expressions else None


_TOKEN = re.compile(rb"\*\*/|\*\*|\*|\?|[^*?]+", re.DOTALL)
_WILD = {b"**/": b"(?:.*/)?", b"**": b".*", b"*": b"[^/]*", b"?": b"[^/]"}


def _translate(pattern: bytes) -> bytes:
    return b"".join(_WILD.get(token) or re.escape(token) for token in _TOKEN.findall(pattern))


def scan_tree(
    root: Path, excludes: Excludes, report: Callable[[int], None] = lambda _: None
) -> Tree:
    """Look at all that is in a folder. Links are not followed, and ``.qup`` is not entered.

    Args:
        root: the folder.
        excludes: what is left out.
        report: told now and then how many entries there are so far.

    Raises:
        HostError: the folder itself can't be read, or has too much in it.
    """
    tree = Tree(root)
    top = os.fsencode(root)
    due = time.monotonic() + REPORT_EVERY
    waiting = [b""]
    while waiting:
        place = waiting.pop()
        for name, info in _list(tree, os.path.join(top, place) if place else top, place):
            folder = stat.S_ISDIR(info.st_mode)
            if excludes.match(name, folder=folder):
                continue
            if (stamp := _make_stamp(info)) is None:
                tree.special.add(name, _KINDS.get(stat.S_IFMT(info.st_mode), "special"))
                continue
            tree.entries[name] = stamp
            if folder:
                waiting.append(name)
        if len(tree.entries) > MAX_ENTRIES:
            raise HostError(
                f"{root} has more than {MAX_ENTRIES:,} files and folders",
                hint="leave out what the guest has no use for ('exclude'), or have the folder"
                " mounted ('type')",
            )
        if time.monotonic() >= due:
            report(len(tree.entries))
            due = time.monotonic() + REPORT_EVERY
    return tree


def _list(tree: Tree, path: bytes, place: bytes) -> Iterable[tuple[bytes, os.stat_result]]:
    """The entries of one folder; what vanishes meanwhile was never there."""
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name == OWN:
                    continue
                name = place + b"/" + entry.name if place else entry.name
                try:
                    found.append((name, entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    tree.unreadable.add(name, str(exc.strerror))
    except FileNotFoundError as exc:
        if not place:
            raise explain_os_error("read", tree.root, exc) from exc
    except OSError as exc:
        if not place:
            raise explain_os_error("read", tree.root, exc) from exc
        tree.unreadable.add(place, str(exc.strerror))
    return found


_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _make_stamp(info: os.stat_result) -> bytes | None:
    """What changes when an entry does; None for what can't be copied."""
    if stat.S_ISREG(info.st_mode):
        return b"f %d %d %o" % (info.st_size, info.st_mtime_ns, info.st_mode & 0o777)
    if stat.S_ISDIR(info.st_mode):
        return b"d %o" % (info.st_mode & 0o777)
    if stat.S_ISLNK(info.st_mode):
        return b"l %d %d" % (info.st_size, info.st_mtime_ns)
    return None
