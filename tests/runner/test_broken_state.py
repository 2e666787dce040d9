"""What is in ``.qup`` is damaged, gone, somebody else's or from the future."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.conftest import refused as was_refused
from tests.fakes.world import QUPFILE, World


def refused(done: Done, code: int, *words: str) -> None:
    """Also with what to do."""
    was_refused(done, code, "hint: ", *words)


@pytest.fixture
def stopped(world: World) -> World:
    """A machine that ran and was stopped."""
    world("up").ok()
    world("down").ok()
    return world


# --- state.json ---------------------------------------------------------------------------

DAMAGED = {
    "empty": "",
    "cut off": '{"schema": 1, "id": "a',
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "binary": "\0\1\2",
    "no schema": '{"id": "x"}',
    "no id": '{"schema": 1}',
    "schema as text": '{"schema": "1"}',
    "deep": "[" * 100_000,
}


def test_a_damaged_state_is_refused_and_destroy_helps(stopped: World) -> None:
    for text in DAMAGED.values():
        (stopped.machine / "state.json").write_text(text)
        assert stopped.status()["status"] == "broken", text[:20]
        refused(stopped("up"), 6, "state.json", "destroy")
        refused(stopped("down"), 6, "state.json")
        assert (stopped.machine / "state.json").read_text() == text
    assert "broken" in stopped("list").ok().stdout
    stopped("destroy", "-y").ok()
    assert not stopped.machine.exists()


def test_an_id_that_leads_elsewhere_is_refused(stopped: World) -> None:
    """The id names a folder for sockets: one from somebody else's project could be a path."""
    path = stopped.machine / "state.json"
    state = json.loads(path.read_text())
    for bad in ("../../../etc", "/tmp/x", "", "0123456789abc", "0123456789AB"):
        path.write_text(json.dumps({**state, "id": bad}))
        refused(stopped("up"), 6, "damaged")


def test_a_newer_schema_is_refused_and_kept(stopped: World) -> None:
    path = stopped.machine / "state.json"
    text = json.dumps({**json.loads(path.read_text()), "schema": 99, "new": 1})
    path.write_text(text)
    refused(stopped("up"), 6, "newer qup", "99", "upgrade")
    assert stopped.status()["status"] == "broken"
    assert path.read_text() == text


def test_a_state_that_is_a_folder(stopped: World) -> None:
    path = stopped.machine / "state.json"
    path.unlink()
    path.mkdir()
    refused(stopped("up"), 6, "state.json")
    stopped("destroy", "-y").ok()


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_a_state_that_can_not_be_read(stopped: World) -> None:
    (stopped.machine / "state.json").chmod(0)
    refused(stopped("up"), 6, "can't be read")


def test_one_broken_machine_stops_no_other(make_world: Callable[..., World]) -> None:
    world = make_world(QUPFILE + "[machines.good]\n[machines.bad]\n")
    world("up").ok()
    (world.folder / ".qup/machines/bad/state.json").write_text("{")
    seen = {item["name"]: item["status"] for item in machines(world)}
    assert seen == {"good": "running", "bad": "broken"}
    world("down", "good").ok()
    refused(world("up"), 6, "bad")
    seen = {item["name"]: item["status"] for item in machines(world)}
    assert seen == {"good": "running", "bad": "broken"}


def machines(world: World) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(world("status", "--json").ok().stdout)["machines"]
    return found


@pytest.mark.parametrize("left", [(), ("lock",), ("lock", "disk.qcow2"), ("disk.qcow2", "ssh")])
def test_a_half_made_machine(world: World, left: tuple[str, ...]) -> None:
    """``up`` was killed before it wrote a state."""
    world.machine.mkdir(parents=True)
    for name in left:
        (world.machine / name).mkdir() if name == "ssh" else (world.machine / name).touch()
    assert world.status()["status"] == "not-created"
    world("down").ok()
    world("up").ok()
    world("destroy", "-y").ok()
    assert not world.machine.exists()


def test_half_a_key_pair(stopped: World) -> None:
    for name in ("key.pub", "host_key.pub"):
        (stopped.machine / "ssh" / name).unlink()
    stopped("up").ok()
    stopped("down").ok()
    shutil.rmtree(stopped.machine / "ssh")
    stopped("up").ok()


