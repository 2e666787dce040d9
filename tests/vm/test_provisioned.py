"""Provisioned templates: what steps have left in a guest is good for others of the same content."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import SMALL, Lab, open_lab
from tests.vm.stops import go_on, stopped

pytestmark = pytest.mark.vm

MACHINES = """
[machines.web]
[machines.twin]
hostname = "web"
[machines.other]
"""
STEPS = """
[[machine.provision]]
name = "log"
shell = "echo log >>/root/ran; head -c 8 /dev/urandom | od -An -tx8 >/root/made"
[[machine.provision]]
name = "app"
file = { source = "app", destination = "/srv/app" }
[[machine.provision]]
name = "each"
run = "always"
on = "after-up"
shell = "echo each >>/root/ran"
[[machine.provision]]
name = "rare"
run = "never"
shell = "echo rare >>/root/ran"
"""
SKIPPED = re.compile(r"restoring provisioned template (\w+): .*2 steps skipped")
RAN = "sudo cat /root/ran"
MADE = "sudo cat /root/made"


@pytest.fixture(scope="module")
def lab(cache: Path) -> Iterator[Lab]:
    """``web`` is up, and the first to have had its steps run."""
    with open_lab(cache, SMALL + STEPS + MACHINES, templates=True) as made:
        (made.folder / "app").write_text("version 1\n")
        first = made("up", "web").ok().stderr
        assert first.count("provisioning: log:") == 1
        assert first.count("provisioning: each:") == 1  # it is of the machine, not of the template
        assert SKIPPED.search(first), first
        yield made


def templates(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab("template", "list", "--json").ok().stdout)[
        "templates"
    ]
    return found


def test_a_new_machine_runs_no_step_that_has_run(lab: Lab) -> None:
    assert lab.sh(RAN, "web").split() == ["log", "each"]
    made, key = lab.sh(MADE, "web"), (lab.machine("web") / "ssh" / "key.pub").read_bytes()
    lab("destroy", "-y", "web").ok()
    said = lab("up", "web").ok().stderr
    assert SKIPPED.search(said), said
    assert "provisioning: log" not in said
    assert "provisioning: each" in said
    assert lab.sh(RAN, "web").split() == ["log", "each"]
    assert lab.sh(MADE, "web") == made
    assert (lab.machine("web") / "ssh" / "key.pub").read_bytes() != key
    again = lab("up", "web").ok().stderr
    assert "provisioning: log" not in again
    # A boot of its own disk changes nothing about it.
    lab("down", "web").ok()
    assert "provisioning: log" not in lab("up", "web").ok().stderr
    assert lab.sh(MADE, "web") == made


def test_machines_of_one_name_share_it_and_are_not_alike(lab: Lab) -> None:
    said = lab("up", "twin").ok().stderr
    assert SKIPPED.search(said), said
    for what in ("cat /etc/machine-id", "cat /sys/class/net/eth0/address", "head -c 9 /dev/random"):
        assert lab.sh(what, "web") != lab.sh(what, "twin")
    assert lab.sh("hostname", "twin") == "web\n"
    assert lab.sh(MADE, "twin") == lab.sh(MADE, "web")
    lab("destroy", "-y", "twin").ok()


def test_another_name_or_content_makes_another_one(lab: Lab) -> None:
    said = lab("up", "other").ok().stderr
    assert "provisioning: log:" in said
    assert lab.sh(MADE, "other") != lab.sh(MADE, "web")
    lab("destroy", "-y", "other").ok()
    (lab.folder / "app").write_text("version 2\n")
    said = lab("up", "twin").ok().stderr
    assert "provisioning: log:" in said
    assert lab.sh("cat /srv/app", "twin") == "version 2\n"
    lab("destroy", "-y", "twin").ok()
    (lab.folder / "app").write_text("version 1\n")


def test_steps_that_use_no_folder_come_with_one_to_machines_with_folders(lab: Lab) -> None:
    """They run before the folders are there, and the others in each machine, behind them."""
    text = """
        [[machine.folders]]
        host = "src"
        guest = "/srv/src"
        [[machine.provision]]
        name = "base"
        share = "name"
        shell = "ls /srv >/root/ran"
        [[machine.provision]]
        name = "build"
        shell = "cat /srv/src/x >>/root/ran"
        [machines.folders]
        """
    (lab.folder / "src").mkdir()
    (lab.folder / "src" / "x").write_text("1\n")
    lab.write(SMALL + text)
    assert "base can come with one, no more: build may read the folder /srv/src" in (
        lab("plan").ok().stdout
    )
    said = lab("up", "folders").ok().stderr
    assert "provisioning: base:" in said
    assert "1 step skipped" in said
    lab("destroy", "-y", "folders").ok()
    (lab.folder / "src" / "x").write_text("2\n")
    said = lab("up", "folders").ok().stderr
    assert "provisioning: base:" not in said
    assert lab.sh(RAN, "folders") == "2\n"
    lab("destroy", "-y", "folders").ok()
    lab.write(SMALL + STEPS + MACHINES)


def test_steps_that_do_not_look_at_the_name(lab: Lab) -> None:
    step = """
        [[machine.provision]]
        share = "all"
        shell = "head -c 8 /dev/urandom | od -An -tx8 >/root/made"
    """
    lab.write(SMALL + step + "[machines.one]\n[machines.two]\n")
    try:
        lab("up", "one").ok()
        assert "1 step skipped" in lab("up", "two").ok().stderr
        assert lab.sh(MADE, "one") == lab.sh(MADE, "two")
        assert [lab.sh("hostname", name) for name in ("one", "two")] == ["one\n", "two\n"]
    finally:
        lab("destroy", "-y", "one", "two")
        lab.write(SMALL + STEPS + MACHINES)


def test_to_be_sure(lab: Lab) -> None:
    made = lab.sh(MADE, "web")
    said = lab("up", "twin", "--no-cache").ok().stderr
    assert "provisioning: log:" in said
    assert lab.sh(MADE, "twin") != made
    renewed = lab.sh(MADE, "twin")
    lab("destroy", "-y", "twin").ok()
    assert SKIPPED.search(lab("up", "twin").ok().stderr)
    assert lab.sh(MADE, "twin") == renewed
    lab("destroy", "-y", "twin").ok()
    for words, ran in ((["--no-provision"], ""), (["--provision-with", "rare"], "rare\n")):
        lab("up", "twin", *words).ok()
        assert lab.sh(f"{RAN} 2>/dev/null || true", "twin") == ran
        lab("destroy", "-y", "twin").ok()


def test_it_has_nothing_of_a_machine(lab: Lab) -> None:
    """Neither of the first machine, nor of a later one, whose keys were made afterwards."""
    secrets = []
    for name in ("key", "host_key"):
        text = (lab.machine("web") / "ssh" / name).read_text()
        body = "".join(line for line in text.splitlines() if "-----" not in line)
        secrets.append(base64.b64decode(body)[-80:-16])
    (one,) = (
        item for item in templates(lab) if item["steps"] and f"{lab.folder}: web" in item["used_by"]
    )
    folder = lab.cache / "templates" / one["id"]
    for name in ("ram", "state", "disk.qcow2"):
        data = (folder / name).read_bytes()
        assert not any(secret in data for secret in secrets), name
    about = lab("template", "inspect", one["id"]).ok().stdout
    assert "/root/ran" not in about  # an option may be a password
    assert json.loads(about)["steps"] == ["log", "app"]


def test_a_step_that_fails_leaves_the_machine_for_a_look(lab: Lab) -> None:
    failing = SMALL.replace("[machine]", '[machine]\nhostname = "failing"') + STEPS.replace(
        'run = "always"', 'run = "changed"'
    ).replace("echo each", "test -e /root/mended; echo each")
    (lab.folder / "Qupfile").write_text(failing + MACHINES)
    try:
        done = lab("up", "twin")
        assert done.code == 11, done
        assert "step 3 (each) failed" in done.stderr
        assert lab.sh(RAN, "twin") == "log\n"
        lab.sh("sudo touch /root/mended", "twin")
        said = lab("up", "twin").ok().stderr
        assert "provisioning: log" not in said
        assert lab.sh(RAN, "twin").split() == ["log", "each"]
        # What was mended by hand is no template.
        lab("destroy", "-y", "twin").ok()
        assert lab("up", "twin").code == 11
        assert not list((lab.cache / "templates").glob(".making-*"))
    finally:
        lab("destroy", "-y", "twin").ok()
        lab.write(SMALL + STEPS + MACHINES)


@pytest.mark.parametrize(
    ("at", "path", "outcome"),
    [
        ("open", "/files/state", "cold boot: it has a disk"),  # the guest has no network any more
        ("os.rename", "/files", "cold boot: it has a disk"),  # QEMU is gone
        ("os.remove", "/web/state.json", "skipped"),  # the template is there
    ],
)
def test_killed_while_it_is_made(cache: Path, at: str, path: str, outcome: str) -> None:
    name = f"{at}-{len(path)}".replace(".", "-")
    machine = SMALL.replace("[machine]", f'[machine]\nhostname = "{name}"')
    with open_lab(cache, machine + STEPS + MACHINES, templates=True) as lab:
        (lab.folder / "app").write_text("version 1\n")
        with stopped(lab, "up", "web", at=at, path=path) as process:
            process.kill()
            process.wait()
        said = lab("up", "web").ok().stderr
        assert outcome in said
        assert lab.sh(RAN, "web").split() == ["log", "each"]
        assert len(lab.qemus()) == 1
        # Nobody has the keys of a template.
        lab("destroy", "-y", "web").ok()
        lab("up", "web").ok()
        assert lab.sh(RAN, "web").split() == ["log", "each"]
        assert not list((cache / "templates").glob(".making-*"))


def test_two_at_once_run_the_steps_once(cache: Path) -> None:
    text = SMALL.replace("[machine]", '[machine]\nhostname = "both"') + STEPS
    with (
        open_lab(cache, text, "one", templates=True) as one,
        open_lab(cache, text, "two", templates=True) as two,
    ):
        for lab in (one, two):
            (lab.folder / "app").write_text("version 1\n")
        with stopped(one, "up", at="open", path="/files/state") as first:
            second = two.spawn("up")
            assert second.stdout is not None
            for line in second.stdout:
                if "waiting for the provisioned template" in line:
                    break
            assert go_on(first) == 0
            said = second.communicate(timeout=120)[0]
        assert second.returncode == 0, said
        assert SKIPPED.search(said), said
        assert one.sh(MADE) == two.sh(MADE)
        assert one.sh("cat /etc/machine-id") != two.sh("cat /etc/machine-id")


SERVICE = """
[machine]
box = "debian/12"
memory = "512M"
[[machine.provision]]
name = "beat"
shell = '''
cat >/etc/systemd/system/beat.service <<END
[Service]
ExecStart=/bin/sh -c 'while :; do date >/run/beat; sleep 1; done'
[Install]
WantedBy=multi-user.target
END
systemctl enable --now beat
ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ecdsa_key
'''
"""
HEALTH = "systemctl is-active beat; systemctl list-units --failed --no-legend; ls /etc/ssh/*_key"
HEALTHY = ["active", "/etc/ssh/ssh_host_ed25519_key"]


@pytest.mark.timeout(1800)
def test_services_of_a_debian(debian_cache: Path) -> None:
    with open_lab(debian_cache, SERVICE, templates=True) as lab:
        said = lab("up", timeout=1200).ok().stderr
        assert "provisioning: beat:" in said
        assert lab.sh(HEALTH).split() == HEALTHY
        known = "cat /etc/machine-id; sudo cat /var/lib/cloud/data/instance-id"
        first = lab.sh(known).split()
        lab("destroy", "-y").ok()
        said = lab("up", timeout=300).ok().stderr
        assert re.search(r"restoring provisioned template .*1 step skipped", said), said
        assert lab.sh(HEALTH).split() == HEALTHY
        second = lab.sh(known).split()
        assert not {*first} & {*second}
        assert second[1] == lab.inspect()["state"]["uuid"]
        lab.sh("sudo systemctl disable --now beat; sudo rm -rf /etc/ssh; echo dirt >dirt")
        lab("reset", timeout=300).ok()
        assert lab.sh(HEALTH).split() == HEALTHY
        assert lab.sh(known).split()[1] == second[1]
        assert lab.sh("ls") == ""
