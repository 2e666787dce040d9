"""Provisioning on a real guest: all that a step can have, and all that can go wrong with one.

One machine serves all of it; each test begins with a machine that is up and has its own Qupfile.
"""

from __future__ import annotations

import json

import pytest

from tests.vm.lab import SMALL, Lab, wait_until

pytestmark = pytest.mark.vm


@pytest.fixture
def lab(shared: Lab) -> Lab:
    shared.write(SMALL)
    return shared


def write(lab: Lab, steps: str) -> None:
    lab.write(f"{SMALL}\n{steps}")


def log(lab: Lab, number: int) -> str:
    return (lab.machine() / "logs" / f"provision-{number}.log").read_text()


def test_scripts(lab: Lab) -> None:
    (lab.folder / "setup.sh").write_bytes(b'#!/bin/sh\r\necho "$1|$2|$WHO"\r\nid -un; pwd\r\n')
    (lab.folder / "plain").write_text("cat; echo read nothing\nfalse\necho not reached\n")
    write(
        lab,
        """
        [[machine.provision]]
        name = "args"
        [machine.provision.script]
        path = "setup.sh"
        args = ["a b", "*"]
        env = { WHO = "x\\ny" }
        directory = "/var"
        [[machine.provision]]
        script = { path = "setup.sh", sudo = false }
        [[machine.provision]]
        shell = { inline = "id -un", user = "nobody" }
        """,
    )
    lab("up").ok()
    assert log(lab, 1) == "a b|*|x\ny\nroot\n/var\n"
    assert log(lab, 2).splitlines()[1] == "qup"
    assert log(lab, 3) == "nobody\n"
    assert lab.sh("ls /tmp") == ""

    write(lab, "[[machine.provision]]\nscript = 'plain'\n")
    done = lab("up")
    assert done.code == 11
    assert "step 1 (script 1) failed: the script ended with exit code 1" in done.stderr
    assert "provision-1.log" in done.stderr
    assert log(lab, 1) == "read nothing\n"
    write(lab, "[[machine.provision]]\nscript = 'nowhere.sh'\n")
    done = lab("up")
    assert (done.code, "nowhere.sh can't be read" in done.stderr) == (4, True), done
    (lab.folder / "plain").write_bytes(b"\0\1\2\n")
    write(lab, "[[machine.provision]]\nscript = 'plain'\n")
    done = lab("up")
    assert (done.code, "plain is not a script" in done.stderr) == (4, True), done
    (lab.folder / "plain").write_text("#! /opt/nowhere/python3 -u\nprint(1)\n")
    done = lab("up")
    assert done.code == 11
    assert "the guest has no /opt/nowhere/python3, which the script's first line" in done.stderr


def test_when_steps_run(lab: Lab) -> None:
    write(
        lab,
        """
        [[machine.provision]]
        name = "first"
        run = "once"
        shell = "echo once >> /root/when"
        [[machine.provision]]
        run = "always"
        on = "after-up"
        shell = "echo after >> /root/when"
        [[machine.provision]]
        run = "always"
        shell = "echo always >> /root/when"
        [[machine.provision]]
        name = "rare"
        run = "never"
        shell = "echo never >> /root/when"
        """,
    )
    lab("up").ok()
    text = (lab.folder / "Qupfile").read_text().replace("echo once", "echo changed")
    (lab.folder / "Qupfile").write_text(text)
    lab("up").ok()
    read = "sudo sh -c 'cat /root/when; rm /root/when'"
    assert lab.sh(read).split() == ["once", *2 * ["always", "after"]]
    lab("up", "--provision-with", "rare").ok()
    assert lab.sh(read).split() == ["never"]
    lab("provision").ok()
    assert lab.sh(read).split() == ["changed", "always", "after"]
    lab("provision", "--with", "shell").ok()
    assert lab.sh(read).split() == ["changed", "always", "never", "after"]
    refused = lab("up", "--provision-with", "rar")
    assert refused.code == 2
    assert "first, rare, shell" in refused.stderr


def test_files(lab: Lab) -> None:
    tree = lab.folder / "tree"
    (tree / "sub dir").mkdir(parents=True)
    (tree / "sub dir" / "näme").write_text("here")
    (tree / "link").symlink_to("sub dir/näme")
    (tree / ".qup").mkdir()
    (tree / ".qup" / "secret").write_text("no")
    (lab.folder / "motd").write_text("hello\n")
    steps = """
        [[machine.provision]]
        file = { source = "motd", destination = "/etc/motd", mode = "0640" }
        [[machine.provision]]
        file = { source = "motd", destination = "mine/", sudo = false }
        [[machine.provision]]
        file = { source = "tree", destination = "/srv/tree", owner = "nobody" }
        """
    write(lab, steps)
    lab("up").ok()
    seen = lab.sh(
        "stat -c '%a %U %n' /etc/motd mine/motd /srv/tree/*; cat /srv/tree/link; ls -A /srv/tree"
    )
    assert seen == (
        "640 root /etc/motd\n644 qup mine/motd\n777 nobody /srv/tree/link\n"
        "755 nobody /srv/tree/sub dir\nherelink\nsub dir\n"
    )
    assert "is up already" in lab("up").ok().stderr
    (tree / "sub dir" / "näme").write_text("there")
    lab("up").ok()
    assert lab.sh("cat /srv/tree/link") == "there"

    # A stranger's Qupfile doesn't reach beyond its project.
    (lab.folder / "out").symlink_to("/etc/hostname")
    for source in ("/etc/hostname", "../../etc/hostname", "out"):
        write(lab, f"[[machine.provision]]\nfile = {{ source = '{source}', destination = '/x' }}\n")
        refused = lab("up")
        assert refused.code == 4, refused
        assert "outside of the project" in refused.stderr
        assert "qup trust" in refused.stderr
    (lab.folder / "out").unlink()


