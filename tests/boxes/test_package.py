"""A box as one file: what is written is what is read, and what is wrong is refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qup.boxes.package import write_package
from qup.errors import BoxError, HostError
from qup.model.box import BoxSpec
from qup.model.package import Packaged, read_metadata, write_metadata
from qup.unpacking import make_disk
from tests.conftest import Qup

SPEC = BoxSpec(
    "debian/12", "debian", "x86_64", "1.0", "key", cmdline="console=ttyS0 quiet", efi=True,
    buses=("virtio", "ide"), mounts=("9p",), cloud_init=False,
)  # fmt: skip
TOLD = {"user": "debian", "seeder": "nocloud", "size": 3 << 30, "made": "2026-11-24"}


def make_image(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


def make_package(folder: Path, metadata: str, **members: bytes) -> Path:
    """An archive with an image, as ``qup box export`` writes it."""
    files = {"box.img": make_image(folder / "image.qcow2")}
    for name, data in members.items():
        files[name] = folder / f"{name}.member"
        files[name].write_bytes(data)
    write_package(folder / "made.box", metadata, files)
    return folder / "made.box"


def test_what_is_written_is_read() -> None:
    told = read_metadata(write_metadata(SPEC, **TOLD).encode())  # type: ignore[arg-type]
    assert told == Packaged(
        arch="x86_64", user="debian", seeder="nocloud", version="2026-11-24",
        cmdline="console=ttyS0 quiet", kernel=True, efi=True, buses=("virtio", "ide"),
        mounts=("9p",), cloud_init=False,
    )  # fmt: skip
    less = BoxSpec("debian/12", "debian", "x86_64", "1.0", "key", kernel=False)
    applied = told.apply(less)
    assert applied == replace(SPEC, user="debian", version="2026-11-24")


def test_vagrants_metadata() -> None:
    told = read_metadata(b'{"provider": "libvirt", "format": "qcow2", "virtual_size": 40}')
    assert told == Packaged(user="vagrant", seeder="vagrant")
    told = read_metadata(b'{"provider": "qemu", "architecture": "arm64"}')
    assert told is not None
    assert told.arch == "aarch64"
    assert read_metadata(b'{"name": "of something else"}') is None


def test_vagrants_metadata_with_disks() -> None:
    """vagrant-libvirt's second form names each disk's file."""
    one = b'{"provider": "libvirt", "disks": [{"format": "qcow2", "path": "a.img"}]}'
    assert read_metadata(one) == Packaged()
    two = one.replace(b"]", b', {"format": "qcow2", "path": "b.img", "name": "data"}]')
    with pytest.raises(ValueError, match="it has 2 disks"):
        read_metadata(two)


def own(**more: object) -> bytes:
    return json.dumps({"provider": "libvirt", "qup": {"schema": 1, **more}}).encode()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "not a table"),
        (b'{"provider": "virtualbox"}', "virtualbox"),
        (b'{"provider": ["x"]}', "it is for"),
        (b'{"qup": 1}', "not a table"),
        (own(schema=2), "schema 2"),
        (own(user="-oProxyCommand=x"), "'user'"),
        (own(user="root\n"), "'user'"),
        (own(seeder="../x"), "'seeder'"),
        (own(cmdline="a\nb"), "'cmdline'"),
        (own(cmdline="x" * 4096), "'cmdline'"),
        (own(kernel="yes"), "'kernel'"),
        (own(buses=["nvme"]), "'buses'"),
        (own(buses="virtio"), "'buses'"),
        (own(mounts=["nfs"]), "'mounts'"),
        (own(arch=["x"]), "'arch'"),
    ],
)
def test_what_an_archive_may_not_say(data: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        read_metadata(data)


def test_an_archive_is_whole_or_not_there(tmp_path: Path) -> None:
    """The digest beside it is right, nothing else is left, and the same files make the same."""
    image = make_image(tmp_path / "image.qcow2")
    made = tmp_path / "made"
    made.mkdir()
    digest, size = write_package(made / "a.box", "{}", {"box.img": image})
    data = (made / "a.box").read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, size)
    assert (made / "a.box.sha256").read_text() == f"{digest}  a.box\n"
    assert write_package(made / "a.box", "{}", {"box.img": image}) == (digest, size)
    with pytest.raises(HostError):
        write_package(made / "a.box", "{}", {"box.img": tmp_path / "missing"})
    assert sorted(path.name for path in made.iterdir()) == ["a.box", "a.box.sha256"]
    assert (made / "a.box").read_bytes() == data


def test_what_boots_it_comes_along(tmp_path: Path) -> None:
    metadata = write_metadata(SPEC, **TOLD)  # type: ignore[arg-type]
    members = {"kernel": b"KERNEL", "initrd": b"INITRD", "kernel.efi": b"EFI"}
    package = make_package(tmp_path, metadata, **members)
    into = tmp_path / "into"
    into.mkdir()
    made = make_disk(package, into / "disk.qcow2", lambda _: None)
    assert made.packaged is not None
    assert made.packing == "zstd, tar"
    assert {path.name: path.read_bytes() for path in into.iterdir() if "disk" not in path.name} == (
        members
    )


@pytest.mark.parametrize("missing", ["kernel", "initrd", "kernel.efi"])
def test_an_archive_that_lacks_what_it_claims(tmp_path: Path, missing: str) -> None:
    metadata = write_metadata(SPEC, **TOLD)  # type: ignore[arg-type]
    members = {"kernel": b"K", "initrd": b"I", "kernel.efi": b"E"}
    del members[missing]
    package = make_package(tmp_path, metadata, **members)
    with pytest.raises(BoxError, match=f"lacks {missing}"):
        make_disk(package, tmp_path / "disk.qcow2", lambda _: None)


def test_a_kernel_that_nobody_spoke_of_is_passed_over(tmp_path: Path) -> None:
    """A foreign archive can't make QEMU start a kernel of its own."""
    package = make_package(tmp_path, '{"provider": "libvirt"}', kernel=b"K", initrd=b"I")
    made = make_disk(package, tmp_path / "disk.qcow2", lambda _: None)
    assert made.packaged == Packaged()
    assert not (tmp_path / "kernel").exists()


