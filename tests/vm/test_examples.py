"""The examples do what their READMEs say, word by word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.docs.pages import ROOT, find_code
from tests.vm.lab import Lab, open_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/README.md"))
HEAVY = {"docker-host", "ansible-role"}
"""Those that need Debian and a plugin: a test of the plugin's runs them."""


def steps(example: Path) -> Iterator[tuple[str, str | None]]:
    """What is typed, and what the page shows of its output; None if it shows nothing."""
    for block in find_code(example / "README.md"):
        if block.language != "console":
            continue
        line, shown = "", ""
        for text in block.text.splitlines():
            if not text.startswith("$ "):
                shown += text + "\n"
                continue
            if line:
                yield line, shown or None
            line, shown = text[2:], ""
        yield line, shown or None


def type_line(lab: Lab, line: str) -> str:
    """Type a line into a shell in which ``qup`` is the qup of this tree."""
    program = lab.box.root / "bin" / "qup"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qup "$@"\n')
        program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=lab.folder,
        env={**os.environ, **lab.env, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "example", [path for path in EXAMPLES if path.name not in HEAVY], ids=lambda path: path.name
)
def test_an_example(example: Path, vm_cache: Path) -> None:
    with open_lab(vm_cache, templates=True) as lab:
        shutil.copytree(example, lab.folder, dirs_exist_ok=True)
        for line, shown in steps(example):
            said = type_line(lab, line)
            assert shown is None or said == shown, line


def test_the_list_is_whole() -> None:
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert [path for path in EXAMPLES if f"({path.name}/README.md)" not in text] == []
