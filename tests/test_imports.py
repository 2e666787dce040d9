"""Plugins, built in or not, see nothing of qup but ``qup.api``; and no verb loads what it can do
without.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILTIN = ROOT / "qup" / "builtin"
FIRST_PARTY = ROOT / "plugins"


def find_modules() -> list[Path]:
    found = [*BUILTIN.rglob("*.py"), *FIRST_PARTY.rglob("*.py")]
    return sorted(
        path.relative_to(ROOT)
        for path in found
        if "tests" not in path.parts and path.name != "conftest.py"
    )


def imports_of(path: Path) -> set[str]:
    """What a module imports, anywhere in it, also for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "qup":
            found |= {f"qup.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name == "qup" or name.startswith("qup.")}


@pytest.mark.parametrize("path", find_modules(), ids=str)
def test_a_plugin_imports_the_api_alone(path: Path) -> None:
    found = imports_of(path)
    if path.is_relative_to("qup/builtin"):
        # One plugin may be several modules.
        found = {name for name in found if not name.startswith("qup.builtin.")}
    assert found <= {"qup.api"}


SLOW = (
    "cryptography", "decimal", "http.client", "importlib.metadata", "pluggy", "pycdlib",
    "pydantic", "rich",
    "qup.model.config", "qup.planner", "qup.plugins", "qup.qupfile",
)  # fmt: skip
"""What is for reading a Qupfile, for planning and for making: each some or many milliseconds."""


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "list",
        "ssh-config",
        "ip",
        "logs",
        "down",
        "kill",
        "destroy -y",
        "suspend",
        "snapshot list",
    ],
)
def test_a_verb_that_needs_no_qupfile_loads_nothing_slow(
    words: str, project: Callable[..., Path]
) -> None:
    project("[machine]\n")
    code = (
        "import sys; from qup.cli.main import run; run(sys.argv[2:]);"
        "print(*set(sys.argv[1].split()) & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(SLOW), *words.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == ""
