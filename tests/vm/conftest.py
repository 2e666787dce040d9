"""Labs: projects with real machines."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sandbox
from tests.vm.lab import WARM, Lab, copy_tiny, make_box, open_lab


@pytest.fixture
def lab(vm_cache: Path) -> Iterator[Lab]:
    """A project of one small machine that has not been started."""
    with open_lab(vm_cache) as made:
        yield made


@pytest.fixture(scope="module")
def shared(vm_cache: Path) -> Iterator[Lab]:
    """A project whose one small machine is up, for all tests of a module; a template spares its
    first boot.
    """
    with open_lab(vm_cache) as made:
        made("up", env=WARM).ok()
        yield made


@pytest.fixture(scope="module")
def cache(vm_cache: Path, sandboxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a module's own, with box ``tiny`` in it and no templates.

    For tests that count templates, break or remove them, or that other tests' machines disturb.
    """
    make_box(vm_cache, "tiny", make_sandbox(sandboxes))
    folder = tmp_path_factory.mktemp("cache")
    copy_tiny(vm_cache, folder, link_or_copy)
    return folder


def link_or_copy(source: str, target: str) -> None:
    """Boxes are never written to; the folder for tests may be on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
    make_box(vm_cache, "debian/12", make_sandbox(sandboxes))
    assert describe_lists() == before, "making a box has changed this computer's own apt"
    return vm_cache


def make_sandbox(sandboxes: Path) -> Sandbox:
    """A home for making a box."""
    return Sandbox(Path(tempfile.mkdtemp(prefix="b", dir=sandboxes)))


def describe_lists() -> dict[str, tuple[int, int]]:
    """What this computer's apt knows of its sources: sizes and times, without the lock."""
    files = Path("/var/lib/apt/lists").glob("*_*")
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
