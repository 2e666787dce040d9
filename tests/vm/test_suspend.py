"""Suspended guests: they go on where they were, and their memory is used exactly once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, alive, open_lab, read_clock_bound, wait_until
from tests.vm.stops import go_on, stopped

pytestmark = pytest.mark.vm

QUPFILE = SMALL + (
    "[machines.a]\n[machines.a.network]\nforward = ['0:8000']\n"
    "[machines.plain]\ntemplates = false\n"
)
GOES_ON = "kill -0 $(cat pid) && cat /dev/shm/state"


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    """Machine ``a`` is from a template, and a process runs in it; ``plain`` is not made yet."""
    with open_lab(vm_cache, QUPFILE, templates=True) as made:
        made("up", "a").ok()
        made.sh("echo here >/dev/shm/state; sleep 99999 >/dev/null 2>&1 & echo $! >pid", "a")
        yield made


@pytest.fixture
def suspended(lab: Lab) -> Lab:
    """Machine ``a`` is suspended."""
    lab("up", "a").ok()
    lab("suspend", "a").ok()
    assert lab.status("a") == "suspended"
    return lab


def check_that_it_goes_on(lab: Lab, name: str = "a") -> None:
    assert lab.sh(GOES_ON, name) == "here\n"
    assert lab.status(name) == "running"
    assert not list(lab.machine(name).glob("suspended*"))
    assert not (lab.machine(name) / "late").exists()


def test_it_goes_on_where_it_was(lab: Lab) -> None:
    lab("up", "a").ok()
    lab("port", "add", "0:9000", "-m", "a").ok()
    who = "hostname; cat /etc/machine-id /sys/class/net/eth0/address"
    before, ports = lab.sh(who, "a"), lab("port", "list", "a").ok().stdout
    seen = [lab.sh("head -c 16 /dev/urandom | od -An -tx1", "a")]
    for verb in ("resume", "up"):
        lab("suspend", "a").ok()
        assert lab.status("a") == "suspended"
        assert not lab.qemus()
        assert not list((lab.box.runtime / "qup").iterdir())
        lab(verb, "a").ok()
        check_that_it_goes_on(lab)
        seen.append(lab.sh("head -c 16 /dev/urandom | od -An -tx1", "a"))
    assert len(set(seen)) == 3
    assert lab.sh(who, "a") == before
    assert lab("port", "list", "a").ok().stdout == ports


def test_its_clock_is_right(suspended: Lab) -> None:
    read_clock_bound(suspended("resume", "a").ok())
    assert suspended.clock_error("a") <= 0.1


def test_verbs_on_a_suspended_machine(suspended: Lab) -> None:
    assert "suspended already" in suspended("suspend", "a").ok().stderr
    for words in (("ssh", "a", "--", "true"), ("ip", "a"), ("port", "list", "a")):
        done = suspended(*words)
        assert done.code == 9
        assert "not running (suspended)" in done.stderr
        assert "'qup resume a' continues it" in done.stderr
    for words in (("snapshot", "save", "x", "a"), ("snapshot", "save", "x", "a", "--disk-only")):
        done = suspended(*words)
        assert done.code == 9
        assert "belong together" in done.stderr
    listed = json.loads(suspended("list", "--json").ok().stdout)["machines"]
    assert [row["status"] for row in listed if row["name"] == "a"] == ["suspended"]
    assert "is not running" in suspended("kill", "a").ok().stderr
    memory = suspended.machine("a") / "suspended" / "memory"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    done = suspended("resume", "a", "--timings").ok()
    assert "a: resumed" in done.stdout
    check_that_it_goes_on(suspended)
    assert "up already" in suspended("resume", "a").ok().stderr


def test_other_memory_is_named_and_nothing_is_lost(suspended: Lab) -> None:
    done = suspended("up", "a", "--memory", "256M")
    assert done.code == 9
    assert "memory: 192 MiB, now 256 MiB" in done.stderr
    assert "qup down --force a" in done.stderr
    assert suspended.status("a") == "suspended"
    suspended("resume", "a").ok()
    check_that_it_goes_on(suspended)


def test_another_qemu(suspended: Lab, tmp_path: Path) -> None:
    """A newer one is tried, an older one isn't; neither uses the memory up in vain."""
    real = shutil.which("qemu-system-x86_64")
    program = tmp_path / "qemu-system-x86_64"
    path = f"{tmp_path}:{os.environ['PATH']}"

    def pretend(version: str, more: str = "") -> None:
        program.write_text(
            f'#!/bin/sh\ncase " $* " in *" --version "*|*" -version "*)'
            f' echo "QEMU emulator version {version}"; exit;; esac\n{more}\nexec {real} "$@"\n'
        )
        program.chmod(0o755)

    pretend("1.0.0")
    done = suspended("resume", "a", env={"PATH": path})
    assert done.code == 9
    assert "QEMU changed since" in done.stderr
    assert "now 1.0.0" in done.stderr
    pretend("99.0.0", 'case " $* " in *" -incoming "*) echo broken >&2; exit 1;; esac')
    done = suspended("resume", "a", env={"PATH": path})
    assert done.code == 9
    assert "broken" in done.stderr
    assert "it is suspended as before" in done.stderr
    assert suspended.status("a") == "suspended"
    pretend("99.0.0")
    done = suspended("resume", "a", env={"PATH": path}).ok()
    assert "trying to resume with this one" in done.stderr
    check_that_it_goes_on(suspended)


