"""Further disks through the command line, on a QEMU that is none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qup.images import virtual_size
from qup.runner.host_drives import can_pass_cache, find_users, is_in_use
from tests.fakes.world import QUPFILE, World

MIB = 1 << 20
Write = Callable[..., None]


def disk(**keys: str) -> str:
    lines = [f"{key.replace('_', '-')} = {value}" for key, value in keys.items()]
    return "\n".join(["[[machine.disks]]", *lines, ""])


@pytest.fixture
def write(world: World) -> Write:
    """Write a Qupfile with these tables."""

    def write(*tables: str) -> None:
        (world.folder / "Qupfile").write_text(QUPFILE + "".join(tables))

    return write


def make_image(path: Path, *more: str, size: str = "2M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, path, size], check=True)
    return path


def make_overlay(path: Path, backing: Path) -> Path:
    return make_image(path, "-F", "qcow2", "-b", str(backing))


def test_a_disk_is_made_grown_kept_and_never_shrunk(world: World, write: Write) -> None:
    file = world.machine / "disks" / "data.qcow2"
    write(disk(name='"data"', size='"2M"'))
    assert "made disk 'data' of 2M" in world("up").ok().stderr
    assert virtual_size(file, "qcow2") == 2 * MIB
    assert file.stat().st_mode & 0o077 == 0
    write(disk(name='"data"', size='"3M"'))
    said = world("up").ok().stderr
    assert "disks: data (2M) -> data (3M)" in said, "it runs: so it is only said"
    assert virtual_size(file, "qcow2") == 2 * MIB
    assert "grown to 3M" in world("reload").ok().stderr
    assert virtual_size(file, "qcow2") == 3 * MIB
    write(disk(name='"data"', size='"1M"'))
    refused = world("reload")
    assert refused.code == 9
    assert "a disk can't shrink" in refused.stderr
    assert world.status()["status"] == "running", "it is refused before the machine is stopped"
    write()
    assert "is kept in" in world("reload").ok().stderr
    assert file.exists()
    write(disk(name='"data"', size='"3M"'))
    world("reload").ok()
    assert file.exists()
    world("destroy", "-y").ok()
    assert not file.exists()


def test_an_image_is_used_in_place_and_survives_destroy(world: World, write: Write) -> None:
    image = make_image(world.folder / "mine.qcow2")
    before = image.read_bytes()
    write(disk(image='"mine.qcow2"'))
    world("up").ok()
    command = (world.machine / "logs" / "qemu.log").read_text()
    assert str(image) in command
    assert not (world.machine / "disks").exists()
    world("destroy", "-y").ok()
    assert image.read_bytes() == before


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_state_file(world: World) -> str:
    (world.folder / ".qup").mkdir()
    make_image(world.folder / ".qup" / "x")
    return ".qup/x"


MAKERS: dict[str, Callable[[Path, World], object]] = {
    "missing": lambda path, world: None,
    "folder": lambda path, world: path.mkdir(),
    "fifo": lambda path, world: os.mkfifo(path),
    "socket": lambda path, world: bind(path),
    "device": lambda path, world: "/dev/null",
    "empty": lambda path, world: path.touch(),
    "backing": lambda path, world: make_overlay(path, world.folder / "base.qcow2"),
    "data file": lambda path, world: make_image(path, "-o", f"data_file={path}.data"),
    "vmdk": lambda path, world: path.write_bytes(b"KDMV" + bytes(4096)),
    "iso": lambda path, world: path.write_bytes(bytes(32769) + b"CD001" + bytes(4096)),
    "unknown": lambda path, world: path.write_bytes(b"anything"),
    "raw as qcow2": lambda path, world: path.write_bytes(b"anything"),
    "qcow2 as raw": lambda path, world: make_image(path),
    "link out": lambda path, world: path.symlink_to(make_image(world.folder.parent / "other")),
    ".qup/x": lambda path, world: make_state_file(world),
}
"""What makes something that is no image, and may say how it is called."""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "does not exist"),
        ("folder", "is not a regular file"),
        ("fifo", "is not a regular file"),
        ("socket", "can't open the image"),
        ("device", "is not a regular file"),
        ("empty", "is empty"),
        ("backing", "needs a backing file"),
        ("data file", "keeps its data in another file"),
        ("vmdk", "is a VMDK image"),
        ("iso", "write read-only = true"),
        ("unknown", 'write format = "raw"'),
        ("raw as qcow2", "is not a qcow2 image"),
        ("qcow2 as raw", "is a qcow2 image, not a raw disk image"),
        ("link out", "leads out of the project"),
        ("nbd:unix:x", "does not exist"),
        ("json:{}", "does not exist"),
        (".qup/x", "belongs to qup"),
    ],
)
def test_what_is_no_image_is_refused(
    kind: str,
    said: str,
    world: World,
    tmp_path: Path,
    write,  # type: ignore[no-untyped-def]
) -> None:
    image = world.folder / "image"
    made = MAKERS[kind](image, world) if kind in MAKERS else kind
    name = made if isinstance(made, str) else "image"
    keys = {"format": f'"{kind.split()[-1]}"'} if " as " in kind else {}
    write(disk(image=f'"{name}"', **keys))
    world("trust").ok()
    done = world("up")
    assert done.code == 4, done
    assert said in done.stderr
    assert not world.qemus()
    assert "Traceback" not in done.stderr


def test_a_prepared_disk_is_refused(world: World, write: Write) -> None:
    """A project may come from anybody, with a .qup in it."""
    file = world.machine / "disks" / "data.qcow2"
    write(disk(name='"data"', size='"2M"'))
    world("up").ok()
    world("down", "--force").ok()
    make_image(file, "-F", "qcow2", "-b", str(world.folder / "base.qcow2"))
    done = world("up")
    assert done.code == 6
    assert "needs a backing file" in done.stderr
    file.unlink()
    file.symlink_to(make_image(world.folder / "other"))
    done = world("up")
    assert done.code == 6
    assert "is a link" in done.stderr
    file.unlink()
    file.parent.rmdir()
    (world.folder / "mine").mkdir()
    make_image(world.folder / "mine" / "data.qcow2")
    file.parent.symlink_to(world.folder / "mine")
    done = world("up")
    assert done.code == 5
    assert "belongs to somebody else or is no folder" in done.stderr


def test_an_image_in_use_is_told_with_its_user(world: World, write: Write) -> None:
    image = make_image(world.folder / "mine.qcow2")
    node = f"driver=qcow2,node-name=x,file.driver=file,file.filename={image}"
    holder = subprocess.Popen(
        [
            *("qemu-storage-daemon", "--blockdev", node),
            *("--nbd-server", f"addr.type=unix,addr.path={world.folder / 'nbd'}"),
            *("--export", "nbd,id=e,node-name=x,writable=on"),
            *("--chardev", "stdio,id=m", "--monitor", "m"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert is_in_use(image, to_write=True)
        write(disk(image='"mine.qcow2"'))
        done = world("up")
        assert done.code == 5
        assert f"is in use by qemu-storage-daemon (pid {holder.pid})" in done.stderr
    finally:
        holder.kill()
        holder.communicate()
    assert not is_in_use(image, to_write=True)
    assert find_users(image) == []
    world("up").ok()


@pytest.mark.skipif(os.getuid() == 0, reason="root writes to every file")
def test_an_image_that_may_not_be_written_to_is_refused(world: World, write: Write) -> None:
    make_image(world.folder / "mine.qcow2").chmod(0o444)
    write(disk(image='"mine.qcow2"'))
    done = world("up")
    assert done.code == 4
    assert "you may not write to" in done.stderr


def test_a_file_system_that_can_not_pass_its_cache_is_named(
    world: World,
    write,  # type: ignore[no-untyped-def]
) -> None:
    write('[machine.qemu]\ncache = "none"\n')
    tweak = "import qup.runner.host_drives as d; d.can_pass_cache = lambda place: False"
    done = world.tweaked(tweak, "up")
    assert done.code == 5
    assert "(O_DIRECT)" in done.stderr
    assert can_pass_cache(world.folder) in (True, False)


def test_io_uring_that_the_kernel_forbids_is_told(world: World, write: Write) -> None:
    write('[machine.qemu]\nio = "io_uring"\n')
    done = world.tweaked(
        "import qup.runner.host_drives as d; d._refuses_io_uring = lambda: 'it is forbidden'", "up"
    )
    assert done.code == 5
    assert 'io = "io_uring" does not work here: it is forbidden' in done.stderr


# --- UEFI ---------------------------------------------------------------------------------


def test_without_firmware_the_package_is_named(world: World, write: Write) -> None:
    write('[machine.qemu]\nfirmware = "uefi"\n')
    tweak = "import qup.host as h; h.descriptor_folders = lambda program: []"
    done = world.tweaked(tweak, "up")
    assert done.code == 5
    assert "there is no UEFI firmware for x86_64 machines" in done.stderr
    assert "apt install ovmf" in done.stderr


def describe_firmware(world: World, folder: Path, *, flash: int) -> None:
    """Bring firmware as a user may: a descriptor in the user's own configuration."""
    (folder / "code.fd").write_bytes(bytes(flash))
    (folder / "vars.fd").write_bytes(b"template".ljust(flash, b"."))
    files = {
        role: {"filename": str(folder / name), "format": "raw"}
        for role, name in (("executable", "code.fd"), ("nvram-template", "vars.fd"))
    }
    descriptor = {
        "description": f"firmware of {flash}",
        "interface-types": ["uefi"],
        "mapping": {"device": "flash", **files},
        "targets": [{"architecture": "x86_64", "machines": ["*"]}],
        "features": [],
    }
    place = folder / "qemu" / "firmware"
    place.mkdir(parents=True, exist_ok=True)
    (place / "00-own.json").write_text(json.dumps(descriptor))
    world.env["XDG_CONFIG_HOME"] = str(folder)


