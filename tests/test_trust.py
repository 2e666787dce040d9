from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup import paths, trust
from qup.errors import HostError, StateError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "config" / "qup"
    monkeypatch.setenv("QUP_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def test_nothing_is_trusted_at_first(project: Path, config: Path) -> None:
    assert not trust.is_trusted(project, "1")
    trust.distrust(project)
    assert not config.exists()


def test_trust_is_for_one_project_and_one_content(project: Path, tmp_path: Path) -> None:
    trust.trust(project, "1")
    assert trust.is_trusted(project, "1")
    assert not trust.is_trusted(project, "2")
    assert not trust.is_trusted(tmp_path, "1")
    trust.trust(project, "2")
    assert not trust.is_trusted(project, "1")
    assert trust.is_trusted(project, "2")
    trust.distrust(project)
    assert not trust.is_trusted(project, "2")


def test_a_project_is_known_by_its_real_path(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    trust.trust(tmp_path / "link", "1")
    assert trust.is_trusted(project, "1")


@pytest.mark.parametrize("name", [b"a\nb", b"\xff\xfe", b'"', "é".encode()])
def test_any_folder_name_works(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    trust.trust(folder, "1")
    assert trust.is_trusted(folder, "1")


def test_the_file_is_the_users_own(project: Path, config: Path) -> None:
    old = os.umask(0)
    try:
        trust.trust(project, "1")
    finally:
        os.umask(old)
    assert config.stat().st_mode & 0o777 == 0o700
    for path in config.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(paths.trust_file().read_text()) == {str(project): "1"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"a": 1}', b"\xff", b"[" * 100_000, b"9" * 5000, b'"\\ud800"'],
    ids=lambda content: repr(content[:8]),
)
def test_a_damaged_file_trusts_nothing_and_is_kept(
    project: Path, config: Path, content: bytes
) -> None:
    config.mkdir(parents=True)
    paths.trust_file().write_bytes(content)
    assert not trust.is_trusted(project, "1")
    with pytest.raises(StateError, match="damaged") as caught:
        trust.trust(project, "1")
    assert caught.value.hint is not None
    with pytest.raises(StateError, match="damaged"):
        trust.distrust(project)
    assert paths.trust_file().read_bytes() == content


def test_a_folder_in_place_of_the_file(project: Path, config: Path) -> None:
    paths.trust_file().mkdir(parents=True)
    assert not trust.is_trusted(project, "1")
    with pytest.raises(HostError, match="can't read"):
        trust.trust(project, "1")


def test_a_full_disk_keeps_what_was_there(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.trust(project, "1")

    def fail(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HostError, match="No space left"):
        trust.trust(tmp_path, "1")
    assert trust.is_trusted(project, "1")
    assert {path.name for path in paths.trust_file().parent.iterdir()} == {
        "trust.json",
        "trust.json.lock",
    }


def _trust_many(folder: str, names: list[str]) -> None:
    for name in names:
        trust.trust(Path(folder, name), name)


@pytest.fixture
def workers() -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started: list[multiprocessing.process.BaseProcess] = []
    yield started
    for worker in started:
        worker.kill()
        worker.join()


def test_writers_at_once_lose_nothing(
    tmp_path: Path, workers: list[multiprocessing.process.BaseProcess]
) -> None:
    context = multiprocessing.get_context("spawn")
    groups = [[f"p{group}-{number}" for number in range(10)] for group in range(4)]
    for names in groups:
        workers.append(context.Process(target=_trust_many, args=(str(tmp_path), names)))
        workers[-1].start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert all(trust.is_trusted(tmp_path / name, name) for names in groups for name in names)
