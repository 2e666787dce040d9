"""Folders that a virtiofsd serves beside QEMU, in a real guest."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup import namespaces
from qup.builtin.folder_virtiofs import PLACES
from tests.vm.lab import SMALL, Lab, open_lab, wait_until
from tests.vm.stops import stopped

VIRTIOFSD = next(filter(None, map(shutil.which, PLACES)), None)
pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        namespaces.find_obstacle() is not None, reason=namespaces.find_obstacle() or ""
    ),
    pytest.mark.skipif(VIRTIOFSD is None, reason="there is no virtiofsd"),
]

QUPFILE = (
    SMALL
    + """
[[machine.folders]]
host = "."
guest = "/srv/app"
type = "virtiofs"
[[machine.folders]]
host = "tools"
guest = "/srv/tools"
type = "virtiofs"
read-only = true
"""
)
REFUSING = """#!/bin/sh
case $1 in
--help) echo "-o source=PATH" ;;
*) echo "this one serves nobody" >&2; exit 3 ;;
esac
"""


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, QUPFILE, templates=True) as made:
        (made.folder / "greeting").write_text("from the host\n")
        (made.folder / "tools").mkdir()
        (made.folder / "tools" / "t").touch()
        done = made("up").ok()
        assert (
            "cold boot: its memory is shared with what serves /srv/app by virtiofs" in done.stderr
        )
        assert "mounting . at /srv/app" in done.stderr
        yield made


def find_servers(lab: Lab) -> list[int]:
    """The virtiofsds of a lab's machines, and their children."""
    mark = os.fsencode(lab.box.runtime)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if command.split(b"\0")[0].endswith(b"virtiofsd") and mark in command:
            found.append(int(entry.name))
    return sorted(found)


def ended(lab: Lab) -> bool:
    return wait_until(lambda: not find_servers(lab), 30)


def test_plan_says_what_has_to_be_known(lab: Lab) -> None:
    said = lab("plan").ok().stdout
    assert ". -> /srv/app (virtiofs); in emulation, a program that is built anew" in said
    command = lab("plan", "--qemu").ok().stdout
    assert "memory-backend-memfd,id=ram,size=192M,share=on" in command


def test_a_change_on_one_side_is_there_on_the_other(lab: Lab) -> None:
    assert lab.sh("cat /srv/app/greeting") == "from the host\n"
    (lab.folder / "greeting").write_text("changed\n")
    assert lab.sh("cat /srv/app/greeting") == "changed\n"
    replaced = lab.folder / "new"
    replaced.write_text("replaced\n")
    replaced.rename(lab.folder / "greeting")
    assert lab.sh("cat /srv/app/greeting") == "replaced\n"
    lab.sh("cd /srv/app && mkdir made && echo by me >made/x")
    assert (lab.folder / "made" / "x").read_text() == "by me\n"
    for name in ("made", "made/x"):
        assert (lab.folder / name).stat().st_uid == os.getuid()
    assert lab.sh("stat -c %U:%G /srv/app/greeting /srv/app/made/x").split() == ["qup:qup"] * 2


def test_what_is_qups_or_read_only_stays_as_it_is(lab: Lab) -> None:
    said = lab.sh(
        "cd /srv/app && sudo ls -A .qup; sudo rmdir .qup 2>&1; sudo umount .qup 2>&1;"
        " touch /srv/tools/x 2>&1; sudo mount -o remount,rw /srv/tools; touch /srv/tools/x 2>&1;"
        " true"
    )
    assert "machines" not in said
    assert said.count("Read-only file system") == 2, said
    assert os.listdir(lab.folder / "tools") == ["t"]
    assert (lab.machine() / "ssh" / "key").is_file()


def test_both_are_confined(lab: Lab) -> None:
    status = Path(f"/proc/{lab.pid()}/status").read_text()
    assert "Seccomp:\t2" in status
    servers = find_servers(lab)
    assert len(servers) >= 2
    for pid in servers:
        proc = Path(f"/proc/{pid}")
        assert (proc / "uid_map").read_text().split() == ["1000", str(os.getuid()), "1"]
        found = re.search(r"CapEff:\s+(\w+)", (proc / "status").read_text())
        assert found
        assert not int(found[1], 16) & 1 << 21, "CAP_SYS_ADMIN"


def test_a_guest_that_restarts_by_itself(lab: Lab) -> None:
    boot = lab.sh("cat /proc/sys/kernel/random/boot_id")
    lab("ssh", "--", "sudo reboot")

    def is_back() -> bool:
        done = lab("ssh", "--", "cat /proc/sys/kernel/random/boot_id", timeout=60)
        return done.code == 0 and done.stdout not in ("", boot)

    assert wait_until(is_back, 120)
    lab("up").ok()
    assert lab.sh("cat /srv/app/greeting") == "replaced\n"


@pytest.mark.parametrize("words", [("suspend",), ("snapshot", "save", "one")])
def test_its_memory_is_not_saved(lab: Lab, words: tuple[str, ...]) -> None:
    done = lab(*words)
    assert done.code == 9, done
    assert "which is shared with what serves /srv/app by virtiofs" in done.stderr
    assert lab.sh("cat /srv/app/greeting") == "replaced\n"


def test_reset_boots_it(lab: Lab) -> None:
    lab.sh("echo mine >/home/qup/mine")
    done = lab("reset").ok()
    assert "cold boot" in done.stderr
    assert lab.sh("cat /srv/app/greeting; ls /home/qup") == "replaced\n"


def test_a_server_that_is_killed_is_told(lab: Lab) -> None:
    os.kill(find_servers(lab)[0], signal.SIGKILL)
    log = lab.machine() / "logs" / "qemu.log"
    assert wait_until(lambda: "end-of-file" in log.read_text(), 30)
    done = lab("up")
    assert done.code == 9, done
    assert "what served /srv/" in done.stderr
    assert "reload --force" in done.stderr
    lab("reload", "--force").ok()
    assert lab.sh("cat /srv/app/greeting") == "replaced\n"


def test_servers_end_with_a_qemu_that_is_killed(lab: Lab) -> None:
    os.kill(lab.pid(), signal.SIGKILL)
    assert ended(lab)
    assert lab.status() == "crashed"


def test_servers_end_with_a_qup_that_is_killed_before_there_is_a_qemu(lab: Lab) -> None:
    with stopped(lab, "up", at="subprocess.Popen", path="-S") as process:
        assert find_servers(lab)
        process.kill()
        process.wait()
    assert ended(lab)
    assert not lab.qemus()


def test_a_server_that_refuses_is_quoted(lab: Lab) -> None:
    programs = lab.box.root / "programs"
    programs.mkdir()
    (programs / "virtiofsd").write_text(REFUSING)
    (programs / "virtiofsd").chmod(0o755)
    done = lab("up", env={"PATH": f"{programs}:{os.environ['PATH']}"})
    assert done.code == 9, done
    assert "QEMU did not start" in done.stderr
    assert "this one serves nobody" in done.stderr
    assert not lab.qemus()
    assert lab.status() == "stopped"


def test_without_one_nothing_is_started(lab: Lab) -> None:
    paths = {path for name in PLACES if (path := shutil.which(name))}
    hide = "; ".join(f"mount --bind /dev/null {path}" for path in sorted(paths))
    apart = ("unshare", "--mount", *(() if os.getuid() == 0 else ("-r",)))
    done = lab("up", prefix=(*apart, "sh", "-c", f'{hide}; exec "$@"', "sh"))
    assert done.code == 5, done
    assert "can't be mounted by virtiofs: there is no virtiofsd" in done.stderr
