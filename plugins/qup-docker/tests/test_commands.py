"""``qup docker ...`` with machines that are none, and a ``docker`` of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from qup_docker import commands, contexts
from qup_docker.certificates import keep_credentials
from qup_docker.contexts import (
    adopt_context,
    describe_context,
    describe_endpoint,
    find_context,
    name_context,
    refresh_context,
)
from typer.testing import CliRunner

from qup.api import HostError, MachineError, QupError
from tests.conftest import Sandbox, run_qup

GOLDEN = Path(__file__).parent / "golden"
PLACE = "/home/me/project/.qup/machines/web/provisioners/docker"


@dataclass
class Machine:
    """A machine as commands see it."""

    name: str
    project: Path
    own: Path
    ways: dict[int, tuple[str, int]] = field(default_factory=lambda: {2376: ("127.0.0.1", 4000)})

    def folder(self, provisioner: str) -> Path:
        assert provisioner == "docker"
        return self.own

    def reach(self, port: int) -> tuple[str, int]:
        if port not in self.ways:
            raise MachineError(f"machine {self.name} is not running (stopped)")
        return self.ways[port]

    def choose(self, name: str | None = None) -> Machine:
        if name not in (None, self.name):
            raise QupError(f"there is no machine {name!r}")
        return self


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """It runs, and its engine answers."""
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    keep_credentials(own, "web", ["web"])
    made = Machine("web", tmp_path / "my project", own)
    monkeypatch.setattr(commands, "machines_of", lambda _: made)
    monkeypatch.setattr(commands, "ask_version", lambda *_: "20.10.24")
    monkeypatch.setattr(sys, "argv", ["qup", "docker", "env"])
    return made


def docker(*words: str, env: dict[str, str | None] | None = None) -> Any:
    return CliRunner().invoke(commands.app, list(words), env=env)


def said(*words: str, **env: str | None) -> str:
    done = docker(*words, env=env)
    assert done.exit_code == 0, done.exception
    return str(done.stdout)


def error(*words: str, **env: str | None) -> str:
    done = docker(*words, env=env)
    assert isinstance(done.exception, QupError), done.exception
    assert done.stdout == ""
    return done.exception.message


# --- env ------------------------------------------------------------------------------------


def test_the_shell_is_the_users(machine: Machine) -> None:
    assert said("env", SHELL="/usr/bin/zsh").startswith('export DOCKER_TLS_VERIFY="1"\n')
    assert said("env", SHELL="/usr/bin/fish").startswith('set -gx DOCKER_TLS_VERIFY "1";\n')
    assert said("env", "--shell", "cmd", SHELL="/bin/sh").startswith("SET DOCKER_TLS_VERIFY=1\n")
    assert f'export DOCKER_CERT_PATH="{machine.own}"\n' in said("env", "web", SHELL="/bin/sh")
    assert said("env", SHELL="/bin/sh").endswith(" docker env)\n")


NO_PROXY = {
    "bash": 'export NO_PROXY="127.0.0.1"\n',
    "fish": 'set -gx NO_PROXY "127.0.0.1";\n',
    "powershell": '$Env:NO_PROXY = "127.0.0.1"\n',
    "cmd": "SET NO_PROXY=127.0.0.1\n",
    "tcsh": 'setenv NO_PROXY "127.0.0.1";\n',
    "emacs": '(setenv "NO_PROXY" "127.0.0.1")\n',
}
UNSET_NO_PROXY = {
    "bash": "unset NO_PROXY\n",
    "fish": "set -e NO_PROXY;\n",
    "powershell": "Remove-Item Env:\\\\NO_PROXY\n",
    "cmd": "SET NO_PROXY=\n",
    "tcsh": "unsetenv NO_PROXY;\n",
    "emacs": '(setenv "NO_PROXY" nil)\n',
}


@pytest.mark.parametrize("shell", NO_PROXY)
def test_all_that_is_printed(machine: Machine, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, for each shell, as docker-machine has it."""
    monkeypatch.setattr(sys, "argv", ["qup", "docker", "env", "web"])
    plain = {"SHELL": f"/usr/bin/{shell}", "no_proxy": None, "NO_PROXY": None}
    setting, removal = (
        (GOLDEN / f"{shell}{suffix}.txt").read_text().replace(PLACE, str(machine.own))
        for suffix in ("", "-unset")
    )
    setting = setting.replace(":40001", ":4000")
    assert said("env", "web", **plain) == setting
    assert said("env", "-u", **plain) == removal
    # The two lines of the hint come last.
    lines = setting.splitlines(keepends=True)
    wanted = "".join([*lines[:-2], NO_PROXY[shell], *lines[-2:]])
    assert said("env", "--no-proxy", "web", **plain) == wanted
    lines = removal.splitlines(keepends=True)
    wanted = "".join([*lines[:-2], UNSET_NO_PROXY[shell], *lines[-2:]])
    assert said("env", "-u", "--no-proxy", **plain) == wanted


