"""Templates: machines that are restored are machines of their own, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import SMALL, Lab, open_lab, read_clock_bound, wait_until
from tests.vm.stops import go_on, stopped

pytestmark = pytest.mark.vm

SOME = SMALL + "".join(f"[machines.{name}]\n" for name in "abcd")
WHO = """
hostname
cat /etc/machine-id
cat /sys/class/net/eth0/address
cat /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
sudo sha256sum /etc/dropbear/host_ed25519 | cut -c1-64
sudo cat /var/lib/qup/instance-id
"""
FIELDS = ("hostname", "machine-id", "mac", "uuid", "random", "host-key", "instance")
STAY = tuple(field for field in FIELDS if field not in ("uuid", "random"))


@pytest.fixture(scope="module")
def lab(cache: Path) -> Iterator[Lab]:
    """Four machines that share a template; ``a`` and ``b`` are up."""
    with open_lab(cache, SOME, templates=True) as made:
        first = made("up", "a").ok()
        assert "no template fits (none of this box yet): booting one" in first.stderr
        assert "restoring template" in first.stderr
        second = made("up", "b").ok()
        assert "booting" not in second.stderr
        yield made


def who(lab: Lab, name: str) -> dict[str, str]:
    return dict(zip(FIELDS, lab.sh(WHO, name).split(), strict=True))


def templates(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab("template", "list", "--json").ok().stdout)[
        "templates"
    ]
    return found


def current(lab: Lab) -> Path:
    (one,) = (item for item in templates(lab) if item["current"])
    return lab.cache / "templates" / one["id"]


def test_no_two_machines_are_alike(lab: Lab) -> None:
    one, other = who(lab, "a"), who(lab, "b")
    assert (one["hostname"], other["hostname"]) == ("a", "b")
    for field in FIELDS:
        assert one[field] != other[field], field
    for name, me in (("a", one), ("b", other)):
        uuid = lab.inspect(name)["state"]["uuid"]
        assert me["instance"] == uuid
        key = (lab.machine(name) / "ssh" / "key.pub").read_text().split()[1]
        keys = lab.sh("grep -v '^#' .ssh/authorized_keys", name).splitlines()
        assert [line.split()[1] for line in keys] == [key]
    assert not lab.sh("grep -rl qup-template /etc || true", "b").strip()


def test_the_clock_is_right(lab: Lab) -> None:
    done = lab("up", "c").ok()
    bound = read_clock_bound(done)
    assert bound < 0.5  # 0.1 unless this computer is busy
    assert lab.clock_error("c") <= 0.5
    lab("destroy", "-y", "c").ok()


def test_nothing_of_it_is_undone_by_a_boot(lab: Lab) -> None:
    before = who(lab, "b")
    lab("ssh", "b", "--", "sudo reboot")
    boot = lab.sh("cat /proc/sys/kernel/random/boot_id", "a")
    assert wait_until(lambda: lab("ssh", "b", "--", "test -e /run/qup/result").code == 0, 60)
    assert boot != lab.sh("cat /proc/sys/kernel/random/boot_id", "b")
    after = who(lab, "b")
    assert {field: after[field] for field in STAY} == {field: before[field] for field in STAY}
    assert "10.0.2.15/" in lab.sh("ip -4 addr show dev eth0", "b")

    # A start of the machine's own disk is a boot, and says so.
    lab.sh("echo kept >kept; sync", "b")
    lab("down", "b").ok()
    done = lab("up", "b").ok()
    assert "cold boot: it has a disk of its own" in done.stderr
    assert lab.sh("cat kept", "b") == "kept\n"
    again = who(lab, "b")
    assert {field: again[field] for field in STAY} == {field: before[field] for field in STAY}


def test_forwards_lead_to_a_restored_guest(lab: Lab) -> None:
    lab("up", "c").ok()
    opened = lab("port", "add", "0:8000", "-m", "c").ok().stdout
    port = int(opened.split()[0].rpartition(":")[2])
    lab.sh("(while :; do echo hello | nc -l -p 8000; done) >/dev/null 2>&1 </dev/null &", "c")

    def talk() -> bool:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.settimeout(2)
            try:
                return connection.recv(10) == b"hello\n"
            except OSError:
                return False

    assert wait_until(talk)
    lab("destroy", "-y", "c").ok()


def test_what_is_in_use_is_kept(lab: Lab) -> None:
    (one,) = templates(lab)
    assert len(one["used_by"]) >= 2
    refused = lab("template", "rm", one["id"][:6])
    assert refused.code == 8, refused
    assert "needed by" in refused.stderr
    assert "removed 0" in lab("template", "prune", "--all").ok().stdout
    assert current(lab).is_dir()
    about = json.loads(lab("template", "inspect", one["id"]).ok().stdout)
    assert about["visible"]["memory_mib"] == 192


def test_a_boot_that_is_asked_for(lab: Lab) -> None:
    done = lab("up", "d", "--cold").ok()
    assert "cold boot: --cold" in done.stderr
    lab("destroy", "-y", "d").ok()


def test_reset_brings_a_machine_back_as_it_was(lab: Lab) -> None:
    refused = lab("reset", "d")
    assert refused.code == 9
    assert "never up" in refused.stderr
    lab("up", "d").ok()
    before, known_hosts = who(lab, "d"), (lab.machine("d") / "ssh" / "known_hosts").read_bytes()
    lab.sh("echo dirt >dirt; sudo rm /etc/hostname; sync", "d")
    for running in (True, False):
        if not running:
            lab("kill", "d").ok()
        done = lab("reset", "d").ok()
        assert "restoring template" in done.stderr
        after = who(lab, "d")
        same = ("hostname", "mac", "host-key", "instance")
        assert {field: after[field] for field in same} == {field: before[field] for field in same}
        assert after["random"] != before["random"]
        assert (lab.machine("d") / "ssh" / "known_hosts").read_bytes() == known_hosts
        assert lab("ssh", "d", "--", "test -e dirt").code == 1
    # What can't work is said before anything is lost.
    assert lab("reset", "d", "--memory", "3T").code == 5
    assert lab.status("d") == "running"
    lab("destroy", "-y", "d").ok()


def spoil(path: Path) -> None:
    """Change a file's content, and nothing else about it."""
    before = path.stat()
    with path.open("r+b") as file:
        for offset in range(0, before.st_size, 1 << 20):
            file.seek(offset)
            file.write(os.urandom(1 << 16))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_damaged_template_is_set_aside(lab: Lab) -> None:
    damaged = current(lab)
    os.truncate(damaged / "ram", 1 << 20)
    done = lab("up", "d").ok()
    assert f"template {damaged.name} is set aside: ram has another size" in done.stderr
    assert lab.sh("hostname", "d") == "d\n"
    lab("destroy", "-y", "d").ok()
    # Machines whose disk is based on it have it still, and new ones have a new template.
    assert (damaged / "disk.qcow2").exists()
    assert current(lab) != damaged