def test_variables_are_the_machines_own(world: World, tmp_path: Path, write: Write) -> None:
    file = world.machine / "vars.qcow2"
    write('[machine.qemu]\nfirmware = "uefi"\n')
    describe_firmware(world, tmp_path, flash=64 << 10)
    assert "firmware of 65536" in world("plan").ok().stdout
    world("up").ok()
    assert virtual_size(file, "qcow2") == 64 << 10
    assert b"template" in file.read_bytes()
    command = (world.machine / "logs" / "qemu.log").read_text()
    assert f'"filename": "{tmp_path / "code.fd"}", "read-only": true' in command
    made = file.stat().st_ino
    world("reload", "--force").ok()
    assert file.stat().st_ino == made, "what the guest wrote there stays"
    describe_firmware(world, tmp_path, flash=128 << 10)
    said = world("reload", "--force").ok().stderr
    assert "its variables start afresh" in said
    assert virtual_size(file, "qcow2") == 128 << 10
    assert virtual_size(file.with_name("vars.qcow2.old"), "qcow2") == 64 << 10
    world("down", "--force").ok()
    file.unlink()
    file.symlink_to(world.folder / "base.qcow2")
    done = world("up")
    assert done.code == 6
    assert "is a link" in done.stderr


def test_an_image_that_reaches_out_is_refused_until_it_is_trusted(
    world: World, tmp_path: Path, write: Write
) -> None:
    image = make_image(tmp_path / "outside.qcow2")
    write(disk(image=f'"{image}"'))
    done = world("up")
    assert done.code == 4
    assert "a file outside of the project" in done.stderr
    world("trust").ok()
    world("up").ok()
