"""The cache of templates: what is found, what is noticed, what is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qup.errors import TemplateError
from qup.templates.cache import MANIFEST, TemplateCache
from qup.templates.template import DISK, RAM, STATE, Template, find_difference

BOOT = "a-boot"
KEY = "0" * 32


def make(cache: TemplateCache, template_id: str, key: str = KEY, **visible: Any) -> Template:
    folder = cache.making_folder(key) / "web"
    folder.mkdir(parents=True)
    for name, size in ((RAM, 4096), (STATE, 100), (DISK, 512)):
        (folder / name).write_bytes(os.urandom(size))
    template = Template(
        template_id, key, {"box_digest": "b", **visible}, "tiny", "b", {}, boot_id=BOOT
    )
    made = cache.publish(folder, template)
    cache.making_folder(key).rmdir()
    return made


@pytest.fixture
def cache(tmp_path: Path) -> TemplateCache:
    return TemplateCache(tmp_path / "templates")


def test_what_is_published_is_found_and_sound(cache: TemplateCache) -> None:
    assert cache.current(KEY) is None
    made = make(cache, "0123456789ab")
    assert cache.current(KEY) == made
    assert cache.templates() == [made]
    assert cache.is_current(made)
    cache.check(made, BOOT)
    assert (cache.root.stat().st_mode & 0o777) == 0o700
    assert cache.size(made) > 4096


def test_a_newer_one_takes_the_place(cache: TemplateCache) -> None:
    old, new = make(cache, "0123456789ab"), make(cache, "ba9876543210")
    assert cache.current(KEY) == new
    assert not cache.is_current(old)
    assert cache.templates() == [new, old]


def flip(path: Path) -> None:
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)


def touch(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes())


@pytest.mark.parametrize("name", [RAM, STATE, DISK])
@pytest.mark.parametrize("damage", [cut, touch, Path.unlink])
def test_damage_is_noticed(
    cache: TemplateCache, name: str, damage: Callable[[Path], object]
) -> None:
    made = make(cache, "0123456789ab")
    damage(cache.folder(made.id) / name)
    with pytest.raises(TemplateError, match=name):
        cache.check(made, BOOT)


def test_further_disks_and_variables_are_a_part_of_it(cache: TemplateCache) -> None:
    made = make(cache, "0123456789ab")
    place = cache.folder(made.id)
    again = cache.making_folder(KEY) / "web"
    again.mkdir(parents=True)
    for name in (RAM, STATE, DISK, "disk-data.qcow2", "vars.qcow2"):
        (again / name).write_bytes((place / DISK).read_bytes())
    more = cache.publish(again, replace(made, id="ab0123456789", files={}))
    assert set(more.files) == {RAM, STATE, DISK, "disk-data.qcow2", "vars.qcow2"}
    cache.check(more, more.boot_id)
    (cache.folder(more.id) / "disk-data.qcow2").unlink()
    with pytest.raises(TemplateError, match=r"disk-data\.qcow2 is missing"):
        cache.check(more, more.boot_id)


def test_a_flipped_bit_of_the_state_is_noticed(cache: TemplateCache) -> None:
    made = make(cache, "0123456789ab")
    flip(cache.folder(made.id) / STATE)
    with pytest.raises(TemplateError, match="state was changed"):
        cache.check(made, BOOT)


def test_after_a_crash_only_what_was_flushed_counts(
    cache: TemplateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(cache, "0123456789ab")
    cache.settle(made)  # too early: it would take its time
    with pytest.raises(TemplateError, match="went down"):
        cache.check(made, "another boot")
    monkeypatch.setattr("qup.templates.cache.WRITTEN_AFTER", 0.0)
    cache.settle(made)
    cache.check(made, "another boot")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": 99}', "[" * 100_000])
def test_a_damaged_manifest(cache: TemplateCache, content: str) -> None:
    made = make(cache, "0123456789ab")
    (cache.folder(made.id) / MANIFEST).write_text(content)
    assert cache.templates() == []
    with pytest.raises(TemplateError, match="damaged") as caught:
        cache.current(KEY)
    assert caught.value.hint


def test_what_is_set_aside_stays_but_is_not_used(cache: TemplateCache) -> None:
    made = make(cache, "0123456789ab")
    cache.set_aside(made, "it hung")
    assert cache.current(KEY) is None
    assert cache.aside_reason(made) == "it hung"
    assert cache.templates() == [made]
    cache.remove(made)
    assert cache.templates() == []
    assert not cache.folder(made.id).exists()


def test_what_could_not_be_made_is_remembered_for_a_while(
    cache: TemplateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.refuse(KEY, "no serial port")
    assert cache.refusal(KEY) == "no serial port"
    assert cache.refusal("1" * 32) is None
    monkeypatch.setattr("qup.templates.cache.REFUSAL_LIFETIME", -1.0)
    assert cache.refusal(KEY) is None
    monkeypatch.undo()
    cache.forget_refusals()
    assert cache.refusal(KEY) is None


@pytest.mark.parametrize("word", ["", ".", "..", "../../x", "0123456789AB", "0123456789abc"])
def test_an_id_from_elsewhere_is_no_path(cache: TemplateCache, word: str) -> None:
    with pytest.raises(TemplateError):
        cache.folder(word)


def test_the_difference_is_told_in_words(cache: TemplateCache) -> None:
    make(cache, "0123456789ab", qemu="1", cpus=1, memory_mib=256)
    make(cache, "ba9876543210", "1" * 32, qemu="2", cpus=2, memory_mib=512)
    wanted = {"box_digest": "b", "qemu": "3", "cpus": 2, "memory_mib": 512}
    assert find_difference(wanted, cache.templates()) == "QEMU"
    assert find_difference({**wanted, "box_digest": "c"}, cache.templates()) is None
