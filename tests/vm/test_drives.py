"""Drives of real guests: what the guest finds, and what QEMU really does with the files."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qup.qemu.qmp import Qmp
from tests.vm.lab import Lab, open_lab

pytestmark = pytest.mark.vm

SMALL = '[machine]\nmemory = "192M"\ndisk = "1G"\n'

MODES = f"""{SMALL}
[machine.qemu]
cache = "none"
io = "native"

[[machine.disks]]
name = "data"
size = "64M"

[[machine.disks]]
name = "safe"
image = "safe.qcow2"
cache = "directsync"
io = "io_uring"

[[machine.disks]]
image = "fast.img"
format = "raw"
cache = "unsafe"
io = "threads"

[[machine.disks]]
name = "through"
size = "2M"
cache = "writethrough"

[[machine.disks]]
name = "fixed"
image = "fixed.img"
read-only = true
"""
FIXED = b"fixed".ljust(1 << 20, b".")


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, MODES) as made:
        create = ("qemu-img", "create", "-q", "-f", "qcow2")
        subprocess.run([*create, made.folder / "safe.qcow2", "16M"], check=True)
        with (made.folder / "fast.img").open("wb") as file:
            file.truncate(8 << 20)
        (made.folder / "fixed.img").write_bytes(FIXED)
        made("trust").ok()
        made("up").ok()
        yield made


def by_serial(lab: Lab) -> dict[str, str]:
    """The guest's names of its disks, by their serial numbers."""
    said = lab.sh('for x in /sys/block/vd*; do echo "${x##*/} $(cat $x/serial)"; done')
    pairs = (line.split() for line in said.splitlines())
    return {serial: name for name, serial in pairs}


def query(lab: Lab, command: str) -> Any:
    runtime = json.loads((lab.machine() / "state.json").read_text())["launch"]["runtime"]
    with Qmp.connect(Path(runtime) / "qmp", timeout=10) as monitor:
        return monitor.execute(command)