def test_no_shell_to_write_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.os, "getppid", lambda: 0)
    assert error("env", SHELL=None) == "which shell is this for?"
    assert json.loads(said("env", "--json", SHELL=None))["machine"] == "web"


def test_no_proxy(machine: Machine) -> None:
    plain = {"SHELL": "/bin/sh", "no_proxy": None, "NO_PROXY": None}
    assert "PROXY" not in said("env", **plain)
    assert 'export NO_PROXY="127.0.0.1"\n# Run' in said("env", "--no-proxy", **plain)
    text = said("env", "--no-proxy", **{**plain, "no_proxy": "a"})
    assert 'export no_proxy="a,127.0.0.1"\n# Run' in text
    assert "unset NO_PROXY\n# Run" in said("env", "-u", "--no-proxy", **plain)


def test_unset_needs_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "machines_of", None)
    assert said("env", "-u", SHELL="/bin/tcsh").startswith("unsetenv DOCKER_TLS_VERIFY;\n")
    assert json.loads(said("env", "-u", "--json"))["unset"][0] == "DOCKER_TLS_VERIFY"
    assert docker("env", "-u", "web", env={"SHELL": "/bin/sh"}).exit_code == 2


def test_nothing_is_printed_before_the_engine_has_answered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> str:
        raise MachineError("no engine answers at tcp://127.0.0.1:4000")

    monkeypatch.setattr(commands, "ask_version", refuse)
    assert error("env", SHELL="/bin/sh").startswith("no engine answers")
    assert error("config").startswith("no engine answers")
    assert said("url") == "tcp://127.0.0.1:4000\n"
    machine.ways.clear()
    for word in ("env", "config", "url"):
        assert "is not running" in error(word, SHELL="/bin/sh")


def test_a_machine_that_is_no_docker_host(machine: Machine) -> None:
    (machine.own / "key.pem").unlink()
    assert "is not a Docker host" in error("env", SHELL="/bin/sh")


# --- config, url ----------------------------------------------------------------------------


def test_config(machine: Machine) -> None:
    assert said("config").splitlines() == [
        "--tlsverify",
        f'--tlscacert="{machine.own}/ca.pem"',
        f'--tlscert="{machine.own}/cert.pem"',
        f'--tlskey="{machine.own}/key.pem"',
        "-H=tcp://127.0.0.1:4000",
    ]
    options = json.loads(said("config", "--json"))["options"]
    assert options[1] == f"--tlscacert={machine.own}/ca.pem"
    assert json.loads(said("url", "--json")) == {
        "schema": 1, "machine": "web", "url": "tcp://127.0.0.1:4000",
    }  # fmt: skip


# --- regenerate-certs -----------------------------------------------------------------------


def test_certificates_are_forgotten_then_made(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def follow(words: list[str], *_: Any, **__: Any) -> Any:
        ran.append(words)
        return type("Result", (), {"code": 0})

    monkeypatch.setattr(commands, "follow", follow)
    said("regenerate-certs", "-y")
    assert ran[0][3:] == ["-C", str(machine.project), "provision", "web", "--with",
                          "docker"]  # fmt: skip
    assert not (machine.own / "server.pem").exists()
    assert (machine.own / "key.pem").exists()
    said("regenerate-certs", "--client-certs", "-f")
    assert not list(machine.own.glob("*.pem"))
    assert "is not a Docker host" in error("regenerate-certs", "-y")


def test_asked_first(machine: Machine) -> None:
    done = CliRunner().invoke(commands.app, ["regenerate-certs"], input="n\n")
    assert done.exit_code == 1
    assert (machine.own / "server.pem").exists()


def test_a_machine_that_sleeps_gets_them_later(machine: Machine) -> None:
    machine.ways.clear()
    done = docker("regenerate-certs", "-y")
    assert done.exit_code == 0
    assert "the next 'qup up' makes new ones" in done.stderr


# --- completion -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("qup docker env ", ["web", "db"]),
        ("qup docker config w", ["web"]),
        ("qup docker regenerate-certs --yes d", ["db"]),
        ("qup docker context create ", ["web", "db"]),
        ("qup docker env --shell f", ["fish"]),
    ],
)
def test_completion(project: Callable[..., Path], line: str, words: list[str]) -> None:
    project("[machines.web]\n[machines.db]\n")
    complete = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = run_qup(env={"_QUP_COMPLETE": "complete_bash", **complete})
    assert done.stdout.split() == words


