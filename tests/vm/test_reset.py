"""``qup reset``: back to the moment after the last ``up`` that provisioned, memory and disk."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, open_lab, wait_until
from tests.vm.stops import go_on, stopped

pytestmark = pytest.mark.vm

FIRST = 22310
FORWARD = f'\n[machine.network]\nforward = ["0:8000"]\nports = "{FIRST}-{FIRST + 19}"\n'
"""Ports that the kernel gives to nobody by itself, and no other test uses."""
STEPS = """
[[machine.provision]]
name = "program"
share = "none"
shell = '''
cat /proc/sys/kernel/random/uuid >/root/made
setsid sh -c 'echo $$ >/root/pid; while :; do sleep 1; done' >/dev/null 2>&1 </dev/null &
until [ -s /root/pid ]; do sleep 0.1; done
'''
[[machine.provision]]
name = "each"
run = "always"
shell = "echo each >>/root/each"
"""
TEXT = SMALL + FORWARD + STEPS
SPOIL = "sudo kill $(sudo cat /root/pid); echo dirt >dirt; sudo rm /root/made; sync"
LOOK = "sudo sh -c 'kill -0 $(cat /root/pid) && cat /root/made; ls /home/*'"
WHO = "hostname; cat /etc/machine-id /sys/class/net/eth0/address"


@pytest.fixture(scope="module")
def shared(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, TEXT, templates=True) as made:
        with socket.create_server(("127.0.0.1", FIRST)):  # free later: others would be taken then
            said = made("up").ok().stderr
        assert re.search(r"saving it for 'qup reset': .*stood still", said), said
        yield made


@pytest.fixture
def lab(shared: Lab) -> Lab:
    shared.write(TEXT)
    return shared


def ports(lab: Lab) -> list[str]:
    return sorted(lab("port", "list").ok().stdout.splitlines()[1:])


def test_memory_disk_identity_and_ports(lab: Lab) -> None:
    lab("port", "add", "0:8001").ok()
    before, who, open_ports = lab.sh(LOOK), lab.sh(WHO), ports(lab)
    randoms = set()
    assert len(before.split()[0]) == 36
    assert len(open_ports) == 3
    assert not lab("snapshot", "list").ok().stdout.splitlines()[1:]
    for _ in range(2):
        lab.sh(SPOIL)
        said = lab("reset").ok().stderr
        assert "restoring its save point" in said
        assert "provisioning: program" not in said
        assert lab.sh(LOOK) == before
        assert lab.sh(WHO) == who
        assert ports(lab) == open_ports
        randoms.add(lab.sh("head -c 16 /dev/urandom | od -An -tx8"))
        assert lab.clock_error() < 3
    assert len(randoms) == 2
    # What runs at each 'up' runs at each reset.
    assert lab.sh("sudo cat /root/each").split() == ["each", "each"]


def test_a_machine_that_is_stopped(lab: Lab) -> None:
    """It has the ports again that were picked for it, and not those that were opened by hand."""
    before, open_ports = lab.sh(LOOK), ports(lab)
    lab("kill").ok()
    lab("reset").ok()
    assert lab.sh(LOOK) == before
    assert ports(lab) == [line for line in open_ports if "8001/tcp" not in line]


def test_a_snapshot_is_no_save_point(lab: Lab) -> None:
    before = lab.sh(LOOK)
    lab.sh("echo kept >kept; sync")
    lab("snapshot", "save", "kept").ok()
    lab("reset").ok()
    assert lab.sh(LOOK) == before
    lab("snapshot", "restore", "kept").ok()
    assert lab.sh("cat kept") == "kept\n"
    lab("snapshot", "delete", "kept").ok()
    lab("reset").ok()
    assert lab.sh(LOOK) == before


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("os.rename", "/disk.qcow2"),  # no machine runs
        ("open", "/memory"),  # one does, and knows nothing yet
    ],
)
def test_killed(lab: Lab, at: str, path: str) -> None:
    lab("port", "add", "0:8001").ok()
    before, open_ports = lab.sh(LOOK), ports(lab)
    lab.sh(SPOIL)
    with stopped(lab, "reset", at=at, path=path) as process:
        process.kill()
        process.wait()
    assert "a reset was interrupted" in lab("up").ok().stderr
    assert lab.sh(LOOK) == before
    assert ports(lab) == open_ports


def test_provisioning_again_moves_it(lab: Lab) -> None:
    before = lab.sh(LOOK)
    lab.sh("echo work >work; sync")
    lab("provision", "--with", "program").ok()
    after = lab.sh(LOOK)
    assert after != before
    lab.sh(SPOIL)
    lab("reset").ok()
    assert lab.sh(LOOK) == after
    assert lab.sh("cat work") == "work\n"


def test_interrupted_while_it_is_saved(lab: Lab) -> None:
    """The machine is up and well; only that there is no way back."""
    at = {"at": "open", "path": "/.new/memory"}
    with stopped(lab, "provision", "--with", "program", **at) as process:
        assert go_on(process, signal.SIGINT) == 130
    assert lab.status() == "running"
    assert len(lab.sh(LOOK).split()[0]) == 36
    assert "provisioning: program" in lab("reset").ok().stderr


def test_a_changed_qupfile_counts(lab: Lab) -> None:
    lab.write(TEXT.replace("echo each ", "echo every "))
    said = lab("reset").ok().stderr
    assert "its provisioning steps changed since its last 'up': made anew" in said
    assert "provisioning: program:" in said
    assert lab.sh("sudo cat /root/each") == "every\n"


def test_a_damaged_save_point(lab: Lab) -> None:
    lab("reset").ok()  # the Qupfile is the old one again
    before = lab.sh(LOOK)
    (memory,) = (lab.machine() / "snapshots").glob("*/memory")
    memory.write_bytes(b"")
    said = lab("reset").ok().stderr
    assert "its save point can't be restored, it is made anew" in said
    assert lab.sh(LOOK) != before
    assert "restoring its save point" in lab("reset").ok().stderr


def test_without_templates_the_steps_run_again(lab: Lab) -> None:
    lab("destroy", "-y").ok()
    try:
        lab.templates = False
        lab.write(TEXT.replace("[machine]", "[machine]\ntemplates = false", 1))
        assert "for 'qup reset'" not in lab("up").ok().stderr
        said = lab("reset").ok().stderr
        assert "provisioning: program:" in said
    finally:
        lab.templates = True
        lab("destroy", "-y").ok()


def test_all_at_once(vm_cache: Path) -> None:
    names = ("a", "b")
    with open_lab(
        vm_cache, SMALL + STEPS + "".join(f"[machines.{name}]\n" for name in names), templates=True
    ) as lab:
        lab("up", "-j", "2").ok()
        before = {name: lab.sh(LOOK, name) for name in names}
        for name in names:
            lab.sh(SPOIL, name)
        shutil.rmtree(lab.machine("b") / "snapshots")
        lab("reset", "-j", "2").ok()
        assert lab.sh(LOOK, "a") == before["a"]
        assert lab.sh(LOOK, "b") != before["b"]
        assert wait_until(lambda: len(lab.qemus()) == 2)
