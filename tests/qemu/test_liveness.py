"""Locks, process ids and signals, with real processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qup.errors import MachineError, StateError
from qup.qemu import liveness

UUID = "11111111-2222-4333-8444-555555555555"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        started.append(process)
        return process  # type: ignore[no-any-return]

    yield run
    for process in started:
        process.kill()
        process.wait()


def pretend_qemu(start: Start, machine: str, **options: object) -> subprocess.Popen[bytes]:
    script = "import time; print(flush=True); time.sleep(60)"
    process = start(
        sys.executable, "-c", script, "-uuid", machine, stdout=subprocess.PIPE, **options
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        stdout.readline()
    return process


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- alive.lock ---------------------------------------------------------------------------


def test_missing_lock_is_free_and_stays_missing(tmp_path: Path) -> None:
    assert not liveness.is_locked(tmp_path / "alive.lock")
    assert not (tmp_path / "alive.lock").exists()


def test_lock_lives_as_long_as_the_child_that_inherits_it(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "alive.lock"
    fd = liveness.open_alive_lock(path)
    assert path.stat().st_mode & 0o777 == 0o600
    child = pretend_qemu(start, UUID, pass_fds=[fd])
    os.close(fd)
    assert liveness.is_locked(path)
    assert liveness.is_locked(path), "looking must not take it away"
    with pytest.raises(StateError, match="the machine runs"):
        liveness.open_alive_lock(path)
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: not liveness.is_locked(path))  # not reaped: a zombie
    os.close(liveness.open_alive_lock(path))


def test_lock_is_not_inherited_by_accident(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "alive.lock"
    fd = liveness.open_alive_lock(path)
    pretend_qemu(start, UUID)
    os.close(fd)
    assert not liveness.is_locked(path)


def test_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link", tmp_path / "no" / "folder", tmp_path):
        with pytest.raises(StateError, match="can't open the lock"):
            liveness.open_alive_lock(path)
    assert not (tmp_path / "elsewhere").exists()


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert not liveness.is_locked(tmp_path / "fifo")
    assert liveness.holder(tmp_path / "fifo") is None


def test_onlookers_do_not_hinder_a_start(tmp_path: Path) -> None:
    path = tmp_path / "alive.lock"
    path.touch()
    onlooker = os.open(path, os.O_RDONLY)
    fcntl.flock(onlooker, fcntl.LOCK_SH)
    pid = os.fork()
    if pid == 0:
        time.sleep(0.2)
        os._exit(0)
    os.close(onlooker)  # the child's copy holds it until it ends
    fd = liveness.open_alive_lock(path)
    assert liveness.is_locked(path)
    os.close(fd)
    os.waitpid(pid, 0)


# --- the pidfile --------------------------------------------------------------------------


def lock_pidfile(start: Start, path: Path) -> subprocess.Popen[bytes]:
    """Lock a file as QEMU does (qemu_write_pidfile in util/oslib-posix.c)."""
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w');"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print(flush=True); time.sleep(60)"
    )
    process = start(sys.executable, "-c", script, str(path), stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stdout:
        stdout.readline()
    return process


def test_holder_of_a_pidfile(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "qemu.pid"
    assert liveness.holder(path) is None
    path.write_text("1\n")
    assert liveness.holder(path) is None, "a number in a file proves nothing"
    process = lock_pidfile(start, path)
    assert liveness.holder(path) == process.pid
    assert liveness.holder(path) == process.pid, "looking must not take the lock away"
    process.kill()
    until(lambda: liveness.holder(path) is None)  # not reaped: a zombie
    assert path.exists()


def test_holder_of_something_else(tmp_path: Path) -> None:
    assert liveness.holder(tmp_path) is None
    (tmp_path / "secret").touch(mode=0)
    assert liveness.holder(tmp_path / "secret") is None


@pytest.mark.qemu
def test_real_qemu_holds_its_pidfile(tmp_path: Path, start: Start) -> None:
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("no qemu-system-x86_64")
    path, machine = tmp_path / "qemu.pid", str(uuid.uuid4())
    words = [program, "-S", "-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none"]
    more = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    more = more if sys.platform == "linux" else []
    process = start(*words, *more, "-uuid", machine, "-pidfile", str(path), start_new_session=True)
    until(lambda: liveness.holder(path) == process.pid)
    until(lambda: path.read_text().strip() == str(process.pid))  # it is locked before it is written
    assert liveness.is_machine(process.pid, machine)
    assert liveness.signal_process(process.pid, machine, signal.SIGKILL)
    assert liveness.wait_gone(process.pid, 5)
    assert liveness.holder(path) is None
    assert path.read_text().strip() == str(process.pid), "it stays behind after SIGKILL"
    assert not liveness.is_machine(process.pid, machine)


# --- processes ----------------------------------------------------------------------------


def test_signal_reaches_the_machine_and_nobody_else(start: Start) -> None:
    child = pretend_qemu(start, UUID)
    other = UUID.replace("1", "a")
    assert liveness.is_machine(child.pid, UUID)
    assert not liveness.is_machine(child.pid, other)
    assert not liveness.signal_process(child.pid, other, signal.SIGKILL)
    assert not liveness.wait_gone(child.pid, 0.05)
    assert liveness.signal_process(child.pid, UUID, signal.SIGTERM)
    assert liveness.wait_gone(child.pid, 5), "a zombie is gone"
    assert not liveness.signal_process(child.pid, UUID, signal.SIGTERM)
    child.wait()
    assert liveness.wait_gone(child.pid, 0)
    assert not liveness.signal_process(child.pid, UUID, signal.SIGTERM)


def test_uuid_must_be_the_value_of_the_option(start: Start) -> None:
    child = start(sys.executable, "-c", "import time; time.sleep(60)", UUID, "-uuid", "x")
    assert not liveness.is_machine(child.pid, UUID)


@LINUX
def test_find_by_uuid(start: Start) -> None:
    machine = str(uuid.uuid4())
    assert liveness.find_by_uuid(machine) is None
    child = pretend_qemu(start, machine)
    assert liveness.find_by_uuid(machine) == child.pid
    child.kill()
    liveness.wait_gone(child.pid, 5)
    assert liveness.find_by_uuid(machine) is None


@LINUX
def test_process_of_another_user(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    child = pretend_qemu(start, UUID)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with pytest.raises(MachineError, match="another user"):
        liveness.signal_process(child.pid, UUID, signal.SIGTERM)


def test_wait_gone_gives_up_in_time(start: Start) -> None:
    child = pretend_qemu(start, UUID)
    begin = time.monotonic()
    assert not liveness.wait_gone(child.pid, 0.2)
    assert 0.19 <= time.monotonic() - begin < 2
