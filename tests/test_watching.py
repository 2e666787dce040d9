"""Being told of changes: every kind of them, in folders that were there and in new ones."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qup import watching
from qup.watching import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "new").touch(),
        lambda folder: (folder / "old").write_text("more"),
        lambda folder: (folder / "old").chmod(0o755),
        lambda folder: (folder / "old").unlink(),
        lambda folder: (folder / "old").rename(folder / "other"),
        lambda folder: (folder / "sub").mkdir(),
        lambda folder: (folder / "link").symlink_to("x"),
    ],
)
def test_changes_are_told(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "old").touch()
    with Watch() as watch:
        assert watch.cover([os.fsencode(tmp_path)])
        assert not watch.cover([os.fsencode(tmp_path)])
        assert not watch.wait(0.0)
        change(tmp_path)
        assert watch.wait(10.0)
        assert not watch.wait(0.0)


def test_a_folder_that_vanished_is_no_trouble(tmp_path: Path) -> None:
    with Watch() as watch:
        watch.cover([os.fsencode(tmp_path), os.fsencode(tmp_path / "gone")])
        assert not watch.blind
        (tmp_path / "x").touch()
        assert watch.wait(10.0)


def test_without_watches_left_one_looks_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "POLL", 0.01)
    with Watch() as watch:
        watch._give_up(errno.ENOSPC)
        assert "max_user_watches" in watch.blind
        assert not watch.cover([os.fsencode(tmp_path)])
        assert watch.wait(5.0)
