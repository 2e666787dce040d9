"""What the documentation says of real machines: the tutorial runs, and files are as listed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.docs.pages import ROOT, find_code

TUTORIAL = ROOT / "docs" / "tutorial" / "first-machine.md"
PAGE_TEXT = b"hello from a machine\n"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Types a line into a shell in which ``qup`` is the qup of this tree."""
    program = tmp_path / "bin" / "qup"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qup "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.mark.vm
def test_the_first_machine(vm_project: Callable[..., Path], shell: Callable[[str], str]) -> None:
    qupfile = vm_project("") / "Qupfile"
    qupfile.unlink()
    written = False
    for block in find_code(TUTORIAL):
        if block.language == "toml" and not written:
            assert tomllib.loads(block.text) == tomllib.loads(qupfile.read_text())
            written = True
        elif block.language == "toml":
            qupfile.write_text(block.text)
        for line in block.text.splitlines():
            if block.language == "console" and line.startswith("$ "):
                shell(line[2:])
                if line == "$ qup port list":
                    assert fetch(json.loads(shell("qup port list --json"))) == PAGE_TEXT
                if line == "$ qup reload":
                    assert shell("qup ssh -- cat www/index.html").encode() == PAGE_TEXT
    assert json.loads(shell("qup list --json"))["machines"] == []


def fetch(ports: dict[str, Any]) -> bytes:
    (port,) = [item["host"] for item in ports["forwards"] if item["guest"] == 8000]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        return bytes(answer.read())


QUPFILE = """
[machine]
memory = "256M"
[[machine.provision]]
shell = "echo provisioned"
"""


@pytest.mark.vm
def test_files_on_disk_are_documented(project: Callable[..., Path], sandbox: Any, qup: Any) -> None:
    """With a cache of its own: in the shared one other tests are at work."""
    folder = project(QUPFILE)
    qup("up").ok()
    qup("console").ok()
    qup("trust").ok()
    variables = sandbox.variables()
    places = {
        folder: "",
        Path(variables["QUP_RUNTIME_DIR"]): "ID/",
        Path(os.environ["QUP_CACHE_DIR"]): "",
        Path(variables["QUP_STATE_DIR"]): "",
        Path(variables["QUP_CONFIG_DIR"]): "",
    }
    patterns = documented_files()
    unknown = []
    for place, prefix in places.items():
        for path in place.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                continue
            name = str(path.relative_to(place))
            name = re.sub(r"^[0-9a-f]{12}/", "", name) if prefix else name
            if not any(pattern.fullmatch(name) for pattern in patterns):
                unknown.append(name)
    assert not unknown


def documented_files() -> list[re.Pattern[str]]:
    """The paths of the page, with what stands in capitals as anything."""
    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    patterns = []
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = ".qup/machines/NAME/" if line.startswith("## A machine") else ""
        if line.startswith("| `"):
            for word in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                pattern = re.escape(section + word).replace(r"\-", "-")
                patterns.append(re.compile(re.sub(r"\b(SOURCE-KEY|KEY|NAME|ID|DIGEST|N)\b", "[^/]+",
                                                  pattern)))  # fmt: skip
    return patterns
