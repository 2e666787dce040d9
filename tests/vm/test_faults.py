"""What goes wrong with real machines: killed, stopped, misled, cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import refused
from tests.vm.lab import SMALL, WARM, Lab, alive, wait_until

pytestmark = pytest.mark.vm


def test_qemu_dies_hangs_or_is_ended(lab: Lab) -> None:
    lab("up", env=WARM).ok()
    lab.sh("echo kept > kept; sync")

    # Killed: seen at once, and repaired by the next up.
    pid = lab.pid()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(pid))
    assert lab.status() == "crashed"
    refused(lab("ssh", "--", "true"), 9, "crashed", "qup up")
    done = lab("up").ok()
    assert "recovering" in done.stderr
    assert lab.sh("cat kept") == "kept\n"

    # Ended from outside: not "clean" (rule 6), and said by whom.
    pid = lab.pid()
    os.kill(pid, signal.SIGTERM)
    assert wait_until(lambda: not alive(pid))
    seen = json.loads(lab("status", "--json").ok().stdout)["machines"][0]
    assert seen["status"] == "stopped"
    assert "signal 15" in seen["detail"]
    lab("up").ok()

    # Hanging: status answers in a second or two, and is believed again afterwards.
    pid = lab.pid()
    os.kill(pid, signal.SIGSTOP)
    done = lab("status", "--json").ok()
    assert json.loads(done.stdout)["machines"][0]["status"] == "unresponsive"
    assert done.seconds < 4
    refused(lab("up"), 9, "reload --force")
    os.kill(pid, signal.SIGCONT)
    assert wait_until(lambda: lab.status() == "running", 30)
    assert lab.sh("echo back") == "back\n"
    os.kill(pid, signal.SIGSTOP)
    done = lab("down", "--force").ok()
    assert done.seconds < 20
    assert not alive(pid)
    assert lab.status() == "stopped"


def test_a_power_cut_right_after_the_first_boot(lab: Lab) -> None:
    """Nothing was synced yet; the machine must come up all the same."""
    lab("up").ok()
    os.kill(lab.pid(), signal.SIGKILL)
    lab("up").ok()
    assert lab.sh("id -un; cd && pwd") == "qup\n/home/qup\n"


@pytest.mark.parametrize("verb", ["up", "down", "destroy"])
def test_a_kill_during_a_real_boot(lab: Lab, verb: str) -> None:
    lab("up", env=WARM).ok()
    lab("down").ok()
    for moment in {"up": (0.6, 1.0, 2.2), "down": (0.7, 1.5), "destroy": (0.8, 2.0)}[verb]:
        process = lab.spawn("up")
        time.sleep(moment)
        process.kill()
        process.communicate(timeout=20)
        assert len(lab.qemus()) <= 1
        done = lab(verb, *(["-y"] if verb == "destroy" else [])).ok()
        # A guest that is still booting has to be asked until it listens.
        assert done.seconds < 30, (moment, done)
        assert len(lab.qemus()) == (verb == "up"), moment
        if verb == "up":
            assert lab.sh("echo in") == "in\n"
        lab("down", "--force").ok()


def test_an_interrupt_during_a_real_boot(lab: Lab) -> None:
    for moment in (1.0, 2.0, 3.0):
        process = lab.spawn("up")
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        assert process.returncode in (130, -signal.SIGINT, 0), said
        if process.returncode:
            assert lab.qemus() == []
            assert lab.status() in ("stopped", "not-created")
    lab("up").ok()
    assert lab.sh("echo in") == "in\n"


def test_ctrl_c_after_up_reaches_no_machine_and_ups_at_once_start_one(lab: Lab) -> None:
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda _: lab("up", env=WARM), range(5)))
    assert [done.code for done in results] == [0] * 5, "\n".join(map(str, results))
    assert len(lab.qemus()) == 1
    # In one process group with the user's shell, as on a terminal:
    script = (
        f"'{sys.executable}' -m qup reload -q && trap : INT && kill -INT 0;"
        f" sleep 0.3; '{sys.executable}' -m qup status"
    )
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=lab.folder,
        env={**os.environ, **lab.env, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    assert "running" in done.stdout, done
    assert lab.sh("echo in") == "in\n"


def test_a_guest_that_ignores_the_power_button(lab: Lab) -> None:
    lab("up", env=WARM).ok()
    lab.sh("sudo pkill -f 'head -c 1' || sudo killall head")
    done = lab("down", "--timeout", "2").ok()
    assert "does not react to the power button" in done.stderr
    assert "powered off over ssh" in done.stderr
    assert "power cut" not in done.stderr


def test_another_key_is_refused_at_once(lab: Lab) -> None:
    """The machine boots, but qup's key isn't the one it was given."""
    done = lab("up", "--boot-timeout", "1s")
    refused(done, 10, "not ready after 1 s", "left running", "boot-timeout")
    assert lab.status() == "running"
    assert lab.inspect()["ready"] is False
    keys = lab.machine() / "ssh"
    for name in ("key", "key.pub"):
        shutil.copy(keys / name, keys / f"{name}.kept")
        (keys / name).unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "key"], check=True)
    done = lab("up")
    refused(done, 10, "refuses qup's key", "Permission denied", "qup-tiny: ready", "hint: ")
    assert done.seconds < 20
    for name in ("key", "key.pub"):
        (keys / f"{name}.kept").replace(keys / name)
    lab("up").ok()


def test_a_kernel_panic_ends_the_wait_with_the_consoles_tail(lab: Lab) -> None:
    append = "console=ttyS0 rdinit=/nope root=/dev/nope panic=0"
    done = lab("up", "--set", f'qemu.args=["-append", "{append}"]')
    refused(done, 10, "panicked", "Kernel panic - not syncing")
    assert done.seconds < 30
    lab("up").ok()


def test_a_guest_that_reboots_for_ever(lab: Lab) -> None:
    append = "console=ttyS0 rdinit=/nope root=/dev/nope panic=-1 quiet"
    done = lab("up", "--set", f'qemu.args=["-append", "{append}"]', "--boot-timeout", "60s")
    assert done.code == 10, done
    assert done.seconds < 60
    assert "panicked" in done.stderr or "reboots again and again" in done.stderr
    assert lab.qemus() == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--cpu", "nosuch"), 9, "unable to find CPU model"),
        (("--memory", "3T"), 5, "but this computer has"),
        (("--machine-type", "nosuch"), 5, "no machine type"),
        (("--set", 'qemu.args=["-nosuch"]'), 9, "-nosuch"),
        (("--set", 'qemu.args=["-device", "nosuch"]'), 9, "nosuch"),
        (("--accelerator", "hvf"), 5, "hvf does not exist on linux"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_qemu_or_the_host_refuses(
    lab: Lab, words: tuple[str, ...], code: int, said: str
) -> None:
    done = lab("up", *words)
    refused(done, code, said)
    assert done.seconds < 60
    assert lab.qemus() == []
    assert lab.status() in ("stopped", "not-created")


@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="no /dev/kvm that could be broken")
def test_a_broken_kvm_is_refused_and_auto_goes_on_with_tcg(lab: Lab) -> None:
    done = lab("up", "--accelerator", "kvm")
    if done.code == 0:
        pytest.skip("kvm works here")
    refused(done, 5, "kvm", "hint: ")
    assert done.seconds < 60  # the box may have to be made; the proof has a limit of its own
    again = lab("up", "--accelerator", "kvm")
    refused(again, 5, "kvm")
    assert again.seconds < 5
    assert "not usable" in lab("doctor").stdout
    done = lab("plan", "--json").ok()
    assert json.loads(done.stdout)["machines"]["default"]["accelerator"]["name"] == "tcg"
    assert done.seconds < 3


def test_a_project_in_use_is_lost_moved_or_copied(lab: Lab) -> None:
    lab("up", env=WARM).ok()
    lab.sh("echo original > me; sync")
    twin = Lab(lab.box, lab.box.root / "twin", lab.cache)
    shutil.copytree(lab.folder, twin.folder, symlinks=True)
    twin("up").ok()
    assert twin.sh("cat me") == "original\n"
    twin.sh("echo twin > me; sync")
    assert lab.sh("cat me") == "original\n"
    assert twin.inspect()["id"] != lab.inspect()["id"]
    twin("destroy", "-y").ok()
    assert lab.sh("cat me") == "original\n"

    moved = Lab(lab.box, lab.folder.rename(lab.box.root / "moved"), lab.cache)
    assert moved.status() == "running"
    assert moved.sh("cat me") == "original\n"
    assert "project is gone" not in moved("doctor").stdout
    moved("down").ok()
    moved("up").ok()
    assert moved.sh("cat me") == "original\n"

    pid = moved.pid()
    shutil.rmtree(moved.folder / ".qup")
    assert f"pid {pid}" in moved("doctor").stdout
    moved("doctor", "--fix", "--yes")
    assert not alive(pid)
    assert list((lab.box.runtime / "qup").iterdir()) == []


# One at a time: tests/runner/test_paths.py, without guests.
AWKWARD = [
    '-rf a,b=c "quo\'te" $(touch owned) %h%%n `x`',
    "new\nline;&|<>\\#[1]*? ünï-日本-\N{CRAB}",
    "long",
]


def test_any_path_will_do(lab: Lab) -> None:
    for text in AWKWARD:
        name = "x" * (250 - len(str(lab.box.root)) - 1) if text == "long" else text
        project = Lab(lab.box, lab.box.root / name, lab.cache)
        project.folder.mkdir()
        project.write(SMALL + '[[machine.provision]]\nshell = { inline = "echo hi" }\n')
        project("up").ok()
        assert project("ssh", "--", "echo $((6*7)); exit 5").stdout == "42\n"
        listed = json.loads(project("list", "--json").ok().stdout)["machines"]
        assert str(project.folder) in [item["project"] for item in listed]
        config = project.box.root / "ssh.conf"
        config.write_text(project("ssh-config").ok().stdout)
        subprocess.run(["ssh", "-F", config, "default", "true"], check=True)
        project("destroy", "-y").ok()
        assert sorted(os.listdir(project.folder)) == [".qup", "Qupfile"]


def test_a_path_that_is_no_utf8_is_refused(lab: Lab) -> None:
    folder = os.fsencode(lab.box.root) + b"/bad\xff\xfe"
    project = Lab(lab.box, Path(os.fsdecode(folder)), lab.cache)
    project.folder.mkdir()
    project.write(SMALL)
    done = project("up")
    refused(done, 5, "UTF-8", "hint: ")
    project("status").ok()
    project("destroy", "-y").ok()
    shutil.rmtree(folder)