@pytest.mark.parametrize("name", [".qup", ".qup/machines", ".qup/machines/default"])
def test_a_file_in_place_of_a_folder(world: World, name: str) -> None:
    path = world.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    done = world("up")
    assert done.code in (5, 6), done
    assert "Traceback" not in done.stderr
    assert world("status").code in (0, 5, 6)


@pytest.mark.parametrize("name", ["roster.json", "machines/default/plan.json"])
def test_what_is_only_a_cache_may_be_damaged(stopped: World, name: str) -> None:
    texts = ("", "{", "[]", "null", '{"members": 3}', "\0", "[" * 100_000)
    for text in texts:
        (stopped.folder / ".qup" / name).write_text(text)
        assert stopped.status()["status"] == "stopped", text[:20]
    stopped("up").ok()
    for text in texts:
        (stopped.folder / ".qup" / name).write_text(text)
        assert stopped.status()["status"] == "running", text[:20]
        stopped("up").ok()
        stopped("inspect").ok()


def test_the_index_may_be_damaged_or_gone(stopped: World) -> None:
    index = Path(os.environ["QUP_STATE_DIR"]) / "machines"
    for entry in index.iterdir():
        entry.write_text("{")
    assert stopped("list").ok().stdout.count("\n") == 1
    stopped("up").ok()
    assert "running" in stopped("list").ok().stdout
    shutil.rmtree(index)
    stopped("list").ok()
    assert stopped.status()["status"] == "running"
    stopped("destroy", "-y").ok()


# --- the disk -----------------------------------------------------------------------------


def corrupt_header(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.write(b"\xff" * 64)


def truncate(disk: Path) -> None:
    os.truncate(disk, 1000)


def empty(disk: Path) -> None:
    os.truncate(disk, 0)


def be_a_folder(disk: Path) -> None:
    disk.unlink()
    disk.mkdir()


def be_a_fifo(disk: Path) -> None:
    disk.unlink()
    os.mkfifo(disk)


def be_a_link(disk: Path) -> None:
    disk.unlink()
    disk.symlink_to("/etc/passwd")


def foreign_backing(disk: Path) -> None:
    disk.unlink()
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow",
         disk, "64M"],
        check=True,
    )  # fmt: skip


def foreign_data_file(disk: Path) -> None:
    """Set the bit that says that the data is in another file (qcow2's incompatible bit 2)."""
    with disk.open("r+b") as file:
        file.seek(72)
        file.write(struct.pack(">Q", 4))


def no_backing(disk: Path) -> None:
    disk.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)


DAMAGES = [corrupt_header, truncate, empty, be_a_folder, be_a_fifo, be_a_link, foreign_backing,
           foreign_data_file, no_backing, Path.unlink]  # fmt: skip


def test_a_disk_that_is_not_what_qup_made(stopped: World) -> None:
    """Each is refused, and destroyed with its machine, which is put back as it was then."""
    saved = stopped.folder.with_name("saved")
    shutil.copytree(stopped.machine, saved, symlinks=True)
    for damage in DAMAGES:
        damage(stopped.machine / "disk.qcow2")
        refused(stopped("up", timeout=20), 6, "disk")
        assert stopped.qemus() == []
        assert stopped.status()["status"] == "stopped", damage
        stopped("destroy", "-y").ok()
        assert not stopped.machine.exists()
        assert Path("/etc/passwd").exists()
        shutil.copytree(saved, stopped.machine, symlinks=True)
    stopped("up").ok()  # nothing but the disks was wrong


def test_a_disk_can_not_shrink_but_grow(stopped: World) -> None:
    disk = stopped.machine / "disk.qcow2"
    done = stopped("up", "--disk", "32M")
    refused(done, 9, "can't shrink")
    done = stopped("up", "--disk", "128M").ok()
    assert "grown" in done.stderr
    info = json.loads(
        subprocess.check_output(["qemu-img", "info", "-U", "--output=json", disk], text=True)
    )
    assert info["virtual-size"] == 128 << 20


def test_a_disk_smaller_than_the_box_is_refused(world: World) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", world.folder / "base.qcow2", "1G"], check=True
    )
    done = world("up")
    assert done.code in (4, 9), done
    assert "too small" in done.stderr
    world("up", "--disk", "2G").ok()


def test_a_missing_seed_is_made_anew(stopped: World) -> None:
    (stopped.machine / "seed.iso").unlink()
    stopped("up").ok()
    assert (stopped.machine / "seed.iso").stat().st_mode & 0o777 == 0o600


# --- the box ------------------------------------------------------------------------------