def test_damaged_memory_is_named_and_kept(suspended: Lab) -> None:
    memory = suspended.machine("a") / "suspended" / "memory"
    with memory.open("r+b") as file:
        file.seek(memory.stat().st_size // 2)
        old = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([old[0] ^ 1]))
    done = suspended("resume", "a")
    assert done.code == 6
    assert "memory is damaged: its content is not what was saved" in done.stderr
    with memory.open("r+b") as file:
        file.seek(memory.stat().st_size // 2)
        file.write(old)
    size = memory.stat().st_size
    with memory.open("r+b") as file:
        file.seek(size - 5)
        tail = file.read()
        file.truncate(size - 5)
    done = suspended("up", "a")
    assert done.code == 6
    assert f"{size - 5} bytes instead of {size}" in done.stderr
    assert suspended.status("a") == "suspended"
    with memory.open("ab") as file:
        file.write(tail)
    suspended("resume", "a").ok()
    check_that_it_goes_on(suspended)


def test_disks_that_went_on_alone_do_not_meet_old_memory(suspended: Lab) -> None:
    disk = suspended.machine("a") / "disk.qcow2"
    info = disk.stat()
    os.utime(disk)
    done = suspended("resume", "a")
    assert done.code == 6
    assert "disk.qcow2 was changed since it was suspended" in done.stderr
    assert suspended.status("a") == "suspended"
    os.utime(disk, ns=(info.st_atime_ns, info.st_mtime_ns))
    suspended("resume", "a").ok()
    check_that_it_goes_on(suspended)


def test_the_computer_was_restarted(suspended: Lab) -> None:
    """It has another boot id, and no sockets; a pidfile and a state are from before."""
    folder = suspended.machine("a")
    state = json.loads((folder / "state.json").read_text())
    state["launch"] = {
        "boot_id": "another", "started": "2026-11-24T00:00:00+00:00", "plan": "",
        "runtime": str(suspended.box.runtime / "gone"), "ssh_address": "127.0.0.1",
        "ssh_port": 1, "ready": True,
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "qemu.pid").write_text(f"{os.getpid()}\n")
    shutil.rmtree(suspended.box.runtime / "qup")
    assert suspended.status("a") == "suspended"
    suspended("resume", "a").ok()
    check_that_it_goes_on(suspended)


def test_down_shuts_it_down_properly(suspended: Lab) -> None:
    suspended("resume", "a").ok()
    suspended.sh("echo not yet written >late", "a")
    suspended("suspend", "a").ok()
    done = suspended("down", "a").ok()
    assert "to shut it down properly" in done.stderr
    assert suspended.status("a") == "stopped"
    suspended("up", "a").ok()
    assert suspended.sh("cat late", "a") == "not yet written\n"
    suspended.sh("echo here >/dev/shm/state; sleep 99999 >/dev/null 2>&1 & echo $! >pid; sync", "a")


def test_down_force_gives_the_memory_up_and_keeps_the_disk(lab: Lab) -> None:
    lab("up", "plain").ok()
    lab.sh("echo kept >kept; sync; echo lost >/dev/shm/lost", "plain")
    lab("suspend", "plain").ok()
    lab("resume", "plain").ok()
    assert lab.sh("cat /dev/shm/lost", "plain") == "lost\n"
    assert lab.clock_error("plain") < 3
    lab("suspend", "plain").ok()
    done = lab("down", "--force", "plain").ok()
    assert "memory is discarded" in done.stderr
    assert lab.status("plain") == "stopped"
    assert not list(lab.machine("plain").glob("suspended*"))
    lab("up", "plain").ok()
    assert lab.sh("cat kept; cat /dev/shm/lost 2>/dev/null || echo gone", "plain") == "kept\ngone\n"
    lab("down", "--force", "plain").ok()


def test_several_at_once_and_what_is_stopped(lab: Lab) -> None:
    lab("up").ok()
    lab("suspend", "-j", "2").ok()
    assert {lab.status(name) for name in ("a", "plain")} == {"suspended"}
    events = lab("resume", "--json", "-j", "2").ok().stdout.splitlines()
    ends = [event for event in map(json.loads, events) if event.get("event") == "finished"]
    assert {(event["machine"], event["data"]["status"]) for event in ends} == {
        ("a", "running"), ("plain", "running"),
    }  # fmt: skip
    lab("down", "--force", "plain").ok()
    assert "is not running (stopped)" in lab("suspend", "plain").ok().stderr
    assert "is not suspended (stopped)" in lab("resume", "plain").ok().stderr


# --- killed on the way ------------------------------------------------------------------------

NEW, OLD = "suspended.new", "suspended.old"
BEFORE_IT_IS_SUSPENDED = {
    "before the memory": ("open", f"{NEW}/memory", None),
    "with the memory": ("os.rename", NEW, None),
}
ONCE_IT_IS = ("open", "a/state.json", ("os.rename", NEW))
IN_RESUME = {
    "before QEMU": ("subprocess.Popen", "qemu-system-x86_64", None),
    "with a QEMU": ("socket.connect", "/qmp", ("subprocess.Popen", "qemu-system-x86_64")),
    "with the memory": ("os.rename", "a/forwards.json", None),
    "with a way in": ("os.rename", "a/plan.json", None),
    "before it runs": ("open", "machines/a", ("os.rename", OLD)),
    "before it knows the time": ("socket.connect", "/identity", None),
}
USED_UP = ("before it runs", "before it knows the time")


def kill(lab: Lab, verb: str, where: tuple[str, str, tuple[str, str] | None]) -> None:
    at, path, after = where
    with stopped(lab, verb, "a", at=at, path=path, after=after) as process:
        process.kill()


@pytest.mark.parametrize("moment", BEFORE_IT_IS_SUSPENDED)
def test_killed_before_it_is_suspended(lab: Lab, moment: str) -> None:
    lab("up", "a").ok()
    pid = lab.pid("a")
    kill(lab, "suspend", BEFORE_IT_IS_SUSPENDED[moment])
    lab("up", "a").ok()
    assert lab.pid("a") == pid
    check_that_it_goes_on(lab)


@pytest.mark.parametrize("verb", ["up", "suspend", "kill"])
def test_killed_when_it_is_suspended_and_qemu_lives(lab: Lab, verb: str) -> None:
    lab("up", "a").ok()
    pid = lab.pid("a")
    kill(lab, "suspend", ONCE_IT_IS)
    assert lab.status("a") == "saved"
    lab(verb, "a").ok()
    if verb == "up":
        assert lab.pid("a") == pid
    else:
        assert lab.status("a") == "suspended"
        assert not alive(pid)
        lab("resume", "a").ok()
    check_that_it_goes_on(lab)


def test_killed_when_qemu_has_ended(lab: Lab) -> None:
    lab("up", "a").ok()
    kill(lab, "suspend", ("os.remove", "a/qemu.pid", None))
    assert lab.status("a") == "suspended"
    lab("suspend", "a").ok()
    lab("resume", "a").ok()
    check_that_it_goes_on(lab)


@pytest.mark.parametrize("moment", IN_RESUME)
def test_killed_while_it_goes_on(suspended: Lab, moment: str) -> None:
    kill(suspended, "resume", IN_RESUME[moment])
    there = (suspended.machine("a") / "suspended").is_dir()
    assert there == (moment not in USED_UP)
    suspended("up", "a").ok()
    check_that_it_goes_on(suspended)
    assert suspended.clock_error("a") < 3


def test_killed_while_it_goes_on_and_ports_that_were_opened_by_hand(lab: Lab) -> None:
    lab("up", "a").ok()
    lab("port", "add", "0:9001", "-m", "a").ok()
    ports = lab("port", "list", "a").ok().stdout
    lab("suspend", "a").ok()
    kill(lab, "resume", IN_RESUME["with a way in"])
    lab("up", "a").ok()
    assert lab("port", "list", "a").ok().stdout == ports
    assert "9001/tcp" in ports


@pytest.mark.parametrize("moment", ["with a QEMU", "with a way in"])
def test_killed_while_it_goes_on_and_suspended_again(suspended: Lab, moment: str) -> None:
    kill(suspended, "resume", IN_RESUME[moment])
    suspended("suspend", "a").ok()
    assert suspended.status("a") == "suspended"
    assert not suspended.qemus()
    suspended("resume", "a").ok()
    check_that_it_goes_on(suspended)


@pytest.mark.parametrize("where", [ONCE_IT_IS, IN_RESUME["with a QEMU"]], ids=["saved", "loaded"])
def test_killed_and_shut_down(
    suspended: Lab, where: tuple[str, str, tuple[str, str] | None]
) -> None:
    if where == ONCE_IT_IS:
        suspended("resume", "a").ok()
    kill(suspended, "suspend" if where == ONCE_IT_IS else "resume", where)
    done = suspended("down", "a").ok()
    assert "powered off" in done.stderr
    assert suspended.status("a") == "stopped"
    assert not list(suspended.machine("a").glob("suspended*"))
    suspended("up", "a").ok()
    suspended.sh("echo here >/dev/shm/state; sleep 99999 >/dev/null 2>&1 & echo $! >pid", "a")


def test_old_memory_never_meets_a_newer_disk(suspended: Lab) -> None:
    kill(suspended, "resume", IN_RESUME["with a way in"])
    suspended("up", "a").ok()
    suspended.sh("echo newer >file; sync", "a")
    pid = suspended.pid("a")
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(pid))
    assert suspended.status("a") == "crashed"
    suspended("up", "a").ok()
    assert suspended.sh("cat file; cat /dev/shm/state || echo booted", "a") == "newer\nbooted\n"
    suspended.sh("echo here >/dev/shm/state; sleep 99999 >/dev/null 2>&1 & echo $! >pid", "a")


