"""Disk images: making them, and reading the headers of hostile ones."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qup import images
from qup.errors import BoxError, ConfigError, HostError
from qup.process import run
from qup.qemu import disk

MIB = 1024 * 1024
QEMU_IMG = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")

FIELDS = struct.Struct(">4sIQIIQIIQQIIQQQQII")
SOUND = {
    "magic": b"QFI\xfb",
    "version": 3,
    "backing_offset": 0,
    "backing_size": 0,
    "cluster_bits": 16,
    "size": 64 * MIB,
    "crypt": 0,
    "l1_size": 1,
    "l1_offset": 0x30000,
    "refcount_offset": 0x10000,
    "refcount_clusters": 1,
    "snapshots": 0,
    "snapshots_offset": 0,
    "incompatible": 0,
    "compatible": 0,
    "autoclear": 0,
    "refcount_order": 4,
    "header_length": 104,
}
HUGE = {
    "size": 1 << 50,
    "cluster_bits": 21,
    "l1_size": 2048,
    "l1_offset": 2 * MIB,
    "refcount_offset": 4 * MIB,
}


def header(**changes: object) -> bytes:
    return FIELDS.pack(*{**SOUND, **changes}.values())


def image(folder: Path, content: bytes, length: int = 0x31000) -> Path:
    path = folder / "image"
    path.write_bytes(content)
    os.truncate(path, max(length, len(content)))
    return path


# --- making -------------------------------------------------------------------------------


@QEMU_IMG
@pytest.mark.parametrize(
    "name", ["plain", "with space", "a,b", "a:b", "nbd:unix:x", "q'u\"o", "ü", "-rf", "a=b", "%d"]
)
def test_overlay_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    base, path = folder / f"{name}.base", folder / name
    disk.create_blank(base, 32 * MIB)
    before = base.read_bytes()
    disk.create_overlay(path, base, "qcow2", 64 * MIB)
    assert images.virtual_size(path, "qcow2") == 64 * MIB
    assert base.read_bytes() == before
    said = run(["qemu-img", "info", "-f", "qcow2", "--output=json", path]).stdout
    assert '"backing-filename-format": "qcow2"' in said
    assert sorted(os.listdir(folder)) == sorted([base.name, path.name])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@QEMU_IMG
def test_overlay_of_a_relative_raw_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = Path("base.raw")
    base.write_bytes(b"\0" * MIB)
    (tmp_path / "machine").mkdir()
    disk.create_overlay(Path("machine/disk"), base, "raw", 2 * MIB)
    assert disk.check(tmp_path / "machine/disk") is None


@QEMU_IMG
def test_overlay_smaller_than_its_base(tmp_path: Path) -> None:
    disk.create_blank(tmp_path / "base", 64 * MIB)
    with pytest.raises(ConfigError, match="32M is too small: the box has 64M"):
        disk.create_overlay(tmp_path / "disk", tmp_path / "base", "qcow2", 32 * MIB)
    assert not (tmp_path / "disk").exists()


@QEMU_IMG
def test_failure_leaves_the_old_image_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    with pytest.raises(HostError):
        disk.create_blank(path, 1 << 70)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["disk"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"can't write .*/nowhere/disk: No such file"):
        disk.create_blank(tmp_path / "nowhere" / "disk", MIB)


def test_full_filesystem_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise HostError("qemu-img failed", details="qemu-img: x: No space left on device")

    monkeypatch.setattr(disk, "run", fail)
    with pytest.raises(HostError, match=r"no space left on the filesystem /") as caught:
        disk.create_blank(tmp_path / "disk", MIB)
    assert caught.value.hint is not None
    assert os.listdir(tmp_path) == []


@QEMU_IMG
@pytest.mark.root
def test_really_full_filesystem(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(full)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        with pytest.raises(HostError, match=f"no space left on the filesystem {full}"):
            disk.create_blank(full / "disk", 1024 * MIB)
        assert os.listdir(full) == []
    finally:
        subprocess.run(["umount", str(full)], check=True)


@QEMU_IMG
def test_grow(tmp_path: Path) -> None:
    path = tmp_path / "a,b:c"
    disk.create_blank(path, 32 * MIB)
    disk.grow(path, 32 * MIB)
    disk.grow(path, 48 * MIB)
    assert images.virtual_size(path, "qcow2") == 48 * MIB
    with pytest.raises(ConfigError, match="can't shrink"):
        disk.grow(path, 32 * MIB)


@QEMU_IMG
def test_check(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    disk.create_blank(path, 32 * MIB)
    assert disk.check(path) is None
    sound = path.read_bytes()
    (tmp_path / "junk").write_bytes(os.urandom(4096))
    assert "can't be checked" in str(disk.check(tmp_path / "junk"))
    path.write_bytes(sound[:100_000])
    assert disk.check(path) is not None
    # An L1 entry that points at a cluster whose reference count is 0: corrupt.
    damaged = bytearray(sound)
    l1 = int.from_bytes(sound[40:48], "big")
    damaged[l1 : l1 + 8] = (0x8000000000000000 | 0x50000).to_bytes(8, "big")
    path.write_bytes(bytes(damaged) + b"\0" * 0x30000)
    assert "is damaged" in str(disk.check(path))


# --- reading ------------------------------------------------------------------------------


def test_sound_header(tmp_path: Path) -> None:
    path = image(tmp_path, header())
    assert images.inspect_header(path, "qcow2") == images.virtual_size(path, "qcow2") == 64 * MIB


@QEMU_IMG
@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "preallocation=metadata",
    ],
)
@pytest.mark.parametrize("size", [0, 1 * MIB, 10 * 1024 * MIB])
def test_what_qemu_makes_is_accepted(tmp_path: Path, options: str, size: int) -> None:
    if "prealloc" in options and size > MIB:
        pytest.skip("takes long")
    path = tmp_path / "image"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, str(size)])
    assert images.inspect_header(path, "qcow2") == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backing_offset": 512, "backing_size": 11}, "backing file"),
        ({"backing_offset": 512, "backing_size": 0}, "backing file"),
        ({"incompatible": 4}, "another file"),
        ({"incompatible": 1}, "not closed properly"),
        ({"incompatible": 2}, "damaged"),
        ({"incompatible": 1 << 5}, r"unknown \(0x20\)"),
        ({"incompatible": 1 << 63}, "unknown"),
        ({"crypt": 1}, "encrypted"),
        ({"crypt": 2}, "encrypted"),
        (HUGE, "claims to be a disk of 1024T"),
        ({"size": 513}, "damaged"),
        ({"refcount_clusters": 0}, "damaged"),
        ({"version": 1}, "version 1"),
        ({"version": 4}, "version 4"),
        ({"cluster_bits": 8}, "damaged"),
        ({"cluster_bits": 22}, "damaged"),
        ({"cluster_bits": 0xFFFFFFFF}, "damaged"),
        ({"size": 1 << 63}, "damaged"),
        ({"l1_size": 0}, "damaged"),
        ({"l1_size": 0xFFFFFFFF}, "damaged"),
        ({"l1_offset": 0x30001}, "damaged"),
        ({"l1_offset": 1 << 60}, "damaged"),
        ({"refcount_offset": 0}, "damaged"),
        ({"refcount_offset": 1 << 60}, "damaged"),
        ({"refcount_clusters": 0xFFFFFFFF}, "damaged"),
        ({"refcount_order": 7}, "damaged"),
        ({"header_length": 72}, "damaged"),
        ({"header_length": 0xFFFFFFF8}, "damaged"),
        ({"snapshots": 65537}, "damaged"),
        ({"backing_offset": 1 << 40, "backing_size": 5}, "damaged"),
    ],
)
def test_hostile_header(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    path = image(tmp_path, header(**changes), 64 * MIB)
    with pytest.raises(BoxError, match=message):
        images.inspect_header(path, "qcow2")


@QEMU_IMG
def test_real_images_that_refer_to_others(tmp_path: Path) -> None:
    disk.create_blank(tmp_path / "base", MIB)
    disk.create_overlay(tmp_path / "overlay", tmp_path / "base", "qcow2", MIB)
    with pytest.raises(BoxError, match="backing file"):
        images.inspect_header(tmp_path / "overlay", "qcow2")
    options = f"data_file={tmp_path / 'data'},data_file_raw=on"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, tmp_path / "outside", "1M"])
    with pytest.raises(BoxError, match="another file"):
        images.inspect_header(tmp_path / "outside", "qcow2")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"\0" * 32769 + b"CD001", r"an ISO image \(a CD\)"),
        (b"KDMV\1\0\0\0", "a VMDK image"),
        (b"\0" * 257 + b"ustar", "a tar archive"),
        (b"anything", "something else"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(BoxError, match=f"is not a qcow2 image, it is {what}"):
        images.inspect_header(path, "qcow2")


def test_raw_is_never_something_else(tmp_path: Path) -> None:
    path = image(tmp_path, b"\xeb\x63\x90", MIB)
    assert images.inspect_header(path, "raw") == images.virtual_size(path, "raw") == MIB
    with pytest.raises(BoxError, match="the most is 512K"):
        images.inspect_header(path, "raw", max_virtual_size=MIB // 2)
    with pytest.raises(BoxError, match="a qcow2 image, not a raw"):
        images.inspect_header(image(tmp_path, header()), "raw")
    path.write_bytes(b"")
    with pytest.raises(BoxError, match="empty, not a raw"):
        images.inspect_header(path, "raw")


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    begin = time.monotonic()
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(BoxError, match="not a regular file"):
            images.virtual_size(path, "raw")
    with pytest.raises(BoxError, match=r"can't open the image .*: No such file"):
        images.virtual_size(tmp_path / "nothing", "raw")
    assert time.monotonic() - begin < 1, "a fifo must not be waited for"


@pytest.mark.parametrize("length", range(104))
def test_header_that_is_cut_off(length: int) -> None:
    with pytest.raises(BoxError):
        images.parse_header(header()[:length], length, "x")


def test_image_that_is_cut_off() -> None:
    assert images.parse_header(header(), 0x30008, "x").virtual_size == 64 * MIB
    with pytest.raises(BoxError, match="damaged"):
        images.parse_header(header(), 0x30007, "x")


@pytest.mark.parametrize(
    ("feature", "kind", "sound"), [(0, 0, True), (0, 1, False), (8, 0, False), (8, 1, True)]
)
def test_kind_of_compression_agrees_with_its_feature(feature: int, kind: int, sound: bool) -> None:
    start = header(incompatible=feature, header_length=112) + bytes([kind]) + b"\0" * 7
    if sound:
        images.parse_header(start, 0x31000, "x")
    else:
        with pytest.raises(BoxError, match="damaged"):
            images.parse_header(start, 0x31000, "x")


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 1 << 63))
def test_any_bytes_are_refused_or_understood(content: bytes, length: int) -> None:
    for start in (content, b"QFI\xfb" + content):
        try:
            found = images.parse_header(start, length, "x")
        except BoxError:
            continue
        assert 0 <= found.virtual_size < 1 << 63


NUMBERS = st.one_of(
    st.integers(0, 70),
    st.sampled_from([1 << bit for bit in range(64)]),
    st.sampled_from([(1 << bit) - 1 for bit in range(1, 65)]),
)
FIELD = st.sampled_from([name for name in SOUND if name != "magic"])


@settings(max_examples=600, deadline=None)
@given(st.dictionaries(FIELD, NUMBERS, max_size=4), st.sampled_from([200, 0x31000, 1 << 40]))
def test_any_field_is_refused_or_understood(changes: dict[str, int], length: int) -> None:
    try:
        start = header(**changes)
    except struct.error:
        return  # the number doesn't fit the field
    try:
        found = images.parse_header(start, length, "x")
    except BoxError:
        return
    assert found.version in (2, 3)
    assert 512 <= found.cluster_size <= 2 * MIB


@QEMU_IMG
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,  # the answer is QEMU's, which differs from version to version
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.dictionaries(FIELD, NUMBERS, min_size=1, max_size=2))
def test_what_is_accepted_qemu_accepts_too(tmp_path: Path, changes: dict[str, int]) -> None:
    """No image passes that qemu-img itself calls broken."""
    try:
        start = header(**changes)
    except struct.error:
        return
    if changes.get("version") == 2:
        start = start[:72]  # extensions would follow, which end with zeros
    path = image(tmp_path, start, 64 * MIB)
    try:
        size = images.inspect_header(path, "qcow2")
    except BoxError:
        return
    if changes.get("snapshots"):
        return  # the table of snapshots would be zeros
    done = run(["qemu-img", "info", "-f", "qcow2", path], check=False)
    assert done.code == 0, done.stderr
    assert f"({size} bytes)" in done.stdout
