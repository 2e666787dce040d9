"""A world without guests: a scripted QEMU, an ssh that always gets in, an empty disk for a box.

A whole ``qup up`` takes half a second in it, and any fault can be had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, Done, kill_leaks, run_qup

FAKE = Path(__file__).with_name("fake_qemu.py")
QUPFILE = '[machine]\nbox = "./base.qcow2"\nmemory = "64M"\ndisk = "64M"\n'

SSH = """#!/bin/sh
case " $* " in
*" -O "*) exit 0 ;;
*" -M "*) exit ${FAKE_SSH_CODE:-0} ;;
esac
exit 0
"""


@dataclass
class World:
    """A project in it; call it to run qup there.

    Attributes:
        folder: the project.
        scenario: what the fake QEMU does; see :mod:`tests.fakes.fake_qemu`.
        env: more variables.
    """

    folder: Path
    bin: Path
    scenario: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def program(self) -> Path:
        return self.bin / "qemu-system-x86_64"

    @property
    def machine(self) -> Path:
        """The folder of machine ``default``."""
        return self.folder / ".qup" / "machines" / "default"

    def variables(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "QUP_PROGRAM": str(self.program),
            "QUP_ACCELERATOR": "tcg",
            "FAKE_QEMU": json.dumps(self.scenario),
            "QUP_TEMPLATES": "no",  # the fake can be neither saved nor restored
            **self.env,
        }

    def __call__(self, *argv: str | os.PathLike[str], **more: Any) -> Done:
        more.setdefault("cwd", self.folder)
        return run_qup(*argv, env={**self.variables(), **more.pop("env", {})}, **more)

    def tweaked(self, tweak: str, *argv: str) -> Done:
        """Run qup with constants changed: ``tweak`` is Python that is executed before it."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", f"{tweak}\nfrom qup.__main__ import main; main()", *argv],
            cwd=self.folder,
            env={**os.environ, **self.variables(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(argv, done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def status(self) -> dict[str, Any]:
        """What ``qup status --json`` says about machine ``default``."""
        found: dict[str, Any] = json.loads(self("status", "--json").ok().stdout)["machines"][0]
        return found

    def qemus(self) -> list[int]:
        """Live processes of the fake."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(FAKE) in words and any(
                word.startswith(os.fsencode(self.folder)) for word in words
            ):
                found.append(int(entry.name))
        return found


def make_world(root: Path, text: str = QUPFILE, name: str = "project") -> World:
    """Make a world below a folder."""
    folder = root / name
    folder.mkdir()
    (folder / "Qupfile").write_text(text)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", folder / "base.qcow2", "1M"], check=True
    )
    bin_ = root / f"bin-{name}"
    bin_.mkdir()
    for program, script in (
        ("qemu-system-x86_64", f'#!/bin/sh\nexec "{sys.executable}" -E -S "{FAKE}" "$@"\n'),
        ("ssh", SSH),
    ):
        (bin_ / program).write_text(script)
        (bin_ / program).chmod(0o755)
    return World(folder, bin_)


def worlds(root: Path) -> Iterator[Callable[..., World]]:
    """For a fixture: a maker of worlds whose machines are gone afterwards."""
    made: list[World] = []

    def make(text: str = QUPFILE, name: str = "project") -> World:
        world = make_world(root, text, name)
        made.append(world)
        return world

    yield make
    for world in made:
        world.scenario = {}
        if (world.folder / ".qup").is_dir():
            world("destroy", "-y")
    # What qup can't end is the test's business, not a leak of qup's: tests look themselves.
    kill_leaks(*(str(world.folder) for world in made), patience=0.5)
