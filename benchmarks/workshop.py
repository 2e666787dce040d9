"""A place to measure in: folders of its own, projects, and all of it taken down at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.measure import BenchmarkError, Sample, run

_UNWANTED = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH", "PYTHONPROFILEIMPORTTIME")
"""Variables that make Python slower than it is for users, or another one."""


_CACHE = "QUP_CACHE_DIR"


class Workshop:
    """Temporary folders with projects in them, used by a qup that shares the user's cache only.

    Leave it as a context manager: every machine is destroyed and every process ended.
    """

    def __init__(self) -> None:
        # A short path: sockets go there.
        self.root = Path(tempfile.mkdtemp(prefix="qb-")).resolve()
        self.env = {
            key: value
            for key, value in os.environ.items()
            if key not in _UNWANTED and (key == _CACHE or not key.startswith("QUP_"))
        }
        # By the variables that users have: with qup's own for them it would look faster.
        self.env["XDG_STATE_HOME"] = str(self.root / "state")
        self.env["XDG_CONFIG_HOME"] = str(self.root / "config")
        self.env["QUP_RUNTIME_DIR"] = str(self.root / "r")
        self.qup = find_qup()
        self._projects: list[Path] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            end(process)
        for project in self._projects:
            with contextlib.suppress(BenchmarkError, OSError):
                self.call(project, "destroy", "-y")
        shutil.rmtree(self.root, ignore_errors=True)

    def project(self, name: str, text: str) -> Path:
        """Make a project with this Qupfile."""
        folder = self.root / name
        folder.mkdir()
        (folder / "Qupfile").write_text(text)
        self._projects.append(folder)
        return folder

    def call(self, project: Path, *words: str) -> Sample:
        """Run qup in a project."""
        return run([self.qup, *words], cwd=project, env=self.env)

    def action(self, project: Path, *words: str) -> Callable[[], Sample]:
        """The same, for later."""
        return lambda: self.call(project, *words)

    def ask(self, project: Path, *words: str) -> dict[str, Any]:
        """What qup answers with ``--json``.

        Raises:
            BenchmarkError: it failed.
        """
        done = subprocess.run(
            [self.qup, *words, "--json"],
            cwd=project,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"qup {' '.join(words)} failed: {done.stdout}{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def start(self, argv: list[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start a program that is ended with the workshop at the latest."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._processes.append(process)
        return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and reap it."""
    if process.poll() is None:
        process.kill()
    process.wait()


def find_qup() -> str:
    """The ``qup`` program of the Python that runs this.

    Raises:
        BenchmarkError: it isn't installed there.
    """
    found = shutil.which("qup", path=sysconfig.get_path("scripts"))
    if found is None:
        raise BenchmarkError(f"qup is not installed for {sys.executable}; 'make setup' does that")
    return found


def peak_memory(pid: int) -> int:
    """The most memory a living process ever had, in bytes (``VmHWM`` in ``proc(5)``); 0 if
    this system doesn't say.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
