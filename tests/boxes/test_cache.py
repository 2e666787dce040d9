"""The user's cache of boxes: whole, by content, read-only, and safe to share."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from qup.boxes.cache import BoxCache
from qup.errors import BoxError, HostError
from qup.locks import lock
from qup.model.box import Box, BoxSpec

SPEC = BoxSpec("tiny", "tiny", "x86_64", "1.0", "key-1")
FILES = {"kernel": b"k" * 1000, "initrd": b"i" * 2000, "disk.qcow2": b"d" * 3000}


def fetch(files: Mapping[str, bytes] = FILES) -> Callable[[Path], Mapping[str, object]]:
    def run(into: Path) -> Mapping[str, object]:
        for name, data in files.items():
            (into / name).write_bytes(data)
        return {"made": "here"}

    return run


@pytest.fixture
def cache(tmp_path: Path) -> BoxCache:
    return BoxCache(tmp_path / "boxes")


def leftovers(cache: BoxCache) -> list[str]:
    return [name for name in os.listdir(cache.root) if name.startswith(".")]


def test_a_box_is_added_found_and_removed(cache: BoxCache) -> None:
    assert cache.boxes() == []
    assert cache.find(SPEC) is None
    box = cache.add(SPEC, fetch())
    assert cache.find(SPEC) == cache.get(box.digest) == box
    assert cache.boxes() == [box]
    assert box.details == {"made": "here"}
    assert box.size == 6000
    folder = cache.folder(box.digest)
    assert {path.name for path in folder.iterdir()} == {*FILES, "box.json"}
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in folder.iterdir())
    cache.check(box, thorough=True)
    assert leftovers(cache) == []
    cache.remove(box)
    assert cache.boxes() == []
    assert cache.find(SPEC) is None


def test_the_same_content_is_the_same_box(cache: BoxCache) -> None:
    one = cache.add(SPEC, fetch())
    again = cache.add(SPEC, fetch())
    assert again.digest == one.digest
    assert len(cache.boxes()) == 1
    other = cache.add(SPEC, fetch({**FILES, "kernel": b"other"}))
    assert other.digest != one.digest
    assert cache.find(SPEC) == other
    assert cache.get(one.digest) is not None, "machines that were made from it need it"


def test_a_newer_recipe_is_another_box(cache: BoxCache) -> None:
    cache.add(SPEC, fetch())
    assert cache.find(replace(SPEC, key="key-2")) is None


@pytest.mark.parametrize("missing", FILES)
def test_a_box_that_lacks_a_file_is_not_taken(cache: BoxCache, missing: str) -> None:
    files = {name: data for name, data in FILES.items() if name != missing}
    with pytest.raises(BoxError, match=missing):
        cache.add(SPEC, fetch(files))
    assert cache.boxes() == []
    assert leftovers(cache) == []


def test_a_box_with_more_in_it_is_not_taken(cache: BoxCache) -> None:
    with pytest.raises(BoxError, match="unexpected"):
        cache.add(SPEC, fetch({**FILES, "evil": b""}))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("no"),
                                   KeyboardInterrupt()])  # fmt: skip
def test_a_source_that_fails_leaves_nothing(cache: BoxCache, error: BaseException) -> None:
    def fail(into: Path) -> Mapping[str, object]:
        (into / "kernel").write_bytes(b"half")
        raise error

    expected = HostError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        cache.add(SPEC, fail)
    assert cache.boxes() == []
    assert leftovers(cache) == []


def tamper(box: Box, cache: BoxCache, name: str) -> Path:
    path = cache.folder(box.digest) / name
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_noticed(cache: BoxCache, name: str) -> None:
    box = cache.add(SPEC, fetch())
    data = FILES[name]
    path = tamper(box, cache, name)
    path.write_bytes(data + b"x")
    with pytest.raises(BoxError, match="changed"):
        cache.check(box)
    time.sleep(0.02)
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(BoxError, match="changed") as caught:
        cache.check(box)
    assert "box rm" in (caught.value.hint or "")
    path.unlink()
    with pytest.raises(BoxError, match="missing"):
        cache.check(box)


def test_a_change_with_the_old_time_is_seen_by_a_thorough_look(cache: BoxCache) -> None:
    box = cache.add(SPEC, fetch())
    path = tamper(box, cache, "kernel")
    info = path.stat()
    path.write_bytes(b"K" * 1000)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(BoxError, match="changed"):
        cache.check(box, thorough=True)


def test_a_touched_file_with_its_content_is_fine(cache: BoxCache) -> None:
    box = cache.add(SPEC, fetch())
    os.utime(tamper(box, cache, "kernel"))
    cache.check(box)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 9}', '{"schema": 1}'])
def test_a_damaged_manifest(cache: BoxCache, text: str) -> None:
    box = cache.add(SPEC, fetch())
    tamper(box, cache, "box.json").write_text(text)
    assert cache.boxes() == []
    for look in (lambda: cache.find(SPEC), lambda: cache.get(box.digest)):
        with pytest.raises(BoxError, match=r"box\.json") as caught:
            look()
        assert str(cache.folder(box.digest)) in (caught.value.hint or "")


def test_half_a_box_is_replaced(cache: BoxCache) -> None:
    """A crash between two renames, or somebody's rm."""
    box = cache.add(SPEC, fetch())
    (cache.folder(box.digest) / "box.json").unlink()
    assert cache.find(SPEC) is None
    assert cache.add(SPEC, fetch()) is not None
    cache.check(box, thorough=True)


def test_a_manifest_cannot_name_files_elsewhere(cache: BoxCache, tmp_path: Path) -> None:
    box = cache.add(SPEC, fetch())
    data = json.loads((cache.folder(box.digest) / "box.json").read_text())
    assert set(data["files"]) == set(FILES)
    assert Path(data["digest"]).name == data["digest"]


def test_many_at_once_make_one_box(cache: BoxCache) -> None:
    made: list[str] = []
    found: list[Box] = []

    def get() -> None:
        with lock(cache.lock_path, what="the cache", timeout=30.0):
            box = cache.find(SPEC)
            if box is None:
                made.append("made")
                time.sleep(0.2)
                box = cache.add(SPEC, fetch())
        found.append(box)

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["made"]
    assert len({box.digest for box in found}) == 1
    assert leftovers(cache) == []


def test_adds_at_once_without_a_lock_still_give_a_whole_box(cache: BoxCache) -> None:
    errors: list[BaseException] = []

    def add() -> None:
        try:
            cache.add(SPEC, fetch())
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box = cache.find(SPEC)
    assert box is not None
    cache.check(box, thorough=True)
    assert len(errors) <= 1  # the loser of a race may say so


def test_two_references_to_the_same_files(tmp_path: Path) -> None:
    cache = BoxCache(tmp_path / "boxes")

    def fetch(into: Path) -> dict[str, object]:
        (into / "boot.iso").write_bytes(b"x")
        return {"from": "here"}

    first = BoxSpec("./a.iso", "iso", "x86_64", "", "k1", disk=False, kernel=False, iso=True)
    second = replace(first, name="./b.iso", key="k2")
    assert cache.add(first, fetch).digest == cache.add(second, fetch).digest
    for spec in (first, second):
        found = cache.find(spec)
        assert found is not None
        assert (found.spec.name, found.spec.key) == (spec.name, spec.key)
