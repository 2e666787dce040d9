"""The life of machines: from nothing to running, down, up again, changed, and gone."""

from __future__ import annotations

import json
import socket

import pytest

from tests.vm.lab import SMALL, WARM, Lab, alive, wait_until

pytestmark = pytest.mark.vm


def test_a_whole_life(lab: Lab) -> None:
    assert lab.status() == "not-created"
    for verb in (("down",), ("down", "--force"), ("destroy", "-y")):
        lab(*verb).ok()  # nothing to do
    assert lab("ssh", "--", "true").code == 9

    done = lab("up").ok()
    assert "qup ssh" in done.stdout
    pid = lab.pid()
    lab.sh("echo kept > kept; sudo sh -c 'echo root > /etc/kept'")
    known_hosts = (lab.machine() / "ssh" / "known_hosts").read_bytes()

    done = lab("down").ok()
    assert done.seconds < 15
    assert "power cut" not in done.stderr, done
    assert not alive(pid)
    assert lab.status() == "stopped"
    assert list((lab.box.runtime / "qup").iterdir()) == []
    for words in (("ssh",), ("ip",), ("port", "list"), ("ssh-config",), ("console",)):
        refused = lab(*words)
        assert refused.code == 9, refused
        assert "qup up" in refused.stderr
    lab("logs").ok()
    lab("halt").ok()

    # Files survive, the identity too; what the Qupfile says now is applied.
    lab.write(SMALL.replace("192M", "256M").replace("1G", "1200M") + 'hostname = "second"\n')
    done = lab("up").ok()
    assert "grown" in done.stderr
    assert lab.sh("cat kept /etc/kept") == "kept\nroot\n"
    assert (lab.machine() / "ssh" / "known_hosts").read_bytes() == known_hosts
    said = lab.sh("hostname; grep MemTotal /proc/meminfo; df -k / | tail -1").split()
    assert said[0] == "second"
    assert int(said[2]) > 200_000
    assert int(said[5]) > 1_100_000

    lab.write(SMALL.replace("1G", "1200M") + 'hostname = "third"\n')
    before = lab.pid()
    lab("reload").ok()
    assert lab.pid() != before
    assert lab.sh("hostname; cat kept") == "third\nkept\n"

    # A shrinking disk, or memory nobody has, must not stop a machine that runs.
    for words, code in ((("--disk", "1G"), 9), (("--memory", "3T"), 5), (("--box", "./no.img"), 8)):
        refused = lab("reload", *words)
        assert refused.code == code, refused
        assert lab.status() == "running"

    # The guest may power itself off.
    lab("ssh", "--", "sudo poweroff")
    assert wait_until(lambda: not lab.qemus())
    seen = json.loads(lab("status", "--json").ok().stdout)["machines"][0]
    assert seen["status"] == "stopped"
    assert "guest" in seen["detail"]
    refused = lab("destroy")
    assert refused.code == 2
    assert "-y" in refused.stderr
    assert lab.machine().is_dir()
    lab("destroy", "-y").ok()
    assert not lab.machine().exists()
    assert lab("list").ok().stdout.count("\n") == 1


def test_up_in_json_lines(lab: Lab) -> None:
    done = lab("up", "--json").ok()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["schema"] == 1 for line in lines)
    phases = [line["phase"] for line in lines if line["event"] == "phase-ended"]
    assert phases[-3:] == ["disk", "launch", "boot"]
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["changed"] is True
    assert lines[-1]["data"]["status"] == "running"
    last = [json.loads(line) for line in lab("down", "--json").ok().stdout.splitlines()][-1]
    assert (last["event"], last["verb"], last["changed"]) == ("finished", "down", True)
    assert lab("destroy", "-y", "--json").ok().stdout


TWO = SMALL + "[machines.web]\nprimary = true\n[machines.db]\nautostart = false\n"


def test_two_machines(lab: Lab) -> None:
    lab.write(TWO)
    lab("up", env=WARM).ok()
    assert lab.status("web") == "running"
    assert lab.status("db") == "not-created"
    assert lab("ssh", "--", "hostname").ok().stdout == "web\n"
    assert lab("ssh", "db", "--", "hostname").code == 9

    lab("up", "db", env=WARM).ok()
    assert lab("ssh", "db", "--", "hostname").ok().stdout == "db\n"
    blocks = lab("ssh-config").ok().stdout
    assert "Host web\n" in blocks
    assert "Host db\n" in blocks
    macs = {lab.sh("cat /sys/class/net/eth0/address", name) for name in ("web", "db")}
    assert len(macs) == 2

    lab("down", "db").ok()
    assert lab.status("db") == "stopped"
    assert lab.status("web") == "running"

    # A machine that left the Qupfile can still be entered, stopped and removed.
    lab.write(SMALL + "[machines.db]\n")
    assert "no longer in the Qupfile" in lab("status").ok().stdout
    assert lab("ssh", "web", "--", "hostname").ok().stdout == "web\n"
    assert lab("up", "web").code == 2
    lab("down", "web").ok()
    lab("destroy", "-y", "web").ok()


STEPS = """
[[machine.provision]]
shell = {{ inline = "echo once >> /root/log; echo 'said by the step'" }}
[[machine.provision]]
shell = {{ inline = "{second}" }}
[[machine.provision]]
shell = {{ inline = "id -un > /tmp/who", sudo = false }}
"""


def test_provisioning_is_resumed_and_done_once(lab: Lab) -> None:
    lab.write(SMALL + STEPS.format(second="echo no >&2; exit 3"))
    done = lab("up")
    assert done.code == 11, done
    assert "said by the step" in done.stderr
    assert "step 2" in done.stderr
    assert lab.status() == "running"
    log = lab.machine() / "logs" / "provision-2.log"
    assert "no" in log.read_text()
    assert lab("up").code == 11
    lab("up", "--no-provision").ok()

    lab.write(SMALL + STEPS.format(second="echo two >> /root/log"))
    lab("up").ok()
    assert lab.sh("sudo cat /root/log; cat /tmp/who") == "once\ntwo\nqup\n"
    assert "is up already" in lab("up").ok().stderr
    lab("reload").ok()
    assert lab.sh("sudo cat /root/log") == "once\ntwo\n"


def test_a_forward_that_is_taken_at_the_start(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        lab.write(SMALL + f'[machine.network]\nforward = ["{port}:80", "0:81"]\n')
        done = lab("up")
        assert done.code == 9
        assert str(port) in done.stderr
        assert lab.sh("echo in") == "in\n"
        guests = [
            item["guest"]
            for item in json.loads(lab("port", "list", "--json").ok().stdout)["forwards"]
        ]
        assert sorted(guests) == [22, 81]
    lab("up").ok()
    assert f"127.0.0.1:{port}" in lab("port", "list").ok().stdout


def test_a_console_that_nobody_reads_and_a_guest_that_shouts(lab: Lab) -> None:
    """Neither blocks the guest, nor do its escapes reach the terminal."""
    lab("up", env=WARM).ok()
    lab.sh(
        r"sudo sh -c 'printf \"\033]0;owned\007\033[31mred\033[0m\n\" > /dev/console;"
        r" head -c 3000000 /dev/zero | tr \"\\0\" x > /dev/console; echo > /dev/console'"
    )
    done = lab("logs", "-n", "5").ok()
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert lab.sh("echo alive") == "alive\n"
    lab("down").ok()
