"""Labs: projects with real machines."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sandbox
from tests.vm.lab import Lab, make_box, open_lab


@pytest.fixture
def lab(vm_cache: Path) -> Iterator[Lab]:
    """A project of one small machine that has not been started."""
    with open_lab(vm_cache) as made:
        yield made


@pytest.fixture(scope="session")
def debian_cache(vm_cache: Path, sandboxes: Path) -> Path:
    """The shared cache, with box ``debian/12`` in it.

    Whoever needs it first makes it (a minute or two), the others wait for that one alone: tests
    with other boxes go on meanwhile. Give tests with this fixture the time for it.
    """
    for program in ("mmdebstrap", "mke2fs"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"box debian is made with {program}, which is not installed")
    before = describe_lists()
    make_box(vm_cache, "debian/12", Sandbox(Path(tempfile.mkdtemp(prefix="b", dir=sandboxes))))
    assert describe_lists() == before, "making a box has changed this computer's own apt"
    return vm_cache


def describe_lists() -> dict[str, tuple[int, int]]:
    """What this computer's apt knows of its sources: sizes and times, without the lock."""
    files = Path("/var/lib/apt/lists").glob("*_*")
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