def test_interrupted_on_the_way(lab: Lab) -> None:
    lab("up", "a").ok()
    at, path, _ = BEFORE_IT_IS_SUSPENDED["with the memory"]
    with stopped(lab, "suspend", "a", at=at, path=path) as process:
        assert go_on(process, signal.SIGINT) == 130
    check_that_it_goes_on(lab)
    lab("suspend", "a").ok()
    at, path, _ = IN_RESUME["with the memory"]
    with stopped(lab, "resume", "a", at=at, path=path) as process:
        assert go_on(process, signal.SIGINT) == 130
    assert lab.status("a") == "suspended"
    assert not lab.qemus()
    lab("resume", "a").ok()
    check_that_it_goes_on(lab)


@pytest.mark.root
def test_a_disk_that_fills_up_lets_it_run_on(lab: Lab) -> None:
    lab("up", "a").ok()
    place = lab.machine("a") / NEW
    place.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        place.rmdir()
        pytest.skip("nothing can be mounted here")
    try:
        done = lab("suspend", "a")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()
    assert done.code == 9
    assert "it runs on" in done.stderr
    assert "No space left" in done.stderr
    check_that_it_goes_on(lab)


def test_a_copy_boots_and_leaves_the_memory_to_the_original(suspended: Lab) -> None:
    copy = suspended.folder.with_name("copy")
    shutil.copytree(suspended.folder, copy, symlinks=True)
    done = suspended("up", "a", cwd=copy).ok()
    assert "the memory belongs to the original" in done.stderr
    suspended("destroy", "-y", cwd=copy).ok()
    assert suspended.status("a") == "suspended"
    suspended("resume", "a").ok()
    check_that_it_goes_on(suspended)


