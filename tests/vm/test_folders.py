"""Folders of this computer in guests, through the command line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, open_lab, wait_until

pytestmark = pytest.mark.vm

COPIED = (
    SMALL
    + """
[[machine.folders]]
host = "src"
guest = "/srv/app"
exclude = ["*.log", "/out/"]
[[machine.folders]]
host = "data"
guest = "/srv/it's here"
delete = true
[[machine.folders]]
host = "slow"
guest = "/srv/slow"
type = "sftp"
"""
)


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    """A machine of box ``tiny``, whose kernel mounts nothing here: its folders are copied."""
    with open_lab(vm_cache, COPIED) as made:
        src = made.folder / "src"
        (src / "sub").mkdir(parents=True)
        (src / "sub" / "x").write_text("one\n")
        (src / "tool").write_text("#!/bin/sh\necho works\n")
        (src / "tool").chmod(0o755)
        (src / "dangling").symlink_to("nowhere")
        (src / "a b\nc").write_text("odd\n")
        open(os.path.join(os.fsencode(src), b"bad\xff"), "w").close()
        (src / "x.log").touch()
        (src / "out").mkdir()
        (src / ".qup").mkdir()
        (src / ".qup" / "secret").touch()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(src / "sock"))
        (made.folder / "data").mkdir()
        (made.folder / "data" / "d").touch()
        (made.folder / "slow" / "sub").mkdir(parents=True)
        (made.folder / "slow" / "sub" / "y\nz").write_bytes(b"x" * (5 << 20))
        (made.folder / "slow" / "sub" / "y\nz").chmod(0o750)
        (made.folder / "slow" / "link").symlink_to("sub")
        done = made("up").ok()
        assert "src: not copied: 'sock' (a socket)" in done.stderr
        yield made


def find(lab: Lab, place: str = "/srv/app") -> list[str]:
    return sorted(lab.sh(f'cd "{place}" && find . ! -name . -print').split("\n./"))


def test_all_that_can_be_copied_is_there_and_is_the_users(lab: Lab) -> None:
    said = lab.sh('cd /srv/app && ./tool && cat sub/x "a b\nc" && readlink dangling && id -un')
    assert said == "works\none\nodd\nnowhere\nqup\n"
    assert lab.sh("cd /srv/app && printf %s bad* | od -An -tx1").split() == ["62", "61", "64", "ff"]
    assert lab.sh("ls -A /srv/app | wc -l") == "5\n", "neither log, out, socket nor .qup"
    assert lab.sh("find /srv ! -user qup | grep -v '^/srv$' | wc -l") == "0\n"
    assert lab.sh('ls "/srv/it\'s here"') == "d\n"


def test_sftp_is_a_way_too(lab: Lab) -> None:
    said = lab.sh('cd /srv/slow && wc -c <"sub/y\nz" && stat -c %a "sub/y\nz" && readlink link')
    assert said == f"{5 << 20}\n750\nsub\n"


def test_the_plan_says_how_and_why(lab: Lab) -> None:
    said = lab("plan").ok().stdout
    assert "src -> /srv/app (copy)" in said
    assert "'exclude'" in said
    assert "box tiny has no driver for it" in said


def test_what_is_as_it_was_is_not_sent_again(lab: Lab) -> None:
    assert lab("sync").ok().stderr.count("as it was") == 3
    assert "as it was" in lab("up").ok().stderr


def test_changes_are_sent_and_only_what_qup_put_there_is_removed(lab: Lab) -> None:
    src, data = lab.folder / "src", lab.folder / "data"
    for name in ("gone", "changed"):
        (src / name).write_text("1\n")
    (data / "dir").mkdir()
    (data / "dir" / "x").touch()
    lab("sync").ok()
    lab.sh(
        "cd /srv/app && echo mine >mine && echo more >>changed && echo x >x.log && touch sub/theirs"
        ' && cd "/srv/it\'s here" && mkdir -p theirs/deep && touch theirs/deep/y'
    )
    for name in ("gone", "changed", "tool"):
        (src / name).unlink()
    (src / "tool").mkdir()
    (src / "sub" / "x").write_text("two\n")
    (data / "dir" / "x").unlink()
    (data / "dir").rmdir()
    (data / "dir").touch()
    done = lab("sync").ok()
    assert "a file is gone here but changed in the guest" in done.stderr
    said = lab.sh(
        "cd /srv/app && cat sub/x changed mine x.log && ls -d gone sub/theirs tool/ 2>&1; true"
    )
    assert said.startswith("two\n1\nmore\nmine\nx\n")
    assert "sub/theirs\ntool/" in said
    assert "gone: No such file" in said
    assert lab.sh('cd "/srv/it\'s here" && find . -type f') in ("./d\n./dir\n", "./dir\n./d\n")


def test_a_sync_that_was_cut_off_is_finished_by_the_next(lab: Lab) -> None:
    """Killed while it sends: what it had begun is known to be unsure."""
    many = lab.folder / "src" / "many"
    many.mkdir()
    for number in range(300):
        (many / str(number)).write_text(f"{number}\n")
    (many / "large").write_bytes(b"x" * (24 << 20))
    process = lab.spawn("sync", "--json", "-q", stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if '"progress"' in line and "of 302" in line:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    (many / "1").unlink()
    lab("sync").ok()
    assert lab.sh("cd /srv/app/many && ls | wc -l && cat 299 && wc -c <large") == (
        f"300\n299\n{24 << 20}\n"
    )
    (many / "large").unlink()
    lab("sync").ok()


def test_watching_sends_changes_as_they_come_and_ends_with_ctrl_c(lab: Lab) -> None:
    src = lab.folder / "src"
    process = lab.spawn("sync", "--watch")
    try:
        (src / "one").write_text("1")
        assert wait_until(lambda: lab("ssh", "--", "test -e /srv/app/one").code == 0, 60)
        (src / "new" / "deep").mkdir(parents=True)
        (src / "new" / "deep" / "two").write_text("2")
        (src / "one").unlink()
        there = "test -e /srv/app/new/deep/two && test ! -e /srv/app/one"
        assert wait_until(lambda: lab("ssh", "--", there).code == 0, 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()


def test_watching_ends_with_the_machine(lab: Lab) -> None:
    process = lab.spawn("sync", "--watch")
    (lab.folder / "src" / "three").touch()
    assert wait_until(lambda: lab("ssh", "--", "test -e /srv/app/three").code == 0, 60)
    lab("kill").ok()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 9, output
    assert "is not running" in output
    assert lab("sync").code == 9
    lab("up").ok()


def test_many_files_take_bounded_time_and_show_progress(lab: Lab) -> None:
    """Thousands of small ones, the machine being emulated."""
    many = lab.folder / "src" / "lots"
    for folder in range(100):
        place = many / str(folder)
        place.mkdir(parents=True)
        for number in range(50):
            (place / str(number)).write_text("x")
    began = time.monotonic()
    done = lab("sync", timeout=280).ok()
    assert re.search(r"5,\d+ sent by tar", done.stderr), done
    assert re.search(r"of 5,\d+ files", done.stderr), "progress"
    print(f"5,000 files took {time.monotonic() - began:.1f} s")
    assert lab("sync").ok().seconds < 30
    for path in sorted(many.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    many.rmdir()
    assert "5,101 removed" in lab("sync", timeout=280).ok().stderr
    assert lab.sh("ls /srv/app | grep -c lots || true") == "0\n"


def test_folders_that_are_not_there_or_not_to_be_read(lab: Lab) -> None:
    text = COPIED.replace('host = "data"', 'host = "nowhere"')
    lab.write(text)
    done = lab("sync")
    assert done.code == 4, done
    assert "nowhere does not exist" in done.stderr
    lab.write(COPIED.replace('"data"', '"src/tool"').replace("exclude", "#"))
    (lab.folder / "src" / "tool").rmdir()
    (lab.folder / "src" / "tool").touch()
    assert "is no folder" in lab("sync").stderr
    lab.write(COPIED.replace('"data"', '".qup/machines"'))
    assert "has the machines' keys" in lab("sync").stderr
    lab.write(COPIED.replace("/srv/it's here", "/etc/dropbear"))
    done = lab("sync")
    assert (done.code, "belongs to another user" in done.stderr) == (10, True), done
    lab.write(COPIED.replace('host = "data"', 'host = ".."'))
    assert "trust" in lab("sync").stderr
    lab.write(COPIED)
    lab("sync").ok()


def test_a_guest_that_is_full_is_said_in_its_own_words(lab: Lab) -> None:
    lab.sh('sudo mount -t tmpfs -o size=1M full "/srv/it\'s here" && sudo chmod 777 /srv/it*')
    large = lab.folder / "data" / "large"
    large.write_bytes(b"x" * (4 << 20))
    done = lab("sync")
    assert done.code == 10, done
    assert "No space left" in done.stderr, done
    large.unlink()
    lab("sync").ok()
    assert lab.sh('ls "/srv/it\'s here"').split() == ["d", "dir"]
