"""``qup cp`` with real guests: two of box tiny, whose tools are busybox's."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vm.lab import SMALL, Lab, open_lab

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(
        vm_cache, f"{SMALL}[machines.a]\nprimary = true\n[machines.b]\n", templates=True
    ) as made:
        made("up").ok()
        yield made


def test_files_and_trees(lab: Lab) -> None:
    tree = lab.folder / "tree"
    (tree / "sp ace").mkdir(parents=True)
    (tree / "sp ace" / "new\nline").write_text("x")
    odd = os.fsencode(tree) + b"/\xff\xfe"
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.utime(odd, (981173106, 981173106))
    (tree / "link").symlink_to("sp ace")
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o750)

    said = lab("cp", "tree", "a:").ok()
    assert (said.stdout, said.stderr) == ("", "")
    seen = lab.sh("cd tree; stat -c '%a %Y' script *fe; cat *fe; readlink link; ls -A ~", "a")
    assert "750" in seen.splitlines()[0]
    assert lab.sh("stat -c '%a %Y' tree/$(printf '\\377\\376')", "a") == "644 981173106\n"
    lab("cp", "a:tree", "b:copy").ok()
    lab("cp", "b:copy", "back").ok()
    names = sorted(os.fsencode(path.relative_to(tree)) for path in tree.rglob("*"))
    back = lab.folder / "back"
    assert sorted(os.fsencode(path.relative_to(back)) for path in back.rglob("*")) == names
    assert (back / "sp ace" / "new\nline").read_text() == "x"
    assert stat.S_IMODE((back / "script").stat().st_mode) == 0o750
    assert os.readlink(back / "link") == "sp ace"

    lab("cp", "tree/script", "tree/link", "a:tree/sp ace").ok()
    assert lab.sh("ls 'tree/sp ace'", "a") == "link\nnew?line\nscript\n"
    (lab.folder / "some").mkdir()
    lab("cp", "b:copy/s*", "some").ok()
    assert sorted(os.listdir(lab.folder / "some")) == ["script", "sp ace"]
    assert lab.sh("ls -A . /tmp", "b").split() == [".:", ".ssh", "copy", "/tmp:"]


def test_roots_files(lab: Lab) -> None:
    (lab.folder / "conf").write_text("ours\n")
    refused = lab("cp", "conf", "a:/etc/conf")
    assert refused.code == 1, refused
    assert "--sudo writes as root" in refused.stderr
    lab("cp", "conf", "a:/etc/", "--sudo", "--owner", "nobody").ok()
    assert lab.sh("stat -c %U /etc/conf; cat /etc/conf", "a") == "nobody\nours\n"
    assert "may not be read" in lab("cp", "a:/etc/shadow", "x").stderr
    lab("cp", "a:/etc/shadow", "x", "--sudo").ok()
    assert (lab.folder / "x").read_text().startswith("root:")


def test_streams(lab: Lab) -> None:
    lab("cp", "-", ":stream", input="piped\n").ok()
    assert lab("cp", ":stream", "-").ok().stdout == "piped\n"
    words = [sys.executable, "-m", "qup", "cp", "a:/usr/lib/qup", "-"]
    env = {**os.environ, **lab.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=lab.folder, env=env, capture_output=True)
    listed = subprocess.run(["tar", "t"], input=done.stdout, capture_output=True)
    assert b"./pid1" in listed.stdout.splitlines()


def test_holes(lab: Lab) -> None:
    with (lab.folder / "image").open("wb") as file:
        file.write(b"start")
        file.seek(900 << 20)  # so much would take minutes
        file.write(b"end")
    lab("cp", "image", "a:").ok()
    size, blocks = lab.sh("stat -c '%s %b' image", "a").split()
    assert int(size) == (900 << 20) + 3
    assert int(blocks) < 1000
    assert lab.sh("tail -c 3 image; head -c 5 image; rm image", "a") == "endstart"


def test_a_copy_that_is_cut_off(lab: Lab) -> None:
    content = os.urandom(17 << 20)
    (lab.folder / "big").write_bytes(content)
    # The reader of the copy's own progress sees when it is on its way, and interrupts it.
    with lab.spawn("cp", "big", "a:", "--json") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"progress"' in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(60) in (0, 130), rest  # it may have been faster
    if process.returncode == 130:
        assert lab.sh("ls big 2>/dev/null || true", "a") == ""
    lab("cp", "big", "a:").ok()
    digest = hashlib.sha256(content).hexdigest()
    assert lab.sh("sha256sum <big; ls -A", "a").split()[0] == digest
    assert ".part" not in lab.sh("ls -A", "a")


def test_what_can_not_be(lab: Lab) -> None:
    for words, code, said in (
        (("big",), 2, "a source and a target"),
        (("big", "x"), 2, "neither source nor target is in a machine"),
        (("big", "c:"), 2, "for a file of this name here: ./c:"),
        (("big", "root@a:"), 2, "--sudo"),
        (("big", "a:", "--owner", "x"), 2, "needs --sudo"),
        (("gone", "a:"), 1, "gone is not there"),
        (("a:gone", "."), 1, "a:gone is not there"),
        (("/dev/null", "a:"), 1, "neither a file nor a folder"),
        (("big", "a:/no/such"), 1, "there is no folder a:/no"),
    ):
        done = lab("cp", *words)
        assert (done.code, said in done.stderr) == (code, True), done
    lab("down", "b", "--force").ok()
    done = lab("cp", "b:x", ".")
    assert (done.code, "not running" in done.stderr) == (9, True), done


def test_a_full_disk(lab: Lab) -> None:
    lab.sh("mkdir m; sudo mount -t tmpfs -o size=2m,mode=777 none m", "a")
    done = lab("cp", "big", "a:m/")
    assert done.code == 1, done
    assert "No space left" in done.stderr
    (lab.folder / "many").mkdir()
    for number in range(4):
        (lab.folder / "many" / str(number)).write_bytes(os.urandom(1 << 20))
    done = lab("cp", "many", "a:m/")
    assert done.code == 1, done
    assert "No space left" in done.stderr
    assert lab.sh("ls m; ls -A m | grep part; sudo umount m", "a") == ""
