"""What comes back from a guest is a stranger's archive."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from qup.guest.sync import Folder


def take(folder: Folder, *members: tarfile.TarInfo, data: bytes = b"new") -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            folder._take(archive, member)


def make(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.mtime = kind, link, 0o6755, 1000
    return member


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "inside"
    root.mkdir()
    (tmp_path / "outside").write_text("mine")
    return Folder(root)


@pytest.mark.parametrize("name", ["../outside", "/../outside", "a/../../outside", "up/outside"])
def test_nothing_outside_is_written(folder: Folder, name: str) -> None:
    (folder.root / "up").symlink_to("..")
    take(folder, make(name))
    assert (folder.root.parent / "outside").read_text() == "mine"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("link", ["/etc/passwd", "../outside"])
def test_links_stay_inside(folder: Folder, kind: bytes, link: str) -> None:
    take(folder, make("link", kind, link), make("link/x"))
    assert folder.skipped
    assert not (folder.root / "link").is_symlink()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_device_is_made(folder: Folder, kind: bytes) -> None:
    take(folder, make("device", kind))
    assert not os.path.lexists(folder.root / "device")
    assert folder.skipped == ["device: neither file, folder nor link"]


def test_new_files_and_folders_come_without_special_bits(folder: Folder) -> None:
    take(folder, make("./a", tarfile.DIRTYPE), make("./a/b"), make("./a/c", tarfile.LNKTYPE, "a/b"))
    made = folder.root / "a" / "b"
    assert made.read_text() == (folder.root / "a" / "c").read_text() == "new"
    assert made.stat().st_mode & 0o7777 == 0o755
    assert made.stat().st_mtime == 1000


def test_a_link_is_replaced_and_not_followed(folder: Folder) -> None:
    (folder.root / "name").symlink_to("../outside")
    take(folder, make("name"))
    assert (folder.root / "name").read_text() == "new"
    assert not (folder.root / "name").is_symlink()
    assert (folder.root.parent / "outside").read_text() == "mine"


def test_what_the_guest_did_not_change_is_left_alone(folder: Folder) -> None:
    path = folder.root / "file"
    path.write_text("old")
    os.utime(path, (1000, 1000))
    path.chmod(0o755)
    folder._write(io.BytesIO())
    path.write_text("changed meanwhile")
    take(folder, make("./file"))
    assert path.read_text() == "changed meanwhile"


def test_qups_own_folder_goes_neither_way(folder: Folder) -> None:
    (folder.root / ".qup").mkdir()
    (folder.root / ".qup" / "key").write_text("secret")
    (folder.root / "file").write_text("data")
    stream = io.BytesIO()
    folder._write(stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        assert sorted(archive.getnames()) == [".", "./file"]
    take(folder, make("./.qup/key"))
    assert (folder.root / ".qup" / "key").read_text() == "secret"
