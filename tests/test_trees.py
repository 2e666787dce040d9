"""Looking at a folder: what is left out, what can't be copied, and names of any bytes."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from qup import trees
from qup.errors import HostError
from qup.trees import Excludes, scan_tree

NOTHING = Excludes(())


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("*.log", ["a.log", "x/y/b.log", ".log"], ["a.log.1", "log"]),
        ("/build", ["build"], ["x/build", "build2"]),
        ("doc/*.txt", ["doc/a.txt"], ["x/doc/a.txt", "doc/x/a.txt"]),
        ("**/tmp", ["tmp", "a/b/tmp"], ["tmp2"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["az"]),
        ("?.o", ["x.o", "d/y.o"], ["xx.o", "d/.o"]),
        ("[a]", ["[a]"], ["a"]),
    ],
)
def test_patterns(pattern: str, matched: list[str], not_matched: list[str]) -> None:
    excludes = Excludes([pattern])
    for name in matched:
        assert excludes.match(name.encode(), folder=False), name
    for name in not_matched:
        assert not excludes.match(name.encode(), folder=False), name


def test_patterns_for_folders_only_and_what_is_in_them() -> None:
    excludes = Excludes(["node_modules/", "/out"])
    assert excludes.match(b"a/node_modules", folder=True)
    assert not excludes.match(b"a/node_modules", folder=False)
    assert excludes.cover(b"a/node_modules/x/y", folder=False)
    assert excludes.cover(b"out/x", folder=False)
    assert excludes.cover(b"x/.qup/key", folder=False)
    assert not excludes.cover(b"a/outer", folder=False)


def test_a_tree_has_all_that_can_be_copied(tmp_path: Path) -> None:
    os.mkdir(tmp_path / ".qup")
    (tmp_path / ".qup" / "key").touch()
    (tmp_path / "sub" / ".qup").mkdir(parents=True)
    (tmp_path / "sub" / "x").write_text("12")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to(".")
    odd = [b"a b", b"new\nline", b"bad\xff", b"-rf", b"'\"$(x)"]
    for name in odd:
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "sock"))
    tree = scan_tree(tmp_path, NOTHING)
    assert set(tree.entries) == {b"sub", b"sub/x", b"dangling", b"circle", *odd}
    assert {tree.entries[name][:1] for name in odd} == {b"f"}
    assert (tree.entries[b"sub"][:1], tree.entries[b"circle"][:1]) == (b"d", b"l")
    assert list(tree.entries).index(b"sub") < list(tree.entries).index(b"sub/x")
    assert str(tree.special) in (
        "'pipe' (a pipe), 'sock' (a socket)", "'sock' (a socket), 'pipe' (a pipe)"
    )  # fmt: skip
    assert tree.unreadable.count == 0


def test_stamps_change_with_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("a")
    os.utime(path, ns=(1, 1))
    seen = {scan_tree(tmp_path, NOTHING).entries[b"x"]}
    os.utime(path, ns=(1, 2))
    seen.add(scan_tree(tmp_path, NOTHING).entries[b"x"])
    path.chmod(0o755)
    seen.add(scan_tree(tmp_path, NOTHING).entries[b"x"])
    assert len(seen) == 3


def test_a_folder_that_is_not_there_and_one_with_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostError, match="can't read"):
        scan_tree(tmp_path / "gone", NOTHING)
    for number in range(12):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(trees, "MAX_ENTRIES", 10)
    with pytest.raises(HostError, match=re.escape("more than 10 files")):
        scan_tree(tmp_path, NOTHING)


def test_leftovers_name_a_few(tmp_path: Path) -> None:
    for number in range(8):
        os.mkfifo(tmp_path / f"p{number}")
    text = str(scan_tree(tmp_path, NOTHING).special)
    assert text.count("a pipe") == 5
    assert text.endswith("and 3 more")


def test_progress_of_a_long_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    told: list[int] = []
    monkeypatch.setattr(trees, "REPORT_EVERY", 0.0)
    scan_tree(tmp_path, NOTHING, told.append)
    assert told == [1, 1]