def open_flags(pid: int, path: Path) -> int:
    """How a process has a file open (``proc(5)``, fdinfo)."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if os.path.realpath(entry) == os.path.realpath(path):
            info = (entry.parent.parent / "fdinfo" / entry.name).read_text()
            found = re.search(r"flags:\s*(\d+)", info)
            assert found
            return int(found[1], 8)
    raise AssertionError(f"{path} is not open")


def test_disks_are_found_by_their_names(lab: Lab) -> None:
    names = by_serial(lab)
    assert names == {
        "qup-disk": "vda",
        "qup-seed": "vdb",
        "data": "vdc",
        "safe": "vdd",
        "disk3": "vde",
        "through": "vdf",
        "fixed": "vdg",
    }
    sizes = lab.sh("cat /sys/block/vdc/size /sys/block/vdd/size /sys/block/vde/size").split()
    assert [int(size) * 512 for size in sizes] == [64 << 20, 16 << 20, 8 << 20]


def test_caches_are_what_the_qupfile_says(lab: Lab) -> None:
    nodes = {node["node-name"]: node for node in query(lab, "query-named-block-nodes")}
    modes = {
        name: (nodes[name]["cache"]["direct"], nodes[name]["cache"]["no-flush"])
        for name in ("disk", "disk-data", "disk-safe", "disk-disk3", "disk-through")
    }
    assert modes == {
        "disk": (True, False),
        "disk-data": (False, False),
        "disk-safe": (True, False),
        "disk-disk3": (False, True),
        "disk-through": (False, False),
    }
    devices = {
        item["inserted"]["node-name"]: item["inserted"]["cache"]["writeback"]
        for item in query(lab, "query-block")
    }
    assert devices == {
        "disk": True,
        "seed": True,
        "disk-data": True,
        "disk-safe": False,
        "disk-disk3": True,
        "disk-through": False,
        "disk-fixed": True,
    }
    seen = lab.sh("cat /sys/block/vda/queue/write_cache /sys/block/vdd/queue/write_cache")
    assert seen.splitlines() == ["write back", "write through"]


def test_the_kernel_knows_of_direct_files(lab: Lab) -> None:
    pid = lab.pid()
    box = Path(lab("box", "path", "tiny").ok().stdout.strip())
    direct = {
        lab.machine() / "disk.qcow2": True,
        box / "disk.qcow2": True,
        lab.machine() / "disks" / "data.qcow2": False,
        lab.folder / "safe.qcow2": True,
        lab.folder / "fast.img": False,
    }
    found = {path: bool(open_flags(pid, path) & os.O_DIRECT) for path in direct}
    assert found == direct
    rings = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert any("io_uring" in ring for ring in rings), "io_uring, under the whole sandbox"


def test_what_the_guest_writes_is_in_the_files(lab: Lab) -> None:
    names = by_serial(lab)
    for serial in ("data", "safe", "disk3", "through"):
        lab.sh(f"sudo sh -c 'echo written-to-{serial} > /dev/{names[serial]}; sync'")
    assert (lab.folder / "fast.img").read_bytes().startswith(b"written-to-disk3\n")
    assert b"written-to-safe\n" in (lab.folder / "safe.qcow2").read_bytes()
    assert b"written-to-data\n" in (lab.machine() / "disks" / "data.qcow2").read_bytes()


def test_a_read_only_disk_stays_as_it_is(lab: Lab) -> None:
    name = by_serial(lab)["fixed"]
    assert lab.sh(f"sudo head -c 5 /dev/{name}; cat /sys/block/{name}/ro") == "fixed1\n"
    assert lab("ssh", "--", f"sudo sh -c 'echo x > /dev/{name}'").code != 0
    assert (lab.folder / "fixed.img").read_bytes() == FIXED


def test_a_suspended_guest_does_not_meet_another_image(lab: Lab) -> None:
    """Not even one that is only read: what the guest has read of it is in its memory."""
    image = lab.folder / "fixed.img"
    info = image.stat()
    lab("suspend").ok()
    image.write_bytes(FIXED.replace(b"fixed", b"other"))
    refused = lab("resume")
    assert (refused.code, lab.status()) == (6, "suspended"), refused
    assert "fixed.img was changed since it was suspended" in refused.stderr
    image.write_bytes(FIXED)
    os.utime(image, ns=(info.st_atime_ns, info.st_mtime_ns))
    lab("resume").ok()


def test_another_machine_may_not_write_to_the_same_image(lab: Lab, vm_cache: Path) -> None:
    with open_lab(vm_cache, name="other") as other:
        image = lab.folder / "safe.qcow2"
        other.write(f'{SMALL}[[machine.disks]]\nimage = "{image}"\n')
        other("trust").ok()
        done = other("up")
        assert done.code == 5, done
        assert "is in use by qemu-system-x86_64 (machine default, pid" in done.stderr
        assert not other.qemus()


def test_without_virtio_the_disks_are_ide(lab: Lab) -> None:
    """The last one: it starts the machine anew, on the disk that it has."""
    name = by_serial(lab)["data"]
    lab.sh(f"echo kept > ~/kept; sudo sh -c 'echo written-to-data > /dev/{name}'; sync")
    lab.write(
        f'{SMALL}[machine.qemu]\nvirtio-drives = false\nmachine = "pc"\n'
        '[[machine.disks]]\nname = "data"\nsize = "64M"\n'
    )
    refused = lab("reload", "--machine-type", "q35")
    assert refused.code == 4
    assert "box tiny has no driver for the SATA drives" in refused.stderr
    assert lab.status() == "running"
    assert "disk 'through' is no longer in the Qupfile" in lab("reload").ok().stderr
    said = lab.sh("cat ~/kept; ls /sys/block; sudo head -c 15 /dev/sdb; cat /proc/mounts")
    assert said.startswith("kept\nsda\nsdb\nsr0\nwritten-to-data")
    assert re.search(r"^/dev/sr0 \S+ iso9660", said, re.MULTILINE), "the seed is a CD"
    assert "qup-disk" in lab.sh("cat /sys/block/sda/device/vpd_pg80 | tr -d '\\0'")
