"""A tree of this computer as a tar archive, byte by byte and without ever being a file."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from qup.guest.copying.ends import BLOCK, HOLE, MODE_BITS, Notes
from qup.paths import STATE_FOLDER

_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass
class Packer:
    """Makes an archive in GNU's form, which all tars read, whatever bytes are in names.

    Attributes:
        root: the folder.
        notes: takes what is left out.
        follow: put what links lead to into the archive, and not the links.
        holey: files with holes worth keeping, by name, which are left to others.
        links: where a file with several names was first met.
    """

    root: str
    notes: Notes
    follow: bool = False
    keep_holes: bool = False
    holey: dict[str, str] = field(default_factory=dict)
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def pack(self) -> Iterator[bytes]:
        """The archive."""
        yield from self._folder(self.root, ".", set())
        yield _END

    def _folder(self, path: str, name: str, above: set[tuple[int, int]]) -> Iterator[bytes]:
        try:
            info = os.stat(path)  # noqa: PTH116  a Path for each would be slow
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as exc:
            self._fail(path, exc)
            return
        here = (info.st_dev, info.st_ino)
        if here in above:
            self.notes.left_out.append(f"{path}: leads back to a folder above it")
            return
        yield _header(f"{name}/", info, tarfile.DIRTYPE)
        for entry in entries:
            if entry.name == STATE_FOLDER:
                self.notes.left_out.append(f"{entry.path}: qup's own")
                continue
            yield from self._entry(entry, f"{name}/{entry.name}", above | {here})

    def _entry(
        self, entry: os.DirEntry[str], name: str, above: set[tuple[int, int]]
    ) -> Iterator[bytes]:
        try:
            info = entry.stat(follow_symlinks=self.follow)
        except OSError as exc:
            self._fail(entry.path, exc)
            return
        if stat.S_ISDIR(info.st_mode):
            yield from self._folder(entry.path, name, above)
        elif stat.S_ISREG(info.st_mode):
            yield from self._file(entry.path, name, info)
        elif stat.S_ISLNK(info.st_mode):
            try:
                leads_to = os.readlink(entry.path)
            except OSError as exc:
                self._fail(entry.path, exc)
            else:
                yield _header(name, info, tarfile.SYMTYPE, link=leads_to)
        else:
            self.notes.left_out.append(f"{entry.path}: neither file, folder nor link")

    def _file(self, path: str, name: str, info: os.stat_result) -> Iterator[bytes]:
        if self.keep_holes and is_holey(info):
            self.holey[name] = path
            return
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and key in self._links:
            yield _header(name, info, tarfile.LNKTYPE, link=self._links[key])
            return
        try:
            file = open(path, "rb")  # noqa: PTH123, SIM115  closed below; names are bytes
        except OSError as exc:
            self._fail(path, exc)
            return
        with file:
            self._links[key] = name
            yield _header(name, info, tarfile.REGTYPE, size=info.st_size)
            left = info.st_size
            while left:
                try:
                    data = file.read(min(BLOCK, left))
                except OSError as exc:
                    self._fail(path, exc)
                    data = b""
                if not data:  # it shrank, or can't be read: the archive needs what it announced
                    self.notes.failed.append(f"{path}: changed while it was copied")
                    data = bytes(min(BLOCK, left))
                left -= len(data)
                yield data
            yield bytes(-info.st_size % tarfile.BLOCKSIZE)

    def _fail(self, path: str, exc: OSError) -> None:
        self.notes.failed.append(f"{path}: {exc.strerror}")


def is_holey(info: os.stat_result) -> bool:
    """Whether a file has holes worth keeping."""
    return info.st_size - info.st_blocks * 512 >= HOLE


def _header(
    name: str, info: os.stat_result, kind: bytes, *, size: int = 0, link: str = ""
) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    member.mode = stat.S_IMODE(info.st_mode) & MODE_BITS
    member.mtime = max(0, int(info.st_mtime))
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
