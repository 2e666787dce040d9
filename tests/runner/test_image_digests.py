"""Images of the user's that a guest only reads: they are read once, and again when they change."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from qup.model.plan import Disk, Plan
from qup.paths import Project
from qup.runner import image_digests
from qup.runner.image_digests import digest_images
from tests.templates.test_key import PLAN


def plan_of(*names: str, read_only: bool = True) -> Plan:
    disks = [Disk(f"disk-{n}", n, "raw", image=n, read_only=read_only) for n in names]
    return replace(PLAN, disks=(*PLAN.disks, *disks))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "a.img").write_bytes(b"one")
    (tmp_path / "cache").mkdir()
    return Project(tmp_path)


def test_an_image_is_read_once_and_again_when_it_changes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, image = project.root / "cache", project.root / "a.img"
    found = digest_images(project, cache, plan_of("a.img"))
    assert found == (("a.img", hashlib.sha256(b"one").hexdigest()),)
    info = image.stat()
    image.write_bytes(b"two")
    os.utime(image, ns=(info.st_atime_ns, info.st_mtime_ns))  # whoever says it is as it was
    changed = digest_images(project, cache, plan_of("a.img"))
    assert changed == (("a.img", hashlib.sha256(b"two").hexdigest()),)
    monkeypatch.setattr(image_digests, "_hash", None)
    assert digest_images(project, cache, plan_of("a.img")) == changed


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1}'])
def test_a_damaged_memory_is_none(project: Project, damage: str) -> None:
    cache = project.root / "cache"
    (cache / "images.json").write_text(damage)
    assert len(digest_images(project, cache, plan_of("a.img"))) == 1


def test_what_is_left_out(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = project.root / "cache"
    assert digest_images(project, cache, plan_of("a.img", read_only=False)) == ()
    assert digest_images(project, cache, plan_of("none.img")) == ()
    monkeypatch.setattr(image_digests, "LIMIT", 2)
    assert digest_images(project, cache, plan_of("a.img")) == ()
    assert not (cache / "images.json").exists()
