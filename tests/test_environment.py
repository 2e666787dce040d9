"""``[machine.env]``: what it may be, and the script that a guest gets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qup.guest.ssh import with_environment
from qup.model.environment import check_environment, render_environment
from qup.paths import SshFolder
from tests.conftest import Qup

AWKWARD = {
    "PLAIN": "word",
    "QUOTES": """it's "so" $HOME `id` \\n""",
    "LINES": "one\ntwo\n",
    "EMPTY": "",
    "UMLAUT": "Größe",
}


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_any_value_arrives(shell: str) -> None:
    script = render_environment(AWKWARD)
    assert script.startswith("# Made by qup")
    for name, value in AWKWARD.items():
        done = subprocess.run(
            [shell, "-c", f'{script}printf %s "${name}"'], capture_output=True, text=True
        )
        assert done.stdout == value


def test_no_variables_are_no_script() -> None:
    assert render_environment({}) == ""


def test_numbers_are_text() -> None:
    assert check_environment({"PORT": 80}) == {"PORT": "80"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"a-b" = "x"', "not the name of a variable"),
        ('UID = "1"', "the shell's own"),
        ("A = true", "A"),
        ("A = [1]", "A"),
        (f'A = "{"x" * 99000}"', "more than 96 KiB"),
    ],
)
def test_what_can_not_be_a_variable(
    qup: Qup, project: Callable[..., Path], line: str, words: str
) -> None:
    project(f"[machine.env]\n{line}\n")
    done = qup("validate")
    assert (done.code, words in done.stderr) == (4, True), done


def test_a_machine_adds_to_what_all_have(qup: Qup, project: Callable[..., Path]) -> None:
    project('[machine.env]\nA = "1"\nB = "1"\n[machines.web.env]\nB = 2\n')
    done = qup("plan", "--explain").ok()
    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["env"]]
    assert '"A": "1"' in line.replace("'", '"')
    assert '"B": "2"' in line.replace("'", '"')


def test_commands_have_the_variables(tmp_path: Path) -> None:
    keys = SshFolder(tmp_path)
    assert with_environment(keys, ["echo", "a b"]) == ["echo", "a b"]
    keys.environment.write_text("export A=''\n")
    assert with_environment(keys, []) == []
    (word,) = with_environment(keys, ["echo", "a b"])
    assert word.endswith("; echo 'a b'")
    (word,) = with_environment(keys, ["echo a b"])
    assert word.endswith("; echo a b")
