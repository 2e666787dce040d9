"""Many machines at once: each is one of its own, and nothing is left of any of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import kill_leaks
from tests.vm.lab import Lab, open_lab

pytestmark = pytest.mark.vm

NAMES = tuple(f"m{number}" for number in range(1, 7))
TEXT = '[machine]\nmemory = "128M"\ndisk = "1G"\nnetwork.forward = ["0:80"]\n'
CROWD = TEXT + "".join(f"[machines.{name}]\n" for name in NAMES)
WHO = """
hostname
cat /etc/machine-id
cat /sys/class/net/eth0/address
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
cat /proc/sys/kernel/random/uuid
sudo sha256sum /etc/dropbear/host_ed25519 | cut -c1-64
"""


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    """Six machines of one template, up at once."""
    with open_lab(vm_cache, CROWD, templates=True) as made:
        made("up", "-j", "3", "-q").ok()
        yield made


def test_all_are_there_and_no_two_alike(lab: Lab) -> None:
    seen = json.loads(lab("status", "--json").ok().stdout)["machines"]
    assert [(item["name"], item["status"], item["ready"]) for item in seen] == [
        (name, "running", True) for name in NAMES
    ]
    templates = {lab.inspect(name)["state"]["template"] for name in NAMES}
    assert len(templates) == 1
    assert None not in templates
    who = [lab.sh(WHO, name).split() for name in NAMES]
    assert [facts[0] for facts in who] == list(NAMES)
    for facts in zip(*who, strict=True):
        assert len(set(facts)) == len(NAMES), facts


def test_no_two_have_a_port(lab: Lab) -> None:
    ports = []
    for name in NAMES:
        listed = json.loads(lab("port", "list", name, "--json").ok().stdout)
        ports += [forward["host"] for forward in listed["forwards"]]
    assert len(ports) == len(set(ports)) >= 2 * len(NAMES)


def test_memory_can_be_added_up(lab: Lab) -> None:
    seen = json.loads(lab("status", "--json").ok().stdout)["machines"]
    uses = [item["memory"] for item in seen]
    for use in uses:
        assert 0 < use["private"] < use["proportional"] < use["resident"]
        assert use["shared"] > 8 << 20  # the template's pages
    table = lab("status", "--memory").ok().stdout.splitlines()
    assert table[0].split() == ["MACHINE", "STATUS", "SSH", "MEMORY", "OWN"]
    own = [int(line.split()[4].removesuffix("M")) for line in table[1:]]
    assert all(8 < size < 128 for size in own), table
    assert "MEMORY" in lab("list", "--memory").ok().stdout


def test_what_a_start_took(lab: Lab) -> None:
    """The phases of a start are kept, shown, told, and add up."""
    shown = lab("up", "m1", "--timings").ok().stdout
    assert "m1: restored from template " in shown
    kept = json.loads((lab.machine("m1") / "timings.json").read_bytes())
    phases = kept["phases"]
    assert {"process", "qupfile", "launch", "restore", "identity", "login"} <= set(phases)
    for phase, seconds in phases.items():
        assert f"\n{phase} " in shown
        assert f" {seconds:.3f} " in shown
    assert f" {sum(phases.values()):.3f} " in shown
    lab("destroy", "-y", "m6").ok()
    said = lab("up", "m6", "--json").ok().stdout.splitlines()
    (told,) = [event for event in map(json.loads, said) if event.get("event") == "timings"]
    (done,) = [event for event in map(json.loads, said) if event.get("event") == "finished"]
    assert told["template"] == kept["template"]
    assert told["seconds"] == pytest.approx(sum(told["phases"].values()), abs=0.01)
    assert told["seconds"] >= done["seconds"] - 0.1  # process and Qupfile come on top


def test_two_projects_share_a_template(lab: Lab, vm_cache: Path) -> None:
    with open_lab(
        vm_cache, TEXT + "[machines.m1]\n[machines.m2]\n", "other", templates=True
    ) as other:
        process = other.spawn("up", "-q")
        lab("destroy", "-y", "m5").ok()
        lab("up", "m5", "-q").ok()
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        ids = {other.inspect(name)["state"]["template"] for name in ("m1", "m2")}
        assert ids == {lab.inspect("m5")["state"]["template"]}
        one, two = (place.sh("cat /etc/machine-id; hostname", "m1") for place in (lab, other))
        assert one.split()[1] == two.split()[1] == "m1"
        assert one.split()[0] != two.split()[0]


def test_nothing_is_left(lab: Lab) -> None:
    """Runs last: everything ends."""
    lab("down", "--force", "m1", "m2").ok()
    lab("destroy", "-y").ok()
    assert not lab.qemus()
    assert not kill_leaks(str(lab.box.root))
    assert not [path for path in lab.box.runtime.rglob("*") if path.name != "qup"]
    assert not list((lab.folder / ".qup" / "machines").iterdir())
    assert json.loads(lab("list", "--json").ok().stdout)["machines"] == []


@pytest.mark.root
@pytest.mark.parametrize("part", ["templates", "boxes"])
def test_a_cache_of_somebody_else_is_refused(part: str, vm_cache: Path, tmp_path: Path) -> None:
    """What another user could change must not become anybody's memory or disk."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("boxes", "templates"):
        (cache / name).mkdir()
    os.chown(cache / part, 65534, 65534)
    with open_lab(cache, TEXT, templates=True) as lab:
        refused = lab("up")
        assert refused.code == 5, refused
        assert f"{cache / part} belongs to somebody else" in refused.stderr
        assert "QUP_CACHE_DIR" in refused.stderr
        assert not lab.qemus()
