"""Where a Debian is unpacked: what was left by `kill -9` goes, and what is in use stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qup.builtin.debian.workplace import (
    PREFIX,
    find_mounts,
    in_namespace,
    open_workplace,
    remove,
    sweep,
)
from tests.conftest import ROOT


def test_a_workplace_is_gone_at_the_end(tmp_path: Path) -> None:
    with open_workplace(tmp_path) as place:
        (place.folder / "root" / "etc").mkdir(parents=True)
        (place.folder / "root" / "etc" / "passwd").write_text("root")
        assert place.folder.stat().st_mode & 0o7777 == 0o1777
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_behind_is_removed(tmp_path: Path) -> None:
    """Whoever used it was killed, and so was everything that had the lock from it."""
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from qup.builtin.debian.workplace import open_workplace\n"
        "with open_workplace(Path(sys.argv[1])) as place:\n"
        "    (place.folder / 'half').write_text('a root')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )  # fmt: skip
    assert done.returncode == -9
    [left] = tmp_path.iterdir()
    assert (left / "half").exists()
    other = tmp_path / "somebody-elses"
    other.mkdir()
    with open_workplace(tmp_path) as place:
        assert not left.exists()
        assert place.folder.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    """Also when only a program that was started has the lock still."""
    with open_workplace(tmp_path) as place:
        handle = os.dup(place.handle)
        sweep(tmp_path)
        assert place.folder.exists()
        kept = tmp_path / f"{PREFIX}kept"
        place.folder.rename(kept)
    sweep(tmp_path)
    assert kept.exists()
    os.close(handle)
    sweep(tmp_path)
    assert not kept.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    sweep(tmp_path)
    assert target.exists()


@pytest.mark.root
def test_what_is_mounted_is_not_emptied(tmp_path: Path) -> None:
    """A bind mount in what was left behind is undone; the folder that it shows stays whole."""
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "precious").write_text("data")
    left = tmp_path / f"{PREFIX}left"
    inner = left / "root" / "with space"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "--bind", shown, inner], check=True)
    try:
        assert find_mounts(left) == [str(inner)]
        remove(left)
    finally:
        subprocess.run(["umount", inner], check=False, capture_output=True)
    assert not left.exists()
    assert (shown / "precious").read_text() == "data"


@pytest.mark.root
def test_roots_mounts_are_nobody_elses(tmp_path: Path) -> None:
    words = in_namespace()
    assert words
    script = 'mount -t tmpfs none "$1" && touch "$1/seen" && ls "$1"'
    done = subprocess.run([*words, "sh", "-c", script, "sh", tmp_path], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout == "seen\n"
    assert list(tmp_path.iterdir()) == []
