"""Drives in a Qupfile and in a plan: what is refused and where, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qup import qupfile
from qup.errors import ConfigError
from qup.model.box import BoxSpec
from qup.model.config import Config
from qup.model.drives import ide_places
from qup.model.plan import CD, Disk
from qup.planner import describe_change
from qup.qupfile import QupfileErrors
from qup.testing import make_plan
from tests.qupfile_registry import FakeRegistry

REGISTRY = FakeRegistry()


def load(text: str) -> Config:
    return qupfile.load(qupfile.parse(text.encode()), registry=REGISTRY)


def problems(text: str) -> list[str]:
    with pytest.raises(QupfileErrors) as caught:
        load(text)
    return [f"{item.line}:{item.col} {item.message}" for item in caught.value.problems]


def disks(text: str, **given: Path) -> dict[str, Disk]:
    return {disk.role: disk for disk in make_plan(text, **given).disks}


# --- the Qupfile --------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["default", "writeback", "writethrough", "unsafe"])
def test_native_io_needs_a_cache_that_is_passed_by(cache: str) -> None:
    (said,) = problems(f'[machine.qemu]\ncache = "{cache}"\nio = "native"\n')
    assert said.startswith('3:6 io = "native" needs cache = "none" or cache = "directsync"')
    (said,) = problems(f'[[machine.disks]]\nsize = "1M"\ncache = "{cache}"\nio = "native"\n')
    assert said.startswith('4:6 io = "native" needs')


@pytest.mark.parametrize("cache", ["none", "directsync"])
def test_native_io_goes_with_direct_caches(cache: str) -> None:
    text = f'[machine.qemu]\ncache = "{cache}"\nio = "native"\n'
    assert disks(text)["disk"].io == "native"


def test_a_variable_and_a_file_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(QupfileErrors) as caught:
        qupfile.load(
            qupfile.parse(b'[machine.qemu]\ncache = "writeback"\n'),
            registry=REGISTRY,
            environment={"QUP_IO_MODE": "native"},
        )
    (problem,) = caught.value.problems
    assert problem.file == "environment QUP_IO_MODE"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "1:1 a disk has either 'size' (a new one) or 'image' (one that exists)"),
        ('size = "1M"\nimage = "a"', "1:1 a disk has either 'size'"),
        ('size = "1M"\nread-only = true', "1:1 a new disk has no 'read-only'"),
        ('size = "1M"\nformat = "raw"', "1:1 a new disk has no 'format'"),
        ('image = "nbd://host/x"', "1:1 'nbd://host/x' is a URL"),
        ('image = ""', "2:9 "),
        ('size = "1M"\nname = "qup-disk"', "3:8 'qup-disk' is not a disk's name"),
        ('size = "1M"\nname = "a/b"', "3:8 'a/b' is not a disk's name"),
        (f'size = "1M"\nname = "{"a" * 21}"', "3:8 "),
        ('size = "1M"\ncache = "no"', "3:9 expected 'default', 'none'"),
        ('size = "1M"\nshared = true', "3:1 unknown key 'shared'"),
    ],
)
def test_what_is_no_disk_is_refused_at_its_place(table: str, said: str) -> None:
    (found,) = problems(f"[[machine.disks]]\n{table}\n")
    assert found.startswith(said)


def test_two_disks_of_one_name_are_refused() -> None:
    text = '[[machine.disks]]\nsize = "1M"\nname = "disk2"\n[[machine.disks]]\nsize = "1M"\n'
    assert problems(text) == ["5:8 two disks are called 'disk2'"]


def test_an_image_that_is_written_to_has_one_user() -> None:
    shared = '[[machine.disks]]\nimage = "./a.qcow2"\n'
    (said,) = problems(f"{shared}[machines.one]\n[machines.two]\n")
    assert said.startswith("2:9 two disks can't be one image that is written to: machine 'one'")
    (said,) = problems(f'{shared}[[machine.disks]]\nimage = "a.qcow2"\nread-only = true\n')
    assert said.startswith("4:9 two disks can't be one image")
    load(f"{shared}read-only = true\n[machines.one]\n[machines.two]\n")


@pytest.mark.parametrize(
    ("table", "trust"),
    [
        ('image = "a.qcow2"', False),
        ('image = "./b/../a.img"\nformat = "raw"\nread-only = true', False),
        ('image = "."', False),
        ('image = "a.img"\nformat = "raw"', True),
        ('image = "/etc/shadow"\nread-only = true', True),
        ('image = "b/../../a.qcow2"', True),
        ('image = "~/a.qcow2"', True),
    ],
)
def test_an_image_that_is_more_than_the_projects_data_needs_trust(table: str, trust: bool) -> None:
    config = load(f"[[machine.disks]]\n{table}\n")
    found = qupfile.untrusted(config, REGISTRY.provisioners, Path("/project"))
    assert [item.key for item in found] == ["disks"] * trust


# --- the plan -----------------------------------------------------------------------------


def test_further_disks_come_last_and_are_found_by_their_names() -> None:
    found = disks(
        '[[machine.disks]]\nsize = "1300000"\n'
        '[[machine.disks]]\nname = "data"\nsize = "2G"\ncache = "none"\nio = "io_uring"\n'
    )
    assert list(found) == ["disk", "seed", "disk-disk1", "disk-data"]
    assert found["disk-disk1"].serial == "disk1"
    assert found["disk-disk1"].size == 1300000 * 1024 * 1024
    assert (found["disk-data"].cache, found["disk-data"].io) == ("none", "io_uring")


def test_without_virtio_drives_all_are_ide(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"x" * 1024)
    found = disks(
        '[machine.qemu]\nvirtio-drives = false\nmachine = "pc"\n'
        '[[machine.disks]]\nimage = "a.img"\nread-only = true\n',
        project=tmp_path,
    )
    assert {disk.bus for disk in found.values()} == {"ide"}
    assert found["disk"].media == "disk"
    assert found["disk-disk1"].media == "cdrom", "IDE has no other word for read-only"


def test_drives_that_the_machine_type_has_no_place_for_are_refused() -> None:
    more = '[[machine.disks]]\nsize = "1M"\n' * 3
    with pytest.raises(ConfigError, match="room for 4 drives on pc, and there are 5") as caught:
        make_plan(f'[machine.qemu]\nvirtio-drives = false\nmachine = "pc"\n{more}')
    assert caught.value.exit_code == 4
    arm = 'program = "qemu-system-aarch64"\nmachine = "virt"\n'
    with pytest.raises(ConfigError, match="machine type virt has no IDE drives"):
        make_plan(f"[machine.qemu]\nvirtio-drives = false\n{arm}")


def test_firmware_that_starts_a_kernel_leaves_ide_turned_off() -> None:
    text = '[machine.qemu]\nvirtio-drives = false\nmachine = "pc"\nfirmware = "uefi"\n'
    with pytest.raises(ConfigError, match="leaves the IDE drives of pc turned off"):
        make_plan(text)


def test_places_for_ide_drives() -> None:
    assert len(ide_places("pc-q35-7.2")) == 6
    assert len(ide_places("pc-i440fx-7.2")) == len(ide_places("pc")) == 4
    assert ide_places("virt-7.2") == ide_places("microvm") == ()


def test_a_box_that_boots_from_a_cd_has_it_first() -> None:
    from qup.drives import plan_disks

    config = load("").machines["default"]
    box = BoxSpec("b2d", "x", "x86_64", "1", "k", kernel=False, disk=False, iso=True)
    found = plan_disks(config, box, "pc-q35-7.2", {}, CD)
    assert [(disk.role, disk.boot) for disk in found] == [
        ("iso", 1),
        ("disk", None),
        ("seed", None),
    ]


def test_changes_of_drives_are_told_in_the_words_of_the_qupfile() -> None:
    old = make_plan('[[machine.disks]]\nsize = "1M"\n').to_dict()
    new = make_plan(
        '[machine.qemu]\ncache = "none"\nfirmware = "uefi"\n'
        '[[machine.disks]]\nsize = "2M"\ncache = "unsafe"\n'
    ).to_dict()
    assert describe_change(json.loads(json.dumps(old)), new) == [
        "disks: disk1 (1M) -> disk1 (2M cache=unsafe)",
        "qemu.cache: default -> none",
        "qemu.firmware: bios -> uefi",
    ]
