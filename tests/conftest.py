"""What every test gets: a home, an environment and a network of its own, and real machines
that can't outlive their test.

No test sees the user's home, configuration or ``QUP_*`` variables, and none but those marked
``vm`` reaches beyond this computer: ``test_isolation.py`` proves it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROXY_TO_NOWHERE = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
CLI_TIMEOUT = 120.0
"""Seconds that a command may take unless the test says otherwise."""
PROCESS_FIXTURES = frozenset({"make_world", "world", "environments"})
"""Tests that use one of these run many commands, or make Python environments."""
SLOW_KINDS = ("vm", "process", "qemu")
SHARED_CACHE = Path(os.environ.get("QUP_TEST_CACHE") or ROOT / ".pytest_cache" / "qup")
"""The cache of boxes for tests with real guests; read before tests lose sight of ``QUP_*``."""


# A shell starts what runs in its background with SIGINT ignored, and that is inherited: tests
# that interrupt qup would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# --- isolation ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sandbox:
    """The folders that stand in for the user's own during one test."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def runtime(self) -> Path:
        """For sockets, so its path is short; also what a leaked process is known by."""
        return self.root / "run"

    def variables(self) -> dict[str, str]:
        home = self.home
        return {
            "HOME": str(home),
            "TMPDIR": str(self.root / "tmp"),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_DATA_HOME": str(home / ".local/share"),
            "XDG_STATE_HOME": str(home / ".local/state"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "QUP_CACHE_DIR": str(home / "qup/cache"),
            "QUP_CONFIG_DIR": str(home / "qup/config"),
            "QUP_STATE_DIR": str(home / "qup/state"),
            "QUP_RUNTIME_DIR": str(self.runtime / "qup"),
            # Nobody's locale, time zone, terminal or ssh agent changes an outcome.
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }


UNWANTED = (
    "CI",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
    "PYTHONDONTWRITEBYTECODE",  # each qup would compile all of its modules: 0.5 s of a processor
    "PYTHONSTARTUP",
    "SSH_AUTH_SOCK",
    "SUDO_UID",
)


@pytest.fixture(scope="session")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short path for this worker's sandboxes, removed at the end."""
    tmp_path_factory.getbasetemp()  # made now, where TMPDIR is not yet one test's own
    folder = Path(tempfile.mkdtemp(prefix="qt-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def sandbox(
    sandboxes: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Sandbox]:
    """Point home, XDG folders and ``QUP_*`` at folders of this test's own."""
    box = Sandbox(Path(tempfile.mkdtemp(prefix="", dir=sandboxes)))
    for folder in (box.home, box.runtime, box.root / "tmp"):
        folder.mkdir(mode=0o700)
    for name in list(os.environ):
        if name.startswith(("QUP_", "QEMU_")) or name in UNWANTED:
            monkeypatch.delenv(name)
    for name, value in box.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(box.home)
    if request.node.get_closest_marker("vm") is None:
        refuse_network(monkeypatch)
    yield box
    shutil.rmtree(box.root, ignore_errors=True)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A test that runs the command line in this process leaves its signals as they were: what is
    ignored here is ignored by all that is started later.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def refuse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections reach this computer only, in this process and, by proxy, its children."""
    for name in PROXIES:
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, PROXY_TO_NOWHERE)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,::1")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,::1")

    def guard(method: str) -> None:
        real = getattr(socket.socket, method)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                host = str(address[0])
                if not (host.startswith("127.") or host in ("localhost", "::1")):
                    raise PermissionError(f"a test may not connect to {host}: mark it vm")
            return real(self, address)

        monkeypatch.setattr(socket.socket, method, connect)

    guard("connect")
    guard("connect_ex")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what only root can do, unless we are root; mark what is too slow for ``quick``; and
    begin with the longest files, so that no core is idle at the end while another has one left.
    """
    for item in items:
        if PROCESS_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("process")
    if os.getuid() != 0:
        for item in items:
            if item.get_closest_marker("root") is not None:
                item.add_marker(pytest.mark.skip(reason="needs to be root"))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    items[:] = [item for file in sorted(files.values(), key=guess_length) for item in file]


def guess_length(tests: list[pytest.Item]) -> tuple[float, ...]:
    """Sorts files by how long they may take, the longest first: by the time that a test is given,
    by whether guests or programs are started, by how many tests there are.
    """
    limits = [mark.args[0] for test in tests if (mark := test.get_closest_marker("timeout"))]
    kinds = [any(test.get_closest_marker(kind) for test in tests) for kind in SLOW_KINDS]
    return (-max(limits, default=0), *(-kind for kind in kinds), -len(tests))


# --- the command line ---------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    def ok(self) -> Done:
        """Itself, if it ended with 0; the test fails with the command's own words if not."""
        assert self.code == 0, str(self)
        return self

    def __str__(self) -> str:
        return (
            f"$ qup {' '.join(self.argv)}  -> {self.code} after {self.seconds:.2f} s\n"
            f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"
        )


def refused(done: Done, code: int, *words: str) -> None:
    """It ended with that code and one clear error with these words in it."""
    assert done.code == code, done
    assert "Traceback" not in done.stderr + done.stdout, done
    assert "this is a bug" not in done.stderr, done
    for word in words:
        assert word in done.stderr, done


Qup = Callable[..., Done]


def run_qup(
    *argv: str | os.PathLike[str],
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    input: str = "",
    timeout: float = CLI_TIMEOUT,
    prefix: Sequence[str] = (),
) -> Done:
    """Run the real command line of this tree to its end.

    Args:
        argv: the words after ``qup``.
        cwd: the folder to run in; the current one (which ``project`` sets) otherwise.
        env: variables added to the environment.
        input: text for its standard input.
        timeout: seconds after which it and what it started in its session are killed, and
            the test fails. A machine that holds on to its output looks like this, too.
        prefix: words before the command: what runs it as another user, or elsewhere.
    """
    words = tuple(os.fspath(word) for word in argv)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    begin = time.monotonic()
    with subprocess.Popen(
        [*prefix, sys.executable, "-m", "qup", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as exc:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            said = b"\n".join(part for part in (exc.stdout, exc.stderr) if part)
            pytest.fail(
                f"qup {' '.join(words)} did not end within {timeout:g} s:\n"
                f"{said.decode(errors='replace')}"
            )
    return Done(words, process.returncode, stdout, stderr, time.monotonic() - begin)


@pytest.fixture
def qup(sandbox: Sandbox) -> Qup:
    """``qup("up", "--json")`` runs the real command line; see :func:`run_qup`."""
    return run_qup


def find_free_port() -> int:
    """A TCP port that is free and stays so: the kernel gives out those from 32768 on by itself, and
    nobody asks for one below by its number, as other workers begin to look somewhere else.
    """
    for port in range(10_000 + os.getpid() % 20_000, 32_768):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port is free")


# --- machines -----------------------------------------------------------------------------


def find_processes(*marks: str) -> dict[int, str]:
    """The processes that have one of the marks in their command line or environment.

    Zombies don't count: process 1 of a container may never reap them.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            text = command + (folder / "environ").read_bytes()
        except OSError:
            continue
        if int(folder.name) != os.getpid() and any(os.fsencode(mark) in text for mark in marks):
            found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def kill_leaks(*marks: str, patience: float = 2.0) -> list[str]:
    """Wait a moment for processes to go, kill those that stay, and tell which those were."""
    deadline = time.monotonic() + patience
    while (leaks := find_processes(*marks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in leaks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid}: {command[:300]}" for pid, command in leaks.items()]


@pytest.fixture
def project(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """``project(text)`` makes a folder with that Qupfile and enters it.

    At the end its machines are destroyed, and the test fails if one of their processes is
    left.
    """
    made: list[Path] = []

    def make(text: str = "", name: str = "project") -> Path:
        folder = sandbox.root / name
        folder.mkdir()
        (folder / "Qupfile").write_text(text, encoding="utf-8")
        made.append(folder)
        monkeypatch.chdir(folder)
        return folder

    yield make
    said = [
        run_qup("destroy", "-y", "--force", cwd=folder)
        for folder in made
        if (folder / ".qup" / "machines").is_dir()
    ]
    marks = {str(sandbox.runtime), *map(str, made)}
    if leaks := kill_leaks(*sorted(marks)):
        pytest.fail("\n".join(["left running:", *leaks, *map(str, said)]))


@pytest.fixture(scope="session")
def vm_cache() -> Path:
    """A cache of boxes that all workers and runs share, so that ``tiny`` is made once.

    qup's own lock sees to it that one of them makes it and the others wait. ``make clean``
    removes it; ``QUP_TEST_CACHE`` names another.
    """
    SHARED_CACHE.mkdir(parents=True, exist_ok=True)
    return SHARED_CACHE.resolve()


@pytest.fixture
def vm_project(
    project: Callable[..., Path], vm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """As ``project``, with the shared cache: for tests marked ``vm``."""
    monkeypatch.setenv("QUP_CACHE_DIR", str(vm_cache))
    return project
