"""``qup docker env``, byte by byte; and what real shells make of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from qup_docker.shells import (
    SHELLS,
    add_to_no_proxy,
    find_no_proxy,
    find_shell,
    write_hint,
    write_removal,
    write_settings,
)

from qup.api import QupError

VARIABLES = {
    "DOCKER_TLS_VERIFY": "1",
    "DOCKER_HOST": "tcp://127.0.0.1:40001",
    "DOCKER_CERT_PATH": "/home/me/project/.qup/machines/web/provisioners/docker",
    "DOCKER_MACHINE_NAME": "web",
}
COMMAND = ("qup", "docker", "env", "web")
GOLDEN = Path(__file__).parent / "golden"
"""As docker-machine 0.16 has it (commands/env.go), but for the command and the folder."""


@pytest.mark.parametrize("name", SHELLS)
def test_bytes(name: str) -> None:
    shell = find_shell(name)
    hint = write_hint(shell, COMMAND)
    file = "bash" if name in ("sh", "zsh") else name
    setting = (GOLDEN / f"{file}.txt").read_bytes()
    removal = (GOLDEN / f"{file}-unset.txt").read_bytes()
    assert (write_settings(shell, VARIABLES) + hint).encode() == setting
    assert (write_removal(shell, list(VARIABLES)) + hint).encode() == removal


def test_other_names_of_shells() -> None:
    assert find_shell("pwsh") is SHELLS["powershell"]
    assert find_shell("PowerShell.exe") is SHELLS["powershell"]
    assert find_shell("csh") is SHELLS["tcsh"]
    assert find_shell("ksh") is SHELLS["bash"]


def test_hints_for_commands_with_spaces() -> None:
    hint = write_hint(SHELLS["bash"], [r"C:\Program Files\qup.exe", "docker", "env"])
    assert hint.endswith('# eval $("C:\\Program Files\\qup.exe" docker env)\n')
    hint = write_hint(SHELLS["bash"], ["qup", "-C", "a b/$x", "docker", "env"])
    assert hint.endswith("# eval $(qup -C 'a b/$x' docker env)\n")


def test_no_proxy() -> None:
    assert find_no_proxy({}) == "NO_PROXY"
    assert add_to_no_proxy({}, "10.1.2.3") == ("NO_PROXY", "10.1.2.3")
    assert add_to_no_proxy({"NO_PROXY": "a,b"}, "10.1.2.3") == ("NO_PROXY", "a,b,10.1.2.3")
    assert add_to_no_proxy({"no_proxy": "a", "NO_PROXY": "b"}, "c") == ("no_proxy", "a,c")
    assert add_to_no_proxy({"no_proxy": "", "NO_PROXY": "b"}, "c") == ("NO_PROXY", "b,c")
    assert add_to_no_proxy({"no_proxy": "a, c"}, "c") == ("no_proxy", "a, c")
    # docker-machine took one address for a part of another.
    assert add_to_no_proxy({"no_proxy": "127.0.0.10"}, "127.0.0.1")[1] == "127.0.0.10,127.0.0.1"


# --- names that mean something --------------------------------------------------------------

AWKWARD = [
    "/home/me/a b",
    "/srv/$HOME/$(touch pwned)/`touch pwned`",
    '/srv/"quoted"/it\'s',
    "/srv/back\\slash\\",
    "/srv/wow!/%PATH%;#x",
    "/srv/ünïcode",
]
RUN = {
    "bash": ["bash", "-c"],
    "sh": ["sh", "-c"],
    "zsh": ["zsh", "-f", "-c"],
    "fish": ["fish", "--no-config", "-c"],
    "tcsh": ["tcsh", "-f", "-c"],
}
SHOW = "python3 -c 'import json,os; print(json.dumps(os.environ.get(\"DOCKER_CERT_PATH\")))'"
EVAL = {
    "fish": "eval (cat setting); {show}; eval (cat removal); {show}",
    "tcsh": "eval `cat setting`; {show}; eval `cat removal`; {show}",
}


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("name", RUN)
def test_real_shells(name: str, value: str, tmp_path: Path) -> None:
    """Set and unset as people do: nothing is run but what is printed here."""
    if shutil.which(RUN[name][0]) is None:
        pytest.skip(f"{name} is not installed")
    shell = find_shell(name)
    hint = write_hint(shell, COMMAND)
    variables = {"DOCKER_CERT_PATH": value, "DOCKER_MACHINE_NAME": "web"}
    (tmp_path / "setting").write_text(write_settings(shell, variables) + hint, encoding="utf-8")
    (tmp_path / "removal").write_text(write_removal(shell, list(variables)) + hint)
    words = 'eval "$(cat setting)"; {show}; eval "$(cat removal)"; {show}'
    done = subprocess.run(
        [*RUN[name], EVAL.get(name, words).format(show=SHOW)], cwd=tmp_path, check=False,
        capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines()] == [value, None], done.stderr
    assert not (tmp_path / "pwned").exists()


def test_shells_that_are_not_here() -> None:
    powershell = write_settings(SHELLS["powershell"], {"X": 'a"b$c`d'})
    assert powershell == '$Env:X = "a`"b`$c``d"\n'
    emacs = write_settings(SHELLS["emacs"], {"X": 'a"b\\c$d'})
    assert emacs == '(setenv "X" "a\\"b\\\\c$d")\n'
    assert write_settings(SHELLS["cmd"], {"X": "a&b|c"}) == "SET X=a^&b^|c\n"
    for value in ("100%", 'a"b', "a\nb"):
        with pytest.raises(QupError, match="cmd can't be told"):
            write_settings(SHELLS["cmd"], {"X": value})
