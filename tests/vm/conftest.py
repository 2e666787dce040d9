"""Labs: projects with real machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import Lab, open_lab


@pytest.fixture
def lab(vm_cache: Path) -> Iterator[Lab]:
    """A project of one small machine that has not been started."""
    with open_lab(vm_cache) as made:
        yield made
