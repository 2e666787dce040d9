"""What ``qup run`` refuses before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Qup, Sandbox

PRIVATE = "[machines.web]\nnetwork.mode = 'private'\n"
IMAGE = "[machines.web]\n[[machines.web.disks]]\nimage = 'x.qcow2'\n"


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        (PRIVATE, (), 4, "would take its place"),
        (IMAGE, (), 4, "would stay"),
        ("[machines.a]\n[machines.b]\n", (), 2, "several machines"),
        ("", ("nosuch",), 2, "there is no machine 'nosuch'"),
        ("", ("--box", "tiny", "web"), 2, "don't go together"),
        ("", ("--sync", "nosuch"), 2, "no such folder"),
        ("", ("--memory", "2X"), 4, "memory"),
        ("bad = 1\n", (), 4, "bad"),
    ],
)
def test_refusals(
    text: str,
    words: tuple[str, ...],
    code: int,
    said: str,
    project: Callable[..., Path],
    qup: Qup,
    sandbox: Sandbox,
) -> None:
    project(text)
    done = qup("run", *words, "--", "true")
    assert (done.code, done.stdout) == (code, ""), str(done)
    assert said in done.stderr
    assert not [*sandbox.home.glob("qup/state/runs/*/")]


def test_a_machine_without_a_project(qup: Qup) -> None:
    done = qup("run", "web", "--", "true")
    assert done.code == 4
    assert "a command goes behind '--'" in done.stderr