def test_completion_where_there_is_no_project(sandbox: Sandbox) -> None:
    complete = {"COMP_WORDS": "qup docker env ", "COMP_CWORD": "3"}
    done = run_qup(env={"_QUP_COMPLETE": "complete_bash", **complete})
    assert (done.stdout.strip(), done.stderr) == ("", "")


# --- contexts -------------------------------------------------------------------------------

DOCKER = """#!/bin/sh
# A docker that knows contexts: a file each.
cd {folder}
printf '%s|' "$@" >>log; echo >>log
for last; do :; done
case "$2" in
    inspect) cat "context-$last" ;;
    create) [ ! -e "context-$last" ] && echo "$4" >"context-$last" ;;
    update|use) [ -e "context-$last" ] || {{ echo "no context $last" >&2; exit 1; }} ;;
    ls) cat contexts ;;
    rm) rm "context-$last" ;;
esac
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER.format(folder=folder))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def log(client: Path) -> list[list[str]]:
    lines = (client / "log").read_text().splitlines()
    (client / "log").unlink()
    return [line.split("|")[:-1] for line in lines]


def test_a_context_comes_and_goes(machine: Machine, client: Path) -> None:
    done = docker("context", "create", "--use")
    assert "made context my-project-web: docker uses it now" in done.stderr
    assert [words[1] for words in log(client)] == ["inspect", "create", "use"]
    assert find_context(machine.own) == "my-project-web"
    done = docker("context", "create")
    assert "mended context my-project-web: docker --context my-project-web ps" in done.stderr
    words = log(client)[1]
    assert words[:2] == ["context", "update"]
    assert words[words.index("--docker") + 1].startswith("host=tcp://127.0.0.1:4000,ca=")
    assert "removed context my-project-web" in docker("context", "rm").stderr
    assert find_context(machine.own) is None
    assert docker("context", "rm").stderr == "there is none\n"


def test_the_users_own_contexts_are_left_alone(machine: Machine, client: Path) -> None:
    (client / "context-mine").touch()
    assert "which is not this machine's" in error("context", "create", "--name", "mine")
    assert find_context(machine.own) is None
    # Unless an earlier machine of this place has left it behind.
    left = [{"Metadata": {"Description": f"machine web of {machine.project}"}}]
    (client / "context-mine").write_text(json.dumps(left))
    assert not json.loads(said("context", "create", "--name", "mine", "--json"))["new"]
    found = json.loads(said("context", "create", "--name", "other", "--json"))
    assert found["context"] == "other"
    assert json.loads(said("context", "rm", "--json"))["context"] == "other"


def test_up_tells_a_context_where_the_engine_is(machine: Machine, client: Path) -> None:
    url = "tcp://127.0.0.1:5000"
    assert list(refresh_context(machine.own, url)) == []
    assert not (client / "log").exists()
    docker("context", "create")
    assert list(refresh_context(machine.own, url)) == [
        "docker's context my-project-web leads there"
    ]
    (client / "context-my-project-web").unlink()
    (line,) = refresh_context(machine.own, url)
    assert line.startswith("docker's context my-project-web is gone")
    assert list(refresh_context(machine.own, url)) == []


def test_a_context_that_was_left_behind_is_taken_over(machine: Machine, client: Path) -> None:
    """By the machine that is made anew in that place, and by no other."""
    title = describe_context(machine.project, "web")
    rows = [{"Name": "shop", "Description": "mine"}, {"Name": "old", "Description": title}]
    (client / "contexts").write_text("no json\n" + "\n".join(map(json.dumps, rows)))
    adopt_context(machine.own, describe_context(machine.project, "db"))
    assert find_context(machine.own) is None
    adopt_context(machine.own, title)
    assert find_context(machine.own) == "old"
    (client / "log").unlink()
    adopt_context(machine.own, title)
    assert not (client / "log").exists()


def test_no_docker_here(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(machine.own))
    assert "docker" in error("context", "create")
    adopt_context(machine.own, "machine web")
    assert find_context(machine.own) is None
    (machine.own / "context").write_text("web\n")
    (line,) = refresh_context(machine.own, "tcp://127.0.0.1:5000")
    assert line.startswith("docker's context web was left as it is")
    assert issubclass(HostError, QupError)


def test_names_of_contexts() -> None:
    assert name_context(Path("/home/me/shop"), "default") == "shop"
    assert name_context(Path("/home/me/shop"), "web") == "shop-web"
    assert name_context(Path("/home/me/a b/ünï & co"), "default") == "n-co"
    assert name_context(Path("/"), "default") == "project"


def test_paths_with_commas() -> None:
    text = describe_endpoint(Path('/a,b/"c"'), "tcp://127.0.0.1:1")
    assert text.startswith('host=tcp://127.0.0.1:1,"ca=/a,b/""c""/ca.pem",')
    assert contexts.NOTE == "context"