def test_the_metadata_has_a_limit(tmp_path: Path) -> None:
    package = make_package(tmp_path, "[" * (2 << 20))
    with pytest.raises(BoxError, match="too large"):
        make_disk(package, tmp_path / "disk.qcow2", lambda _: None)


# --- as a user ------------------------------------------------------------------------------


def built(qup: Qup, name: str) -> dict[str, Any]:
    qup("box", "build", name).ok()
    boxes = json.loads(qup("box", "list", "--json").ok().stdout)["boxes"]
    return next(box for box in boxes if box["spec"]["name"] == name)


def test_a_box_of_qups_is_what_it_says(qup: Qup, project: Callable[..., Path]) -> None:
    """By path, and by a name that it is given."""
    folder = project()
    metadata = write_metadata(SPEC, **TOLD)  # type: ignore[arg-type]
    members = {"kernel": b"KERNEL", "initrd": b"INITRD", "kernel.efi": b"EFI"}
    make_package(folder, metadata, **members)
    spec = built(qup, "./made.box")["spec"]
    wanted = {"user": "debian", "seeder": "nocloud", "kernel": True, "efi": True}
    assert {key: spec[key] for key in wanted} == wanted
    qup("box", "add", "team/web", "./made.box").ok()
    assert built(qup, "team/web")["spec"]["user"] == "debian"
    qup("box", "add", "team/admin", "./made.box", "--user", "admin").ok()
    spec = built(qup, "team/admin")["spec"]
    assert (spec["user"], spec["cmdline"]) == ("admin", "console=ttyS0 quiet")


def test_a_box_for_another_processor(qup: Qup, project: Callable[..., Path]) -> None:
    folder = project()
    make_package(folder, write_metadata(replace(SPEC, arch="aarch64", kernel=False), **TOLD))  # type: ignore[arg-type]
    done = qup("box", "build", "./made.box")
    assert done.code == 8
    assert "is for aarch64, and the machine has x86_64" in done.stderr
    assert "qemu-system-aarch64" in done.stderr


def test_a_box_of_vagrants(qup: Qup, project: Callable[..., Path]) -> None:
    """Its user and its key are Vagrant's; nothing else in it is looked at."""
    folder = project()
    image = make_image(folder / "image.qcow2")
    with tarfile.open(folder / "their.box", "w:gz") as archive:
        for name, data in {
            "Vagrantfile": b"raise 'no'",
            "metadata.json": b'{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}',
            "info.json": b"{",
            "box.img": image.read_bytes(),
        }.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    spec = built(qup, "./their.box")["spec"]
    assert (spec["user"], spec["seeder"], spec["kernel"]) == ("vagrant", "vagrant", False)


def test_a_box_that_wants_what_is_not_here(qup: Qup, project: Callable[..., Path]) -> None:
    """What the machine would need is named, and what there is."""
    folder = project('[machine]\nbox = "./made.box"\n[machine.qemu]\naccelerator = "tcg"\n')
    make_package(
        folder, write_metadata(replace(SPEC, kernel=False), **{**TOLD, "seeder": "nosuch"})
    )  # type: ignore[arg-type]
    qup("box", "build", "./made.box").ok()
    done = qup("plan")
    assert done.code == 7, done
    assert "wants the guest seeder 'nosuch'" in done.stderr
    assert "nocloud" in done.stderr
