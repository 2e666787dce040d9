"""A tree of files in memory, and the archive that Linux unpacks as its first root.

The format is cpio's "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
The same tree always gives the same bytes: sorted names, one owner, one fixed time.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import PurePosixPath

MTIME = 1_700_000_000
"""Every file's time: a constant, so that the archive depends on its contents alone."""


@dataclass(frozen=True)
class Entry:
    """A file (its bytes), a symbolic link (its target) or a directory (nothing)."""

    mode: int
    data: bytes = b""
    group: int = 0


class Tree:
    """Files by absolute path; parents come into being by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def __getitem__(self, path: str) -> Entry:
        return self._entries[path]

    def items(self) -> list[tuple[str, Entry]]:
        """Every path with its entry, parents before their children."""
        return sorted(self._entries.items())

    def add_file(self, path: str, data: bytes, mode: int = 0o644, group: int = 0) -> None:
        """Put a regular file at an absolute path; ``mode`` holds the permission bits."""
        self._add(path, Entry(stat.S_IFREG | mode, data, group))

    def add_directory(self, path: str, mode: int = 0o755) -> None:
        """Put a directory at an absolute path."""
        self._add(path, Entry(stat.S_IFDIR | mode))

    def add_link(self, path: str, target: str) -> None:
        """Put a symbolic link at an absolute path."""
        self._add(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def _add(self, path: str, entry: Entry) -> None:
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != "/":
                self._entries.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
        self._entries[path] = entry

    def to_cpio(self) -> bytes:
        """The tree as one uncompressed newc archive."""
        parts = [
            _cpio_member(inode, path.lstrip("/"), entry)
            for inode, (path, entry) in enumerate(self.items(), start=1)
        ]
        parts.append(_cpio_member(0, "TRAILER!!!", Entry(0)))
        archive = b"".join(parts)
        # Padded to a page, so that a second archive can simply be appended.
        return archive + bytes(-len(archive) % 4096)


def _cpio_member(inode: int, name: str, entry: Entry) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    time = MTIME if entry.mode else 0
    # inode, mode, uid, gid, links, time, size, device x2, special device x2, name size, checksum
    fields = (
        *(inode, entry.mode, 0, entry.group, links, time, len(entry.data)),
        *(0, 0, 0, 0, len(encoded), 0),
    )
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + entry.data + bytes(-len(entry.data) % 4)
