"""From what distributors publish to a disk: every format and packing, and what is no image."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from qup.errors import BoxError
from qup.images import virtual_size
from qup.unpacking import make_disk, members, streams

SIZE = 4 << 20
FORMATS = {
    "qcow2": "qcow2",
    "raw": "raw",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vpc": "vhd",
    "vhdx": "vhdx",
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def qemu_img(*words: object) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk with something in it, and much that is empty."""
    path = tmp_path / "disk.raw"
    data = bytearray(SIZE)
    data[510:512] = b"\x55\xaa"
    data[1 << 20 : (1 << 20) + 4096] = os.urandom(4096)
    path.write_bytes(data)
    return path


def make(source: Path, **more: str) -> tuple[Path, object]:
    folder = source.parent / "made"
    folder.mkdir(exist_ok=True)
    target = folder / "disk.qcow2"
    made = make_disk(source, target, lambda _: None, **more)
    assert [path.name for path in folder.iterdir()] == ["disk.qcow2"]
    return target, made


def refuse(source: Path, *words: str, **more: str) -> BoxError:
    folder = source.parent / "made"
    folder.mkdir(exist_ok=True)
    with pytest.raises(BoxError) as caught:
        make_disk(source, folder / "disk.qcow2", lambda _: None, **more)
    text = f"{caught.value} {caught.value.hint}"
    for word in words:
        assert word in text
    assert "unpacking-" not in text
    return caught.value


def tar_of(path: Path, *entries: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(raw: Path, format: str) -> None:
    source = raw.parent / "image"
    qemu_img("convert", "-f", "raw", "-O", format, raw, source)
    disk, made = make(source, format=FORMATS[format])
    assert made.format == FORMATS[format]  # type: ignore[attr-defined]
    assert virtual_size(disk, "qcow2") >= SIZE
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, disk)


def test_a_streamed_vmdk(raw: Path) -> None:
    """As in OVA files and Vagrant boxes."""
    source = raw.parent / "image"
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "-f", "raw", raw, source)
    disk, _ = make(source)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, disk)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("tarred", [False, True])
def test_every_packing(raw: Path, packing: str, tarred: bool) -> None:
    data = raw.read_bytes()
    if tarred:
        data = tar_of(raw.parent / "t", ("a/disk.raw", data), ("README", b"x")).read_bytes()
    source = raw.parent / "image.bin"
    source.write_bytes(PACKINGS[packing](data))
    disk, made = make(source)
    assert made.packing == (f"{packing}, tar" if tarred else packing)  # type: ignore[attr-defined]
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, disk)


def test_packed_inside_an_archive(raw: Path) -> None:
    """Two layers, a foreign format, and pieces of gzip one behind the other."""
    vdi = raw.parent / "vdi"
    qemu_img("convert", "-f", "raw", "-O", "vdi", raw, vdi)
    half = vdi.stat().st_size // 2
    data = vdi.read_bytes()
    pieces = gzip.compress(data[:half]) + gzip.compress(data[half:])
    disk, made = make(tar_of(raw.parent / "a.tar", ("disk.vdi", pieces)))
    assert made.format == "vdi"  # type: ignore[attr-defined]
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, disk)


def test_the_source_is_left_alone(raw: Path) -> None:
    before = raw.read_bytes()
    make(raw)
    assert raw.read_bytes() == before


# --- what is no image ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404</title>" + bytes(600), "web page"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (bytes(32769) + b"CD001" + bytes(600), "ISO"),
        (gzip.compress(b""), "empty"),
        (gzip.compress(b"<html>" + bytes(600)), "web page"),
        (gzip.compress(os.urandom(100_000))[:50_000], "damaged"),
        (lzma.compress(os.urandom(100_000))[:50_000], "damaged"),
        (bz2.compress(os.urandom(100_000))[:50_000], "damaged"),
        (zstandard.ZstdCompressor().compress(os.urandom(100_000))[:50_000], "damaged"),
        (zstandard.ZstdCompressor().compress(b"x")[:4] + b"\xff" * 100, "damaged"),
        (b"\x1f\x8b" + os.urandom(1000), "damaged"),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"x")))), "3 times"),
    ],
    ids=range(13),  # what is compressed isn't the same twice, and names of tests must be
)
def test_what_is_no_image(tmp_path: Path, data: bytes, word: str) -> None:
    source = tmp_path / "image.img"
    source.write_bytes(data)
    refuse(source, word, "image.img")


def test_a_wrong_format_is_told(raw: Path) -> None:
    refuse(raw, "is a raw image, not a qcow2 one", format="qcow2")