def test_a_template_that_does_not_come_back_is_set_aside(lab: Lab) -> None:
    broken = current(lab)
    spoil(broken / "ram")
    done = lab("up", "d").ok()
    assert f"template {broken.name} is set aside" in done.stderr
    assert "cold boot: the template failed" in done.stderr
    assert lab.sh("hostname", "d") == "d\n"
    assert lab.status("d") == "running"
    lab("destroy", "-y", "d").ok()
    assert not broken.exists()  # no machine needs it


def test_three_at_once_make_one(cache: Path) -> None:
    """Two projects; one machine boots it, the others wait and are restored from it."""
    text = SMALL.replace("192M", "200M") + "[machines.a]\n[machines.b]\n"
    with (
        open_lab(cache, text, "one", templates=True) as one,
        open_lab(cache, text, "two", templates=True) as two,
    ):
        before = len(list((cache / "templates").glob("*/template.json")))
        with stopped(one, "up", "a", at="open", path="/state") as first:
            others = [two.spawn("up", "a"), two.spawn("up", "b")]
            for process in others:
                assert process.stdout is not None
                lines = iter(process.stdout.readline, "")
                assert any("waiting for the template" in line for line in lines)
            assert go_on(first) == 0
        said = [process.communicate(timeout=240)[0] for process in others]
        assert [process.returncode for process in others] == [0, 0], said
        assert all("restoring template" in text for text in said), said
        assert not any("booting a template" in text for text in said), said
        after = len(list((cache / "templates").glob("*/template.json")))
        assert after == before + 1
        ids = {lab.sh("cat /etc/machine-id", name)
               for lab, name in ((one, "a"), (two, "a"), (two, "b"))}  # fmt: skip
        assert len(ids) == 3


def test_killed_while_it_is_booted(cache: Path) -> None:
    text = SMALL.replace("192M", "208M")
    with open_lab(cache, text, templates=True) as lab:
        process = lab.spawn("up")
        assert process.stdout is not None
        for line in process.stdout:
            if "booting a template" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert wait_until(lambda: not golden_machines(cache))
        assert list(lab.box.runtime.glob("qup/*"))
        lab("template", "prune").ok()
        assert not list((cache / "templates").glob(".making-*"))
        assert not list(lab.box.runtime.glob("qup/*"))
        lab("up").ok()
        assert lab.sh("hostname") == "default\n"
        assert not list((cache / "templates").glob(".making-*"))
        lab("destroy", "-y").ok()
        assert not golden_machines(cache)


def golden_machines(cache: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if os.fsencode(cache / "templates") in command and b"share=on" in command:
            found.append(entry.parent.name)
    return found
