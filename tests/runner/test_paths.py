"""Projects in folders with names that somebody's parser could stumble over."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.world import World

NAMES = [
    " ", "a b", "a,b", "a,,b=c", "a=b", "'", '"', "$(touch owned)", "`touch owned`", "%h%%n%",
    "${HOME}", "-rf", "--help", "new\nline", "tab\t", ";&|<>", "\\", "*?[1]", "#x", "a:b",
    "nbd:unix:x", "json:{}", "ünïcødé", "日本", "\N{CRAB}", "\u202eleft", "\x1b[31m", "~",
    ".hidden", "x" * 200,
]  # fmt: skip


@pytest.mark.parametrize("names", [NAMES[:15], NAMES[15:]], ids=["one", "two"])
def test_up_and_gone_again(make_world: Callable[..., World], names: list[str]) -> None:
    world = make_world()
    here = world.folder
    for name in names:
        folder = here.with_name(name)
        here.rename(folder)
        moved = World(folder, world.bin)
        try:
            done = moved("up").ok()
            assert "\x1b" not in done.stdout + done.stderr, name
            (listed,) = json.loads(moved("list", "--json").ok().stdout)["machines"]
            assert listed["project"] == str(folder)
            assert listed["status"] == "running", name
            moved("destroy", "-y").ok()
            assert moved.qemus() == [], name
        finally:
            folder.rename(here)
    assert not any(path.name == "owned" for path in here.parent.rglob("owned"))
    assert not (Path.cwd() / "owned").exists()


def test_a_name_that_is_no_utf8_is_refused(make_world: Callable[..., World]) -> None:
    world = make_world()
    folder = Path(os.fsdecode(os.fsencode(world.folder) + b"\xff\xfe"))
    world.folder.rename(folder)
    moved = World(folder, world.bin)
    done = moved("up")
    assert done.code == 5, done
    assert "UTF-8" in done.stderr
    assert "hint: " in done.stderr
    for words in (("status",), ("list",), ("status", "--json"), ("down",), ("destroy", "-y")):
        moved(*words).ok()
    folder.rename(world.folder)
