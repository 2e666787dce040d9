"""What tests of first-party plugins get: the same sandbox as qup's own, and the plugins.

Tests marked ``vm`` may use ``qup`` and ``vm_project`` as well.
"""

# ruff: noqa: INP001  pytest imports it by file

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import (
    project,
    pytest_collection_modifyitems,
    qup,
    sandbox,
    sandboxes,
    vm_cache,
    vm_project,
)
from tests.vm.conftest import debian_cache

__all__ = [
    "debian_cache",
    "project",
    "pytest_collection_modifyitems",
    "qup",
    "sandbox",
    "sandboxes",
    "vm_cache",
    "vm_project",
]

# Also a plugin that is not installed (yet) can be imported by its tests.
sys.path += [str(path.parent) for path in Path(__file__).parent.glob("*/pyproject.toml")]
