"""Plugins, built in or not, see nothing of qup but ``qup.api``."""

from __future__ import annotations

import ast
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
