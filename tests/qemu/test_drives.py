"""Cache and io modes as QEMU takes them, and what its refusals mean."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qup.model.drives import CACHE_MODES, DIRECT_MODES, IO_MODES
from qup.model.plan import Disk
from qup.qemu.disk import create_blank
from qup.qemu.drives import block_node, describe_drives
from qup.qemu.refusals import explain_refusal
from qup.runner.host_drives import can_pass_cache
from tests.conftest import ROOT

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_a_cache_mode_is_said_of_both_nodes_and_of_the_device(mode: str) -> None:
    disk = Disk("disk", "s", "qcow2", cache=mode)
    (drive,) = describe_drives([disk], "q35", {"disk": Path("/d")})
    node = json.loads(drive.node)
    wanted = {"direct": mode in DIRECT_MODES, "no-flush": mode == "unsafe"}
    assert node["cache"] == node["file"]["cache"] == wanted
    through = mode in ("writethrough", "directsync")
    assert drive.properties["write-cache"] == ("off" if through else "on")


def test_the_default_says_nothing() -> None:
    node = block_node(Disk("disk", "s", "qcow2"), Path("/d"))
    assert "cache" not in node
    assert "aio" not in node


def start(words: list[str]) -> str:
    """Have QEMU open its disks and end at once; returns what it complained about."""
    done = subprocess.run(
        ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", *words, "-qmp", "stdio"],
        input='{"execute":"qmp_capabilities"}{"execute":"quit"}',
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stderr


@pytest.mark.qemu
def test_qemu_takes_every_combination(tmp_path: Path) -> None:
    """All at once, each as a drive of its own, under the whole sandbox."""
    if not can_pass_cache(tmp_path):
        pytest.skip("this file system has no O_DIRECT")
    disks = [
        Disk(f"d-{cache}-{io}".replace("_", "-"), "s", "qcow2", cache=cache, io=io)
        for cache in CACHE_MODES
        for io in (None, *IO_MODES)
        if io != "native" or cache in DIRECT_MODES
    ]
    files = {disk.role: tmp_path / disk.role for disk in disks}
    words = ["-machine", "q35", "-sandbox", SANDBOX]
    for disk in disks:
        create_blank(files[disk.role], 1 << 20)
    for drive in describe_drives(disks, "q35", files):
        properties = ",".join(f"{key}={value}" for key, value in drive.properties.items())
        words += ["-blockdev", drive.node, "-device", f"{drive.driver},{properties}"]
    assert start(words) == ""


@pytest.mark.qemu
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_qemu_takes_ide_drives_at_every_place(machine: str, tmp_path: Path) -> None:
    disks = [
        Disk("a", "s-a", "qcow2", bus="ide", boot=1, cache="none", io="native"),
        Disk("b", "s-b", "qcow2", bus="ide", media="cdrom", read_only=True),
        Disk("c", "s-c", "qcow2", bus="ide"),
        Disk("d", "s-d", "qcow2", bus="ide", media="cdrom", read_only=True, boot=2),
    ]
    files = {disk.role: tmp_path / disk.role for disk in disks}
    words = ["-machine", machine]
    for path in files.values():
        create_blank(path, 1 << 20)
    for drive in describe_drives(disks, machine, files):
        properties = ",".join(f"{key}={value}" for key, value in drive.properties.items())
        words += ["-blockdev", drive.node, "-device", f"{drive.driver},{properties}"]
    assert start(words) == ""


def make_boot_sector(text: bytes) -> bytes:
    """A program in 16-bit code that a BIOS runs: it sends a text to the first serial port."""
    code = bytes.fromhex(
        "31c0 8ed8"  # xor ax, ax; mov ds, ax
        "be 207c"  # mov si, 0x7c20: the text behind the program
        "ba f803"  # mov dx, 0x3f8
        "ac"  # next: lodsb
        "84c0"  # test al, al
        "7403"  # jz end
        "ee"  # out dx, al
        "ebf8"  # jmp next
        "ba f400 ee"  # end: mov dx, 0xf4; out dx, al: isa-debug-exit
        "faf4"  # cli; hlt
    )
    return (code.ljust(0x20, b"\x90") + text + b"\0").ljust(510, b"\0") + b"\x55\xaa"


@pytest.mark.qemu
@pytest.mark.parametrize(("bus", "machine"), [("virtio", "q35"), ("ide", "q35"), ("ide", "pc")])
def test_the_disk_with_the_lowest_number_boots(bus: str, machine: str, tmp_path: Path) -> None:
    disks = [
        Disk("other", "s-1", "raw", bus=bus),
        Disk("second", "s-2", "raw", bus=bus, boot=2),
        Disk("first", "s-3", "raw", bus=bus, boot=1, cache="writethrough"),
    ]
    files = {disk.role: tmp_path / disk.role for disk in disks}
    for role, path in files.items():
        path.write_bytes(make_boot_sector(f"booted from {role}\n".encode()).ljust(1 << 20, b"\0"))
    words = ["qemu-system-x86_64", "-machine", machine, "-accel", "tcg", "-boot", "strict=on"]
    for drive in describe_drives(disks, machine, files):
        properties = ",".join(f"{key}={value}" for key, value in drive.properties.items())
        words += ["-blockdev", drive.node, "-device", f"{drive.driver},{properties}"]
    words += ["-nodefaults", "-display", "none", "-serial", "stdio"]
    words += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    said = next((line for line in done.stdout.splitlines() if b"booted" in line), b"")
    assert said == b"booted from first"


@pytest.mark.qemu
def test_qemus_word_for_an_image_in_use_is_understood(tmp_path: Path) -> None:
    create_blank(tmp_path / "image", 1 << 20)
    nodes = [block_node(Disk(name, "s", "qcow2"), tmp_path / "image") for name in ("one", "two")]
    said = start([word for node in nodes for word in ("-blockdev", node)])
    assert "another QEMU has the image open" in (explain_refusal(said) or said)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Parameter 'aio' does not accept value 'io_uring'", "built without"),
        ("Could not open 'x': filesystem does not support O_DIRECT", "page cache"),
        ("combined size of system firmware exceeds 8388608 bytes", "vars.qcow2"),
        ("something else", None),
        ("", None),
    ],
)
def test_refusals(said: str, meant: str | None) -> None:
    hint = explain_refusal(said)
    assert hint is None if meant is None else meant in (hint or "")


@pytest.mark.root
def test_a_file_system_without_direct_access_is_seen(tmp_path: Path) -> None:
    """ramfs has none; it is mounted in a mount namespace of the test's own."""
    script = (
        'mount -t ramfs none "$1" && cd "$2" && exec "$3" -c'
        ' "import sys, pathlib; from qup.runner.host_drives import can_pass_cache;'
        ' print(can_pass_cache(pathlib.Path(sys.argv[1])))" "$1"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, ROOT, sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.stdout == "False\n", done.stderr
