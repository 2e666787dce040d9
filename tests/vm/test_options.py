"""The options of docker-machine's QEMU driver reach a real guest, and can be changed later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import Lab, open_lab, wait_until

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    """What the Qupfile says is overruled by the variables, and those by the old options."""
    with open_lab(vm_cache, '[machine]\nmemory = "192M"\ndisk = "1G"\ncpus = 1\n') as made:
        yield made


def test_the_old_spellings_and_variables_reach_the_guest(lab: Lab) -> None:
    script = lab.folder / "elsewhere" / "first-boot"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho first > /etc/first\n")
    words = {
        "--qemu-program": "qemu-system-x86_64",
        "--qemu-accelerator": "tcg",
        "--qemu-memory": "224",
        "--qemu-cpu-count": "2",
        "--qemu-disk-size": "1500",
        "--qemu-network": "user",
        "--qemu-userdata": "first-boot",
    }
    env = {
        "QUP_MEMORY": "200",
        "QEMU_SSH_USER": "docker",
        "QEMU_LOCALPORTS": "42000-42999",
        "QEMU_VIRTIO_DRIVES": "yes",
        "QUP_NETWORK_BRIDGE": "br0",
    }
    given = [word for pair in words.items() for word in pair]
    done = lab("up", *given, env=env, cwd=script.parent).ok()
    assert "note: QUP_NETWORK_BRIDGE is ignored" in done.stderr
    said = lab.sh("nproc; grep MemTotal /proc/meminfo; cat /sys/block/vda/size; id -un").split("\n")
    cpus, memory, sectors, user = said[:4]
    assert (cpus, user) == ("2", "docker")
    assert 160_000 < int(memory.split()[1]) <= 224 * 1024
    assert int(sectors) * 512 == 1500 << 20
    assert wait_until(lambda: lab("ssh", "--", "cat /etc/first").stdout == "first\n", 60)
    assert json.loads(lab("status", "--json").ok().stdout)["machines"][0]["ssh"]["port"] >= 42000
    words_of_qemu = Path(f"/proc/{lab.pid()}/cmdline").read_bytes().split(b"\0")
    assert words_of_qemu[words_of_qemu.index(b"-m") + 1] == b"224M"


def test_a_change_is_said_applied_or_refused_with_its_reason(lab: Lab) -> None:
    pid = lab.pid()
    lab.write('[machine]\nmemory = "208M"\ndisk = "1600M"\nnetwork.forward = ["0:80"]\n')
    done = lab("up").ok()
    assert lab.pid() == pid
    for said in ("memory: 224M -> 208M", "cpus: 2 -> 1", "1500M -> 1600M", "'qup reload default'"):
        assert said.replace("1500M", "1.5G") in done.stderr or said in done.stderr, done
    ports = json.loads(lab("port", "list", "--json").ok().stdout)["forwards"]
    assert 80 in [item["guest"] for item in ports]  # applied without a restart
    done = lab("reload").ok()
    assert "grown" in done.stderr
    said = lab.sh("nproc; cat /sys/block/vda/size; grep MemTotal /proc/meminfo").split()
    assert (said[0], int(said[1]) * 512) == ("1", 1600 << 20)
    assert int(said[3]) <= 208 * 1024

    pid = lab.pid()
    done = lab("up", "--disk-size", "1200", "--memory", "256").ok()
    assert "memory: 208M -> 256M" in done.stderr
    assert "a disk can't shrink" in done.stderr
    done = lab("reload", "--disk-size", "1200")
    assert done.code == 9
    assert "can't shrink" in done.stderr
    assert lab.pid() == pid
    (lab.folder / "other.raw").write_bytes(b"\0" * (1 << 20))
    done = lab("up", "--box", "./other.raw").ok()
    assert "a disk can't change its box" in done.stderr
    done = lab("reload", "--box", "./other.raw")
    assert done.code == 9
    assert "made from box tiny" in done.stderr
    assert lab.pid() == pid
    assert lab.sh("echo in") == "in\n"
