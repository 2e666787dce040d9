"""Faults while templates are made and used: nobody gets a dead machine, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, alive, open_lab, wait_until
from tests.vm.stops import go_on, stopped
from tests.vm.test_templates import golden_machines

pytestmark = pytest.mark.vm

TWO = SMALL.replace("192M", "176M") + "[machines.a]\n[machines.b]\n"


@pytest.fixture(scope="module")
def lab(cache: Path) -> Iterator[Lab]:
    """Two machines that share a template; ``a`` is up."""
    with open_lab(cache, TWO, templates=True) as made:
        made("up", "a").ok()
        yield made


def template_of(lab: Lab, name: str) -> Path:
    return lab.cache / "templates" / str(lab.inspect(name)["state"]["template"])


def leftovers(cache: Path) -> list[Path]:
    return list((cache / "templates").glob(".making-*"))


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("open", "/state"),  # before the guest is stopped
        ("os.rename", "/default"),  # it is saved, and not where others find it
    ],
)
def test_killed_while_it_is_saved(cache: Path, at: str, path: str) -> None:
    text = SMALL.replace("192M", "180M" if at == "open" else "184M")
    with open_lab(cache, text, templates=True) as lab:
        with stopped(lab, "up", at=at, path=path) as process:
            assert leftovers(cache)
            process.kill()
            process.wait()
        assert wait_until(lambda: not golden_machines(cache), 30)
        done = lab("up").ok()
        assert "booting a template" in done.stderr
        assert lab.sh("hostname") == "default\n"
        assert not leftovers(cache)
        assert len(lab.qemus()) == 1


def test_the_golden_machine_dies_while_it_is_saved(cache: Path) -> None:
    """The machine boots, and the reason is known until it is forgotten."""
    with open_lab(cache, SMALL.replace("192M", "188M"), templates=True) as lab:
        with stopped(lab, "up", at="open", path="/state") as process:
            (golden,) = golden_machines(cache)
            os.kill(int(golden), signal.SIGKILL)
            assert wait_until(lambda: not alive(int(golden)))
            assert go_on(process) == 0
        assert lab.sh("hostname") == "default\n"
        assert not leftovers(cache)
        (refusal,) = (cache / "templates" / "refused").iterdir()
        assert "could not be saved" in refusal.read_text()
        lab("template", "prune").ok()
        assert not refusal.exists()


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("os.rename", "/state.json"),  # it is about to be written down
        ("open", "/ram"),  # before QEMU starts
        ("open", "/state"),  # QEMU waits for its state
        ("socket.connect", "/identity"),  # the guest runs, and is nobody yet
    ],
)
def test_killed_while_it_is_restored(lab: Lab, at: str, path: str) -> None:
    with stopped(lab, "up", "b", at=at, path=path) as process:
        process.kill()
        process.wait()
    done = lab("up", "b").ok()
    assert "restoring template" in done.stderr
    assert lab.sh("hostname", "b") == "b\n"
    assert lab.sh("cat /etc/machine-id", "a") != lab.sh("cat /etc/machine-id", "b")
    assert len(lab.qemus()) == 2
    lab("destroy", "-y", "b").ok()
    assert len(lab.qemus()) == 1


def test_memory_that_is_removed_while_it_is_in_use(lab: Lab) -> None:
    """Whoever has it goes on: the kernel keeps the file. Who comes later does not get it."""
    place = template_of(lab, "a")
    kept = place.with_name("kept")
    (place / "ram").rename(kept)
    try:
        assert lab.sh("find / -xdev 2>/dev/null | wc -l; hostname", "a").split()[1] == "a"
        refused = lab("template", "inspect", place.name)
        assert refused.code == 0
    finally:
        kept.rename(place / "ram")
    assert "restoring template" in lab("up", "b").ok().stderr
    lab("destroy", "-y", "b").ok()


@pytest.mark.root
def test_a_cache_that_is_full(cache: Path, lab: Lab) -> None:
    """There is no room for a template: the machine boots, as ever."""
    mount = 'mount -t tmpfs -o size=64M none "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount, str(cache / "templates"))
    with open_lab(cache, SMALL, prefix=prefix, templates=True) as full:
        done = full("up").ok()
        assert "cold boot: no template: only 64M are free in the cache" in done.stderr
        assert full.sh("hostname") == "default\n"
    assert (template_of(lab, "a") / "ram").exists()


@pytest.mark.root
def test_a_cache_that_can_not_be_written_to(cache: Path, lab: Lab) -> None:
    """What is in it is of use as far as it need not be written to: boxes, and no templates."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount, str(cache))
    with open_lab(cache, TWO, prefix=prefix, templates=True) as barred:
        done = barred("up", "b").ok()
        assert "cold boot: no template: can't lock" in done.stderr
        assert "Read-only file system" in done.stderr
        assert barred.sh("hostname", "b") == "b\n"
        assert "Read-only file system" in barred("template", "prune").stderr
    assert (template_of(lab, "a") / "ram").exists()