def test_what_replaces_a_machine_replaces_its_memory(suspended: Lab) -> None:
    """And keeps its ports."""
    suspended("resume", "a").ok()
    suspended("snapshot", "save", "one", "a").ok()
    ports = suspended("port", "list", "a").ok().stdout
    for words in (("snapshot", "restore", "one", "a"), ("reset", "a")):
        suspended("suspend", "a").ok()
        suspended(*words).ok()
        assert suspended.status("a") == "running"
        assert not list(suspended.machine("a").glob("suspended*"))
        assert suspended("port", "list", "a").ok().stdout == ports
    suspended("suspend", "a").ok()
    suspended("destroy", "-y", "a").ok()
    assert not suspended.machine("a").exists()


@pytest.mark.timeout(1200)
def test_a_whole_debian(debian_cache: Path) -> None:
    with open_lab(
        debian_cache, '[machine]\nbox = "debian/12"\nmemory = "512M"\n', templates=True
    ) as lab:
        lab("up", timeout=600).ok()
        lab.sh("echo here >/dev/shm/state; nohup sleep 99999 >/dev/null 2>&1 & echo $! >pid")
        lab("suspend").ok()
        bound = read_clock_bound(lab("resume").ok())
        assert lab.clock_error() <= max(bound, 0.1)
        check_that_it_goes_on(lab, "default")
        assert lab.sh("systemctl list-units --failed --no-legend") == ""
        assert "degraded" not in lab.sh("systemctl is-system-running || true")