def test_a_step_that_never_ends(lab: Lab) -> None:
    write(
        lab,
        "[[machine.provision]]\nname = 'stuck'\ntimeout = '2s'\n"
        "shell = 'echo begun; sleep 3333 & sleep 4444'\n",
    )
    done = lab("up")
    assert done.code == 11, done
    assert "(stuck) failed: it did not finish within 2 s" in done.stderr
    assert done.seconds < 30
    assert log(lab, 1) == "begun\n"
    assert lab.sh("pgrep -f 'sleep (3333|4444)' || echo none") == "none\n"


LOUD = """
head -c 100000 /dev/urandom
echo
yes 'some words in a line' | head -c 18000000
head -c 3000000 /dev/zero
"""


def test_a_step_that_prints_too_much(lab: Lab) -> None:
    write(lab, f"[[machine.provision]]\nshell = {json.dumps(LOUD)}\n")
    done = lab("up", "-q", timeout=120).ok()
    assert done.stderr == ""
    text = (lab.machine() / "logs" / "provision-1.log").read_text()
    assert len(text) < 17 * 1024 * 1024
    assert text.endswith("(more than 16 MiB of output: the rest is left out)\n")
    assert lab.sh("echo fine") == "fine\n"


def test_a_step_that_cuts_its_own_connection(lab: Lab) -> None:
    write(lab, "[[machine.provision]]\nshell = 'echo bye; kill -9 $(pidof dropbear); sleep 60'\n")
    done = lab("up")
    assert done.code == 11, done
    assert "the connection to the guest broke" in done.stderr
    write(lab, "[[machine.provision]]\nshell = 'echo back'\n")
    assert wait_until(lambda: lab("up").code == 0, 120)
    assert log(lab, 1) == "back\n"


def test_a_step_that_reboots_the_guest(lab: Lab) -> None:
    """The step has failed, the machine comes back, and the next `up` goes on with it."""
    write(lab, "[[machine.provision]]\nshell = 'echo going; reboot; sleep 60'\n")
    done = lab("up", timeout=120)
    assert done.code == 11, done
    assert "the connection to the guest broke" in done.stderr
    assert "in the background, as its last act" in done.stderr
    write(lab, "[[machine.provision]]\nshell = 'echo again'\n")
    assert wait_until(lambda: lab("up", timeout=120).code == 0, 120)
    assert log(lab, 1) == "again\n"


def test_steps_on_this_computer(lab: Lab) -> None:
    write(
        lab,
        """
        [[machine.provision]]
        on = "before-up"
        host = "echo $QUP_MACHINE before >> trace"
        [[machine.provision]]
        on = "after-up"
        host = 'ssh -F "$QUP_SSH_CONFIG" "$QUP_MACHINE" hostname >> trace; cat; pwd'
        [[machine.provision]]
        shell = "echo inside"
        """,
    )
    trace = lab.folder / "trace"
    refused = lab("up")
    assert refused.code == 4
    assert "step 1 runs on this computer: echo $QUP_MACHINE before" in refused.stderr
    assert not trace.exists()
    planned = lab("plan").ok().stdout
    assert "host 1 (before-up, on this computer), host 2 (after-up, on this computer)" in planned
    assert not trace.exists()

    lab("trust").ok()
    lab("up").ok()  # it is up: nothing comes before that
    assert trace.read_text() == "default\n"
    assert log(lab, 2) == f"{lab.folder}\n"
    trace.unlink()
    lab("reload").ok()
    assert trace.read_text() == "default before\ndefault\n"

    write(lab, "[[machine.provision]]\nhost = 'exit 3'\ntimeout = '5s'\n")
    lab("trust").ok()
    done = lab("up")
    assert done.code == 11
    assert "(host 1) failed: the command ended with exit code 3" in done.stderr
    write(lab, "[[machine.provision]]\nhost = 'sleep 100 & sleep 100'\ntimeout = '1s'\n")
    lab("trust").ok()
    assert "did not finish within 1 s" in lab("up").stderr
    write(lab, "[[machine.provision]]\non = 'before-up'\nshell = 'true'\n")
    refused = lab("up")
    assert (refused.code, "'shell' runs in the guest" in refused.stderr) == (4, True)


def test_events_name_the_step(lab: Lab) -> None:
    write(lab, "[[machine.provision]]\nname = 'greet'\nrun = 'always'\nshell = 'echo hi'\n")
    lines = [json.loads(line) for line in lab("up", "--json").ok().stdout.splitlines()]
    (output,) = [line for line in lines if line["event"] == "output"]
    assert (output["source"], output["text"]) == ("greet", "hi")