def test_a_raw_disk_does_not_become_a_qcow2(tmp_path: Path) -> None:
    """A guest that wrote a header to its raw disk, to be shown the host's files."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    source = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", source)
    refuse(source, "backing file")
    refuse(tar_of(tmp_path / "a.tar", ("x.img", source.read_bytes())), "backing file")
    refuse(source, "", format="raw")


def test_images_that_name_others(raw: Path) -> None:
    folder = raw.parent
    flat = folder / "flat.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, flat)
    disk, made = make(flat)  # only a description, and so nothing but a raw disk of its bytes
    assert made.format == "raw"  # type: ignore[attr-defined]
    disk.unlink()

    whole, child = folder / "whole.vmdk", folder / "child.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", raw, whole)
    qemu_img("create", "-q", "-f", "vmdk", "-b", whole, "-F", "vmdk", child)
    refuse(child, "another one below")
    described = bytearray(whole.read_bytes())
    described[12:20] = bytes(8)  # no capacity: QEMU then opens what the description names
    child.write_bytes(described)
    refuse(child, "describes other files")

    vhd = folder / "a.vhd"
    qemu_img("convert", "-f", "raw", "-O", "vpc", raw, vhd)
    data = bytearray(vhd.read_bytes())
    data[0x3C:0x40] = struct.pack(">I", 4)
    vhd.write_bytes(data)
    refuse(vhd, "another one below")

    vdi = folder / "a.vdi"
    qemu_img("convert", "-f", "raw", "-O", "vdi", raw, vdi)
    data = bytearray(vdi.read_bytes())
    data[0x4C:0x50] = struct.pack("<I", 4)
    vdi.write_bytes(data)
    refuse(vdi, "another one below")


@pytest.mark.parametrize("format", ["vmdk", "vdi", "vpc", "vhdx"])
def test_a_foreign_image_that_breaks_off(raw: Path, format: str) -> None:
    source = raw.parent / "image"
    qemu_img("convert", "-f", "raw", "-O", format, raw, source)
    os.truncate(source, 70)
    refuse(source)


# --- archives -----------------------------------------------------------------------------


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_nothing_in_an_archive_gets_out(raw: Path) -> None:
    source = tar_of(
        raw.parent / "a.tar",
        member("link.img", tarfile.SYMTYPE, "/etc/shadow"),
        member("hard.img", tarfile.LNKTYPE, "../../etc/passwd"),
        member("dev.img", tarfile.CHRTYPE),
        member("pipe.img", tarfile.FIFOTYPE),
        ("../../../outside.img", raw.read_bytes()),
        ("/etc/absolute.txt", b"x"),
    )
    disk, _ = make(source)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, disk)
    assert not (raw.parent / "outside.img").exists()
    assert not Path("/etc/absolute.txt").exists()


def test_archives_without_one_image(raw: Path) -> None:
    folder, data = raw.parent, raw.read_bytes()
    refuse(tar_of(folder / "none.tar", ("README", b"hello")), "without a disk image")
    refuse(tar_of(folder / "two.tar", ("a.img", data), ("b.img", data)), "a.img and b.img")
    many = folder / "many.tar"
    tar_of(many, *[(f"{number}", b"") for number in range(members.MEMBERS + 1)])
    refuse(many, "members")


def test_an_archive_with_an_absurd_name(tmp_path: Path) -> None:
    """A header that would be read into memory as a whole."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    source = tmp_path / "a.tar"
    source.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    refuse(source, "longer than any path")


def test_an_archive_that_breaks_off(raw: Path) -> None:
    source = tar_of(raw.parent / "a.tar", ("a.img", raw.read_bytes()))
    os.truncate(source, 1 << 20)
    refuse(source, "a.tar")


# --- bombs --------------------------------------------------------------------------------


def test_zeros_take_no_space(tmp_path: Path) -> None:
    """256 MiB of nothing is a legal disk."""
    source = tmp_path / "zeros.gz"
    with gzip.open(source, "wb", compresslevel=1) as file:
        for _ in range(256):
            file.write(bytes(1 << 20))
    disk, made = make(source)
    assert made.size == 256 << 20  # type: ignore[attr-defined]
    assert disk.stat().st_blocks * 512 < 2 << 20


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_bomb_is_noticed(tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.unpack, "__defaults__", (1 << 20,))
    source = tmp_path / "bomb"
    source.write_bytes(PACKINGS[packing](bytes(8 << 20)))
    refuse(source, "more than 1M")


def test_no_room(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qup.errors import HostError

    source = raw.parent / "a.gz"
    source.write_bytes(gzip.compress(os.urandom(65 << 20), 1))
    monkeypatch.setattr(streams, "RESERVE", 1 << 60)
    (raw.parent / "made").mkdir()
    with pytest.raises(HostError, match="does not fit"):
        make_disk(source, raw.parent / "made" / "disk.qcow2", print)
    assert list((raw.parent / "made").iterdir()) == []