def box_folder(world: World) -> Path:
    state = json.loads((world.machine / "state.json").read_text())
    return Path(os.environ["QUP_CACHE_DIR"]) / "boxes" / state["box_digest"][:16]


def test_a_box_that_was_changed_is_refused(stopped: World) -> None:
    path = box_folder(stopped) / "disk.qcow2"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"evil")
    refused(stopped("up"), 8, "was changed")
    assert stopped.qemus() == []


def test_a_box_of_the_same_size_but_other_content_is_refused(stopped: World) -> None:
    path = box_folder(stopped) / "disk.qcow2"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(stopped("up"), 8, "was changed")


def test_a_box_that_is_gone_is_made_again_if_it_can_be(stopped: World) -> None:
    stopped("box", "rm", "--force", "./base.qcow2").ok()
    stopped("up").ok()


def test_a_box_that_is_gone_for_good(stopped: World) -> None:
    stopped("box", "rm", "--force", "./base.qcow2").ok()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", stopped.folder / "base.qcow2", "2M"],
        check=True,
    )
    refused(stopped("up"), 8, "is no longer in the cache")
    (stopped.folder / "base.qcow2").unlink()
    refused(stopped("up"), 8, "does not exist")
    stopped("destroy", "-y").ok()


def test_a_box_in_use_is_kept(stopped: World) -> None:
    refused(stopped("box", "rm", "./base.qcow2"), 8, "needed by 1 machine")
    assert box_folder(stopped).is_dir()


def test_another_box_in_the_qupfile_is_refused(stopped: World) -> None:
    shutil.copy(stopped.folder / "base.qcow2", stopped.folder / "other.qcow2")
    refused(stopped("up", "--box", "./other.qcow2"), 9, "was made from box ./base.qcow2")


def test_a_damaged_manifest_is_named(stopped: World) -> None:
    path = box_folder(stopped) / "box.json"
    path.chmod(0o644)
    path.write_text("{")
    refused(stopped("up"), 8, "box.json")
    stopped("box", "list").ok()


# --- copies, moves ------------------------------------------------------------------------


def copy(world: World, name: str) -> World:
    folder = world.folder.with_name(name)
    shutil.copytree(world.folder, folder, symlinks=True)
    return World(folder, world.bin, env=world.env)


@pytest.fixture
def running(world: World) -> World:
    world("up").ok()
    return world


def is_well(world: World) -> bool:
    state = json.loads((world.machine / "state.json").read_text())
    runtime = Path(os.environ["QUP_RUNTIME_DIR"]) / state["id"]
    seen = world.status()
    listed = json.loads(world("list", "--json").ok().stdout)["machines"]
    return (
        seen["status"] == "running"
        and seen["ready"]
        and (runtime / "ssh" / "config").exists()
        and any(item["project"] == str(world.folder) for item in listed)
    )


def test_a_copy_does_nothing_to_its_running_original(running: World) -> None:
    for command in ("up", "down", "down --force", "destroy -y", "reload", "status"):
        twin = copy(running, "twin")
        try:
            twin(*command.split()).ok()
            assert is_well(running), command
            assert len(running.qemus()) == 1, command
        finally:
            twin("destroy", "-y")
        assert is_well(running), command
        shutil.rmtree(twin.folder)


def test_a_copy_becomes_a_machine_of_its_own(running: World) -> None:
    twin = copy(running, "twin")
    try:
        done = twin("up").ok()
        assert re.search(r"copy of .*project", done.stderr)
        ids = {item.status()["id"] for item in (running, twin)}
        assert len(ids) == 2
        twin("down").ok()
        assert "copy" not in twin("up").ok().stderr
    finally:
        twin("destroy", "-y")


def test_a_project_may_be_moved_while_it_is_down(stopped: World) -> None:
    before = json.loads((stopped.machine / "state.json").read_text())["id"]
    moved = World(stopped.folder.rename(stopped.folder.with_name("moved")), stopped.bin)
    moved("up").ok()
    assert moved.status()["id"] == before
    assert is_well(moved)
    moved("destroy", "-y").ok()


def test_a_project_may_be_moved_while_it_runs(running: World) -> None:
    moved = World(running.folder.rename(running.folder.with_name("moved")), running.bin)
    assert moved.status()["status"] == "running"
    orphans = moved("doctor").stdout
    assert "project is gone" not in orphans
    moved("up").ok()
    assert is_well(moved)
    moved("destroy", "-y").ok()
