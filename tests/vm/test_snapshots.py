"""Snapshots of real guests: memory and disks come back, also after qup was killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import SMALL, Lab, open_lab
from tests.vm.stops import go_on, stopped

pytestmark = pytest.mark.vm

QUPFILE = (
    SMALL
    + '[machines.a]\n[machines.plain]\ntemplates = false\n[[machines.plain.disks]]\nsize = "64M"\n'
)


@pytest.fixture(scope="module")
def lab(cache: Path) -> Iterator[Lab]:
    """Machine ``a`` is from a template and has a snapshot ``one``; ``plain`` is not made yet."""
    with open_lab(cache, QUPFILE, templates=True) as made:
        made("up", "a").ok()
        made.sh("echo one >state; sync; sleep 9999 >/dev/null 2>&1 & echo $! >pid", "a")
        made("snapshot", "save", "one", "a", "--note", "the first").ok()
        yield made


def tree(lab: Lab, name: str = "a") -> dict[str, dict[str, Any]]:
    rows = json.loads(lab("snapshot", "list", name, "--json").ok().stdout)["snapshots"]
    return {row["name"]: row for row in rows}


def test_memory_disk_forwards_and_identity_come_back(lab: Lab) -> None:
    who = "hostname; cat /etc/machine-id /sys/class/net/eth0/address"
    before = lab.sh(who, "a")
    lab("port", "add", "0:8000", "-m", "a").ok()
    ports = [line for line in lab("port", "list", "a").stdout.splitlines() if "8000" in line]
    seen = set()
    for _ in range(2):
        lab.sh("echo two >state; sync; kill $(cat pid)", "a")
        lab("snapshot", "restore", "one", "a").ok()
        assert lab.sh("cat state; kill -0 $(cat pid) && echo alive", "a") == "one\nalive\n"
        seen.add(lab.sh("head -c 16 /dev/urandom | od -An -tx1", "a"))
        assert lab.clock_error("a") < 3
    assert len(seen) == 2, "the random pool was not reseeded"
    assert lab.sh(who, "a") == before
    assert ports[0] in lab("port", "list", "a").stdout
    assert lab.status("a") == "running"


def test_a_tree_grows_and_is_cut(lab: Lab) -> None:
    lab("snapshot", "restore", "one", "a").ok()
    lab("snapshot", "save", "two", "a").ok()
    lab("snapshot", "save", "three", "a").ok()
    lab("snapshot", "restore", "one", "a").ok()
    lab("snapshot", "save", "other", "a").ok()
    found = tree(lab)
    parents = {name: row["parent"] for name, row in found.items()}
    assert parents == {"one": None, "two": "one", "three": "two", "other": "one"}
    assert found["one"]["note"] == "the first"
    assert found["other"]["current"]
    assert found["one"]["size"] > 1 << 20
    assert lab("snapshot", "save", "one", "a").code == 9
    lab("snapshot", "delete", "two", "a").ok()
    assert tree(lab)["three"]["parent"] == "one"
    lab("snapshot", "restore", "three", "a").ok()
    assert lab.sh("cat state", "a") == "one\n"
    lab("snapshot", "delete", "three", "a").ok()
    lab("snapshot", "delete", "other", "a").ok()


def test_other_hardware_is_refused_and_the_machine_is_as_it_was(lab: Lab) -> None:
    pid = lab.pid("a")
    lab.write(QUPFILE.replace("192M", "256M"))
    done = lab("snapshot", "restore", "one", "a")
    lab.write(QUPFILE)
    assert done.code == 9
    assert "memory changed since" in done.stderr
    assert "--disk-only" in done.stderr
    assert lab.pid("a") == pid


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("open", ".new/memory"),  # the guest waits already
        ("open", ".new/disk.qcow2"),  # it stands still
        ("os.remove", "snapshots/saving"),  # it goes on again
        ("os.rename", "snapshots/.new"),
    ],
)
def test_killed_while_it_is_saved(lab: Lab, at: str, path: str) -> None:
    with stopped(lab, "snapshot", "save", "cut", "a", at=at, path=path) as process:
        process.kill()
        process.wait()
    lab("up", "a").ok()
    assert lab.sh("kill -0 $(cat pid) && echo alive", "a") == "alive\n"
    assert lab.clock_error("a") < 3
    lab("snapshot", "save", "cut", "a", "--force").ok()
    lab("snapshot", "delete", "cut", "a").ok()
    assert set(tree(lab)) == {"one"}


@pytest.mark.parametrize("path", [".new/memory", ".new/disk.qcow2"])
def test_interrupted_while_it_is_saved(lab: Lab, path: str) -> None:
    snapshots = lab.machine("a") / "snapshots"
    with stopped(lab, "snapshot", "save", "cut", "a", at="open", path=path) as process:
        assert (snapshots / "saving").exists()
        assert go_on(process, signal.SIGINT) == 130
    assert not [*snapshots.glob("saving"), *snapshots.glob(".new")]
    assert lab.status("a") == "running"
    assert set(tree(lab)) == {"one"}


def test_a_template_stays_as_long_as_a_snapshot_needs_it(lab: Lab) -> None:
    lab("reset", "a", "--cold").ok()
    assert lab.sh("ls", "a") == ""
    lab("template", "prune", "--all").ok()
    lab("snapshot", "restore", "one", "a").ok()
    assert lab.sh("cat state", "a") == "one\n"


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("os.rename", "/disk.qcow2"),  # no machine runs
        ("open", "/memory"),  # one does, and knows nothing yet
        ("os.remove", "snapshots/restoring"),
    ],
)
def test_killed_while_it_is_restored(lab: Lab, at: str, path: str) -> None:
    lab.sh("echo two >state; sync", "a")
    with stopped(lab, "snapshot", "restore", "one", "a", at=at, path=path) as process:
        assert (lab.machine("a") / "snapshots" / "restoring").exists()
        process.kill()
        process.wait()
    assert lab("snapshot", "save", "no", "a").code == 6
    lab("up", "a").ok()
    assert lab.sh("cat state; kill -0 $(cat pid) && echo alive", "a") == "one\nalive\n"
    assert not (lab.machine("a") / "snapshots" / "restoring").exists()


def test_disks_of_a_stopped_machine_and_a_guest_that_was_booted(lab: Lab) -> None:
    lab("up", "plain").ok()
    lab.sh("echo one >state; echo data | sudo dd of=/dev/vdc conv=fsync 2>/dev/null", "plain")
    done = lab("snapshot", "save", "live", "plain").ok()
    assert "stood still" in done.stderr
    assert lab("snapshot", "save", "disks", "plain", "--disk-only").code == 9
    lab.sh("echo two >state; sudo dd if=/dev/zero of=/dev/vdc bs=512 count=1 conv=fsync", "plain")
    lab("down", "plain").ok()
    assert lab("snapshot", "save", "disks", "plain").code == 9
    lab("snapshot", "save", "disks", "plain", "--disk-only").ok()
    assert not tree(lab, "plain")["disks"]["memory"]
    lab("snapshot", "restore", "live", "plain").ok()
    assert lab.sh("cat state; sudo head -c 4 /dev/vdc", "plain") == "one\ndata"
    assert lab("snapshot", "restore", "disks", "plain").code == 9
    lab("snapshot", "restore", "disks", "plain", "--disk-only").ok()
    assert lab.status("plain") == "stopped"
    lab("up", "plain").ok()
    assert lab.sh("cat state; sudo head -c 4 /dev/vdc | tr '\\0' 0", "plain") == "two\n0000"


def test_names_that_are_wrong(lab: Lab) -> None:
    done = lab("snapshot", "restore", "nothing", "a")
    assert (done.code, "it has: one" in done.stderr) == (9, True)
    assert lab("snapshot", "save", "a/b", "a").code == 2
