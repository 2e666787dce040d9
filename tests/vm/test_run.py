"""``qup run``: a command in a machine of its own, of which nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, open_lab, wait_until
from tests.vm.stops import stopped

pytestmark = pytest.mark.vm

QUPFILE = SMALL + '[machines.web]\nhostname = "shop"\nnetwork.forward = ["8080:80"]\n'


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    """A project of one machine that is never started, whose template others may have made."""
    with open_lab(vm_cache, QUPFILE, templates=True) as made:
        yield made
        assert not left(made)


def left(lab: Lab) -> list[str]:
    """What there is of throw-away machines: folders, sockets, processes."""
    home = lab.box.home / "qup" / "state"
    folders = [*home.glob("runs/*/"), *home.glob("machines/*.json"), *home.glob("undo/*.json")]
    sockets = lab.box.runtime.glob("qup/*")
    return [*map(str, folders), *map(str, sockets), *map(str, find_qemus(lab))]


def find_qemus(lab: Lab) -> list[int]:
    mark = os.fsencode(lab.box.root)
    return [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if _command(entry).split(b"\0")[0].endswith(b"qemu-system-x86_64")
        and mark in _command(entry)
    ]


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_streams_and_exit_code_are_the_commands_own(lab: Lab) -> None:
    done = lab("run", "--", "hostname; cat; echo err >&2; exit 7", input="from here\n")
    assert (done.code, done.stdout, done.stderr) == (7, "shop\nfrom here\n", "err\n")
    assert not left(lab)
    assert not (lab.folder / ".qup" / "machines").exists()


def test_words_arrive_as_typed_outside_of_a_project(lab: Lab) -> None:
    done = lab("run", "-q", "--", "printf", "%s|", "a b", "$HOME", "-x", cwd=lab.box.home).ok()
    assert done.stdout == "a b|$HOME|-x|"
    assert not left(lab)


def test_a_folder_goes_in_and_what_changed_comes_back(lab: Lab) -> None:
    work = lab.folder / "work"
    (work / "sub").mkdir(parents=True)
    (work / "sub" / "old").write_text("old\n")
    (work / "gone").write_text("stays\n")
    script = "cat sub/old; echo more >>sub/old; rm gone; echo made >new; ln -s /etc bad; exit 3"
    done = lab("run", "--sync", "work", "--", script)
    assert (done.code, done.stdout) == (3, "old\n")
    assert "not copied" in done.stderr
    assert (work / "sub" / "old").read_text() == "old\nmore\n"
    assert (work / "gone").read_text() == "stays\n"
    assert (work / "new").read_text() == "made\n"
    assert not os.path.lexists(work / "bad")


def spawn(lab: Lab) -> subprocess.Popen[str]:
    begun = lab.folder / "begun"
    begun.unlink(missing_ok=True)
    with begun.open("w") as output:
        process = lab.spawn("run", "--", "echo begun; sleep 600", stdout=output)
    assert wait_until(begun.read_text, 60)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(lab: Lab, number: signal.Signals) -> None:
    process = spawn(lab)
    process.send_signal(number)
    assert process.wait(20) == 130
    assert not left(lab)


def test_what_a_killed_run_leaves_is_removed_by_the_next_command(lab: Lab) -> None:
    one, other = spawn(lab), spawn(lab)
    assert len(find_qemus(lab)) == 2
    one.kill()
    one.wait()
    assert wait_until(lambda: len(find_qemus(lab)) == 1), "the kernel ends QEMU with its qup"
    lab("down").ok()
    assert len([*lab.box.home.glob("qup/state/runs/*/")]) == 1, "the other one's"
    other.terminate()
    assert other.wait(20) == 130
    assert not left(lab)


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("os.rename", "machines/web/disk.qcow2"),
        ("os.rename", "machines/web/seed.iso"),
        ("os.rename", "machines/web/state.json"),
        ("subprocess.Popen", "guest=web"),
    ],
)
def test_killed_while_the_machine_is_made(lab: Lab, at: str, path: str) -> None:
    lab("run", "--", "true").ok()  # there is a template now
    with stopped(lab, "run", "--", "sleep", "600", at=at, path=path) as process:
        process.kill()
        process.wait()
    lab("validate").ok()
    assert not left(lab) or wait_until(lambda: not left(lab), 60)


def test_a_machine_that_ends_before_its_command(lab: Lab) -> None:
    done = lab("run", "--", "sudo poweroff; sleep 600")
    assert done.code == 9
    assert "broke before the command ended" in done.stderr
