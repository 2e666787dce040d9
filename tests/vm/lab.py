"""A project with real machines, and a home, a cache and sockets that outlive one test.

Tests that don't disturb each other share one running machine per module this way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, Done, Sandbox, kill_leaks, run_qup

SMALL = '[machine]\nmemory = "192M"\ndisk = "1G"\n'
WARM = {"QUP_TEMPLATES": "yes"}
"""For the first start of a machine that has nothing to do with what is tested: a template, which
many tests share, spares the boot.
"""


@dataclass
class Lab:
    """Call it to run qup in its project.

    Attributes:
        prefix: words before each command: what runs it as another user, or elsewhere.
        templates: whether machines may be restored from templates.
        spawned: what runs beside a test; it ends with the lab, whatever becomes of the test.
    """

    box: Sandbox
    folder: Path
    cache: Path
    prefix: tuple[str, ...] = ()
    templates: bool = False
    spawned: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """Machines boot, unless a test is about templates: what they show is the same then."""
        return {
            **self.box.variables(),
            "QUP_CACHE_DIR": str(self.cache),
            "QUP_TEMPLATES": "yes" if self.templates else "no",
        }

    def __call__(self, *argv: str | os.PathLike[str], **more: Any) -> Done:
        more.setdefault("cwd", self.folder)
        more.setdefault("prefix", self.prefix)
        return run_qup(*argv, env={**self.env, **more.pop("env", {})}, **more)

    def spawn(self, *argv: str, **more: Any) -> subprocess.Popen[str]:
        """Start qup in a session of its own, and don't wait for it."""
        more.setdefault("cwd", self.folder)
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.STDOUT)
        process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "qup", *argv],
            env={**os.environ, **self.env, "PYTHONPATH": str(ROOT), **more.pop("env", {})},
            text=True,
            errors="replace",
            start_new_session=True,
            **more,
        )
        self.spawned.append(process)
        return process

    def write(self, text: str) -> None:
        (self.folder / "Qupfile").write_text(text, encoding="utf-8")

    def machine(self, name: str = "default") -> Path:
        """A machine's folder."""
        return self.folder / ".qup" / "machines" / name

    def inspect(self, name: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", name).ok().stdout)
        return found

    def status(self, name: str = "default") -> str:
        seen = json.loads(self("status", name, "--json").ok().stdout)
        return str(seen["machines"][0]["status"])

    def pid(self, name: str = "default") -> int:
        pid = self.inspect(name)["pid"]
        assert isinstance(pid, int)
        return pid

    def sh(self, script: str, name: str = "default") -> str:
        """Run a script in the guest, and return what it printed."""
        return self("ssh", name, "--", script).ok().stdout

    def clock_error(self, name: str = "default") -> float:
        """The least by which a guest's clock is wrong (seconds): a login takes time, however long,
        and some guests' ``date`` knows whole seconds only.
        """
        before = time.time()
        whole, _, fraction = self.sh("date -u +%s.%N", name).strip().partition(".")
        after = time.time()
        exact = fraction.isdigit()
        said = float(f"{whole}.{fraction}" if exact else whole)
        return max(before - said - (not exact), said - after, 0.0)

    def settle(self) -> None:
        """Have the guest write everything to its disk, before its power is cut."""
        self.sh("sync")

    def qemus(self) -> list[int]:
        """Live QEMUs of this project, also those that qup lost."""
        mark = os.fsencode(self.folder) + b"/"
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in command.split(b"\0")[0] and mark in command:
                found.append(int(entry.name))
        return found


def read_clock_bound(done: Done) -> float:
    """Within how many seconds a guest's clock is right, as qup says when it has set it.

    It asks again and again until the answer comes within a tenth of a second: it is more only if
    this computer is busy.
    """
    (said,) = re.findall(r"clock right within (\d+) ms", done.stderr)
    return int(said) / 1000


def wait_until(check: Callable[[], object], seconds: float = 10.0) -> bool:
    """Look again and again; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def end(process: subprocess.Popen[str]) -> None:
    """Kill it if it lives, and close what it wrote to."""
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def make_box(cache: Path, name: str, box: Sandbox) -> None:
    """Make a box in a cache, unless it is there already."""
    for folder in (box.home, box.runtime):
        folder.mkdir(mode=0o700)
    run_qup(
        "box", "build", name, cwd=box.home, timeout=900,
        env={**box.variables(), "TMPDIR": "/tmp", "QUP_CACHE_DIR": str(cache)},
    ).ok()  # fmt: skip


def copy_tiny(
    cache: Path, other: Path, copy_function: Callable[[str, str], object] = shutil.copy2
) -> None:
    """Put box ``tiny`` of one cache into another, and what is known of this computer. A whole
    Debian may be there, too, and large.
    """
    for link in cache.glob("boxes/current/tiny-*"):
        copy = other / link.relative_to(cache)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(link.readlink())
        if not copy.exists():  # of two recipes with the same outcome the second one
            shutil.copytree(link.resolve(), copy.resolve(), copy_function=copy_function)
    facts = cache / "host" / "facts.json"
    if facts.exists():
        (other / "host").mkdir(mode=0o700)
        shutil.copy2(facts, other / "host")


@contextmanager
def open_lab(
    cache: Path,
    text: str = SMALL,
    name: str = "project",
    prefix: tuple[str, ...] = (),
    *,
    templates: bool = False,
) -> Iterator[Lab]:
    """A lab that ends with all its machines; what is left running fails the test."""
    box = Sandbox(Path(tempfile.mkdtemp(prefix="ql-", dir="/tmp")))
    for folder in (box.home, box.runtime, box.root / "tmp"):
        folder.mkdir(mode=0o700)
    lab = Lab(box, box.root / name, cache, prefix, templates)
    lab.folder.mkdir()
    lab.write(text)
    try:
        yield lab
    finally:
        for process in lab.spawned:
            end(process)
        said = lab("destroy", "-y") if (lab.folder / ".qup" / "machines").is_dir() else None
        leaks = kill_leaks(str(box.root))
        shutil.rmtree(box.root, ignore_errors=True)
    assert not leaks, "\n".join(["left running:", *leaks, str(said)])
