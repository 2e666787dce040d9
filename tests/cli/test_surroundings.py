"""Where qup finds itself: odd Qupfiles, odd environments, full disks, closed outputs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Done, Sandbox, refused
from tests.fakes.world import QUPFILE, World

# --- the Qupfile as a file ----------------------------------------------------------------


def be_a_folder(path: Path) -> None:
    path.mkdir()


def be_a_fifo(path: Path) -> None:
    os.mkfifo(path)


def be_a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def be_binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 10)


def be_utf16(path: Path) -> None:
    path.write_text('[machine]\nmemory = "64M"\n', encoding="utf-16")


def be_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 * 1024 * 1024)


def be_deep(path: Path) -> None:
    path.write_text("a = " + "[" * 50_000 + "]" * 50_000 + "\n")


def be_a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def be_a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def be_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make",
    [be_a_folder, be_a_fifo, be_a_socket, be_binary, be_utf16, be_huge, be_deep,
     be_a_dangling_link, be_a_loop, be_a_device],
    ids=lambda make: make.__name__,
)  # fmt: skip
@pytest.mark.parametrize("verb", ["up", "status", "validate", "ssh"])
def test_a_qupfile_that_is_none(world: World, make: Callable[[Path], None], verb: str) -> None:
    path = world.folder / "Qupfile"
    path.unlink()
    make(path)
    done = world(verb, timeout=20)
    if verb in ("up", "validate"):
        refused(done, 4, "Qupfile")
    else:
        assert "Traceback" not in done.stderr, done
        assert done.code in (0, 2, 4, 9), done
    assert done.seconds < 5
    assert not (world.folder / ".qup").exists()


def test_an_empty_qupfile_is_one_machine(world: World) -> None:
    (world.folder / "Qupfile").write_text("")
    assert "default" in world("validate").ok().stdout
    world("up", "--box", "./base.qcow2", "--memory", "64M").ok()


@pytest.mark.parametrize("text", ["\ufeff[machine]\n", "[machine]\r\nmemory = '64M'\r\n", "# x\n"])
def test_bom_crlf_and_comments_are_fine(world: World, text: str) -> None:
    (world.folder / "Qupfile").write_text(text, encoding="utf-8", newline="")
    world("validate").ok()


def test_no_qupfile(world: World) -> None:
    (world.folder / "Qupfile").unlink()
    for verb in ("up", "status", "down", "ssh", "validate", "destroy"):
        refused(world(verb), 4, "no Qupfile", "qup init")
    world("list").ok()
    refused(world("-C", "/nowhere", "status"), 4, "does not exist")


def test_init_writes_what_up_takes(world: World) -> None:
    refused(world("init"), 4, "--force")
    world("init", "--force", "--box", "./base.qcow2").ok()
    world("validate").ok()
    assert world("plan").ok().stdout


def test_the_nearest_qupfile_counts(world: World) -> None:
    below = world.folder / "a" / "b"
    below.mkdir(parents=True)
    assert "default" in world("status", cwd=below).ok().stdout
    (world.folder / "a" / "Qupfile").write_text("[machines.inner]\n")
    assert "inner" in world("status", cwd=below).ok().stdout


@pytest.mark.root
def test_a_qupfile_of_somebody_else_is_refused(world: World) -> None:
    os.chown(world.folder / "Qupfile", 4242, 4242)
    os.chmod(world.folder, 0o777)
    done = subprocess.run(
        ["setpriv", "--reuid", "4243", "--clear-groups", sys.executable, "-m", "qup", "status"],
        cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "Permission" in done.stderr or "No module" in done.stderr:
        pytest.skip("another user can't run this tree")
    assert done.returncode == 4, done
    assert "another user" in done.stderr


# --- the environment ----------------------------------------------------------------------


def bare(world: World, env: dict[str, str], *argv: str) -> Done:
    """Run with exactly these variables besides PATH and what the fakes need."""
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "TMPDIR": os.environ["TMPDIR"],
        **world.variables(),
        **env,
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "qup", *argv],
        cwd=world.folder, env=variables, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    return Done(argv, done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def test_no_home_and_no_xdg(world: World, sandbox: Sandbox) -> None:
    """HOME comes from the user database then; the folders are named all the same."""
    env = {"QUP_CACHE_DIR": str(sandbox.root / "c"), "QUP_STATE_DIR": str(sandbox.root / "s")}
    bare(world, env, "up").ok()
    assert "running" in bare(world, env, "status").ok().stdout
    bare(world, env, "destroy", "-y").ok()


def test_a_home_alone(world: World, sandbox: Sandbox) -> None:
    home = sandbox.root / "another home"
    home.mkdir()
    env = {"HOME": str(home), "QUP_RUNTIME_DIR": os.environ["QUP_RUNTIME_DIR"]}
    bare(world, env, "up").ok()
    bare(world, env, "destroy", "-y").ok()
    assert (home / ".cache" / "qup").is_dir()


def test_a_runtime_folder_that_is_too_long(world: World, sandbox: Sandbox) -> None:
    long = sandbox.root / ("r" * 90)
    refused(world("up", env={"QUP_RUNTIME_DIR": str(long)}), 5, "too long", "QUP_RUNTIME_DIR")
    # One that nobody asked for by name is avoided instead.
    long.mkdir(mode=0o700)
    world("up", env={"QUP_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": str(long)}).ok()
    world("destroy", "-y", env={"QUP_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": str(long)}).ok()


@pytest.mark.root
def test_a_runtime_folder_of_somebody_else(world: World, sandbox: Sandbox) -> None:
    folder = sandbox.root / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 4242, 4242)
    refused(world("up", env={"QUP_RUNTIME_DIR": str(folder)}), 5, "QUP_RUNTIME_DIR")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUP_MEMORY", "lots"), ("QUP_MEMORY", "-1"), ("QUP_MEMORY", "1e99"), ("QUP_CPUS", "0"),
        ("QUP_CPUS", "two"), ("QUP_DISK", "2X"), ("QUP_BOOT_TIMEOUT", "soon"),
        ("QUP_HOSTNAME", "-x"), ("QUP_HOSTNAME", "a b"), ("QUP_SSH_USER", "-oProxyCommand=x"),
        ("QUP_NETWORK", "nosuch"), ("QUP_ACCELERATOR", "nosuch"), ("QUP_CPU", "help"),
    ],
)  # fmt: skip
def test_junk_in_a_variable_is_named(world: World, name: str, value: str) -> None:
    refused(world("up", env={name: value}), 4, name)


def test_unknown_variables_are_nobodys_business(world: World) -> None:
    world("status", env={"QUP_NOSUCH": "x", "QUP_": "", "QUP_MEMORY": ""}).ok()


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"TERM": "nosuch"},
                                 {"LC_ALL": "C"}, {"LC_ALL": "nosuch"}, {"COLUMNS": "0"},
                                 {"COLUMNS": "junk"}, {"NO_COLOR": "1"}, {"TMPDIR": "/nowhere"}],
                         ids=str)  # fmt: skip
def test_a_terminal_of_any_kind(world: World, env: dict[str, str]) -> None:
    for words in (("status",), ("--help",), ("up", "--help"), ("plan",)):
        done = world(*words, env=env).ok()
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout


def test_every_command_explains_itself(world: World) -> None:
    listed = world("--help").ok().stdout
    for verb in ("up", "down", "ssh", "console", "doctor", "box", "plugins"):
        assert verb in listed
        assert "Usage" in world(verb, "--help").ok().stdout
    assert listed.index("─ Start and stop ─") < listed.index("│ up ") < listed.index("─ Look ─")
    assert listed.index("─ From plugins ─") < listed.index("│ hello ")
    refused(world("upp"), 2, "upp")
    refused(world("up", "--nosuch"), 2, "--nosuch")
    refused(world("up", "nosuch"), 2, "nosuch")
    refused(world("down", "--timeout", "-1"), 2)


# --- outputs ------------------------------------------------------------------------------


def shell(world: World, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; qup() {{ "{sys.executable}" -m qup "$@"; }}; {script}'],
        cwd=world.folder,
        env={**os.environ, **world.variables(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["schema", "--help", "plan --json", "status"])
def test_a_reader_that_has_had_enough(world: World, command: str) -> None:
    done = shell(world, f"qup {command} | head -c 1")
    assert done.returncode in (0, 141), done
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("command", ["schema", "status", "plan --json", "--help", "--version"])
def test_a_full_output(world: World, command: str) -> None:
    done = shell(world, f"qup {command} > /dev/full")
    assert done.returncode != 0, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(world: World, closed: str) -> None:
    for command in ("status", "up", "status", "destroy -y"):
        done = shell(world, f"qup {command} {closed}")
        assert "Traceback" not in done.stderr, done
        if closed in ("2>&-", "<&-"):
            assert done.returncode == 0, done
    assert world.qemus() == []


def test_up_whose_reader_goes_away_still_comes_up_or_ends_cleanly(world: World) -> None:
    done = shell(world, "qup up --json | head -n 1")
    assert done.returncode in (0, 141), done
    assert "Traceback" not in done.stderr
    seen = world.status()["status"]
    assert (seen, len(world.qemus())) in (("running", 1), ("stopped", 0), ("not-created", 0))
    world("up").ok()


# --- file systems -------------------------------------------------------------------------


def can_mount() -> bool:
    try:
        return (
            os.getuid() == 0
            and subprocess.run(
                ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"],
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs to mount a tmpfs: root, unshare")


def mounted(world: World, mount: str, *argv: str, after: str = "true") -> Done:
    """Run qup in a mount namespace of its own."""
    script = f'{mount}; "{sys.executable}" -m qup "$@"; code=$?; {after}; exit $code'
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "qup", *argv],
        cwd=world.folder,
        env={**os.environ, **world.variables(), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    return Done(argv, done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@needs_mount
@pytest.mark.parametrize("size", ["4k", "64k", "128k", "192k", "256k", "320k"])
def test_a_full_disk_under_the_project(world: World, size: str) -> None:
    """Fault F29, at whatever file it hits."""
    world("up").ok()
    world("destroy", "-y").ok()
    where = world.folder / ".qup"
    look = f"find {where} -name state.json -exec cat {{}} + > {world.bin}/state; ls -R {where}"
    done = mounted(world, f"mount -t tmpfs -o size={size} none {where}", "up", after=look)
    if done.code == 0:
        for pid in world.qemus():
            os.kill(pid, 9)
        return
    refused(done, 5, "o space left")
    assert world.qemus() == []
    state = (world.bin / "state").read_text()
    assert not state or json.loads(state)
    world("up").ok()


@needs_mount
def test_a_full_cache(world: World) -> None:
    cache = Path(os.environ["QUP_CACHE_DIR"])
    cache.mkdir(parents=True, exist_ok=True)
    done = mounted(world, f"mount -t tmpfs -o size=64k none {cache}", "up", after=f"ls -RA {cache}")
    refused(done, 5, "o space left")
    assert ".building" not in done.stdout
    world("up").ok()


@needs_mount
def test_a_full_place_for_the_index_is_an_error_not_a_bug(world: World) -> None:
    state = Path(os.environ["QUP_STATE_DIR"])
    state.mkdir(parents=True, exist_ok=True)
    fill = f"mount -t tmpfs -o size=16k none {state}; head -c 16k /dev/zero > {state}/fill"
    done = mounted(world, fill, "up")
    assert "this is a bug" not in done.stderr, done
    assert done.code in (0, 5), done
    world("destroy", "-y")


@needs_mount
def test_a_project_that_can_not_be_written(world: World) -> None:
    here = world.folder
    mount = f"mount --bind {here} {here}; mount -o remount,ro,bind {here}; cd {here}"
    done = mounted(world, mount, "up")
    refused(done, 5, "ead-only file system", "hint: ")
    for words in (("status",), ("validate",), ("plan",), ("destroy", "-y"), ("down",)):
        mounted(world, mount, *words).ok()
    world("up").ok()
    done = mounted(world, mount, "status").ok()
    assert "running" in done.stdout


def test_nothing_is_written_where_nothing_was_asked_for(world: World) -> None:
    before = sorted(os.listdir(world.folder))
    for words in (("status",), ("validate",), ("plan",), ("list",), ("down",), ("destroy", "-y"),
                  ("ssh",), ("logs",), ("schema",)):  # fmt: skip
        world(*words)
    assert sorted(os.listdir(world.folder)) == before


def test_a_link_in_place_of_the_state_folder_is_not_followed(
    world: World, sandbox: Sandbox
) -> None:
    elsewhere = sandbox.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (world.folder / ".qup").symlink_to(elsewhere)
    refused(world("up"), 5)
    world("destroy", "-y")
    assert sorted(os.listdir(elsewhere)) == ["precious"]


def test_a_link_in_place_of_a_machine_is_not_followed(world: World, sandbox: Sandbox) -> None:
    elsewhere = sandbox.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (world.folder / ".qup" / "machines").mkdir(parents=True)
    (world.folder / ".qup" / "machines" / "default").symlink_to(elsewhere)
    refused(world("up"), 5)
    world("destroy", "-y")
    assert sorted(os.listdir(elsewhere)) == ["precious"]


# --- trust --------------------------------------------------------------------------------


def test_what_could_run_programs_needs_trust(world: World, sandbox: Sandbox) -> None:
    proof = sandbox.root / "ran"
    evil = world.folder / "qemu-system-x86_64"
    evil.write_text(f"#!/bin/sh\ntouch {proof}\n")
    evil.chmod(0o755)
    text = QUPFILE + f'[machine.qemu]\nprogram = "{evil}"\n'
    (world.folder / "Qupfile").write_text(text)
    env = {"QUP_PROGRAM": ""}
    for words in (("status",), ("validate",), ("up",), ("reload",), ("list",), ("down",)):
        world(*words, env=env)
        assert not proof.exists(), words
    refused(world("up", env=env), 4, "qup trust", "qemu.program")
    (world.folder / "Qupfile").write_text(QUPFILE + '[machine.qemu]\nargs = ["-nosuch"]\n')
    refused(world("up"), 4, "qup trust", "qemu.args")
    world("trust").ok()
    world("up").ok()
    (world.folder / "Qupfile").write_text(QUPFILE + '[machine.qemu]\nargs = ["-other"]\n')
    refused(world("reload"), 4, "qup trust")
    assert world.status()["status"] == "running"
    world("trust", "--remove").ok()


def test_the_users_own_words_need_no_trust(world: World) -> None:
    world("up", "--set", 'qemu.args=["-nosuch"]').ok()
