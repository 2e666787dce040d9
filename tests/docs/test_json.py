"""``docs/reference/json.md`` names every key that ``--json`` prints, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.docs import cli
from scripts.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
VERBS = {
    "qup upgrade",
    "qup up",
    "qup down",
    "qup kill",
    "qup reload",
    "qup reset",
    "qup provision",
    "qup cp",
    "qup sync",
    "qup destroy",
    "qup box build",
    "qup suspend",
    "qup resume",
    "qup box export",
    "qup snapshot save",
    "qup snapshot restore",
}
Key = tuple[str, ...]


def documented(heading: str) -> set[Key]:
    """The keys of the table under a heading."""
    pattern = rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)"
    (section,) = re.findall(pattern, PAGE, re.MULTILINE | re.DOTALL)
    keys = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return {tuple(key.split(".")) for key in keys}


def flatten(value: Any, path: Key = ()) -> Iterator[Key]:
    """The path of each leaf; a list of tables has ``[]`` after its name."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from flatten(item, (*path[:-1], f"{path[-1]}[]"))
    else:
        yield path


def agree(real: Key, key: Key) -> bool:
    """Whether a leaf is what a documented key means; null and empty things stand for all in
    them, and ``KEY`` at the end for everything below.
    """
    wild = ("KEY", "NAME")
    parts = zip(real, key, strict=False)
    if not all(
        one == other or other in wild or one == other.removesuffix("[]") for one, other in parts
    ):
        return False
    return len(real) <= len(key) or key[-1] == "KEY"


def compare(heading: str, data: dict[str, Any]) -> None:
    assert data.pop("schema") == 1
    real, keys = {*flatten(data)}, documented(heading)
    unknown = {leaf for leaf in real if not any(agree(leaf, key) for key in keys)}
    assert not unknown, f"not in json.md under {heading!r}"
    absent = {key for key in keys if not any(agree(leaf, key) for leaf in real)}
    assert not absent, f"in json.md under {heading!r}, and not printed"


def test_the_comparison() -> None:
    assert agree(("ssh",), ("ssh", "port"))
    assert agree(("machines[]", "name"), ("machines[]", "name"))
    assert agree(("machines", "web", "plan", "deep"), ("machines", "NAME", "KEY"))
    assert not agree(("machines[]", "name", "more"), ("machines[]", "name"))
    assert not agree(("other",), ("ssh", "port"))


def test_every_command_with_json_has_a_section() -> None:
    with_json = {
        found.name
        for found in cli.find_commands()
        if any("--json" in item.opts for item in found.command.params)
    }
    headings = {*re.findall(r"^## (qup .+)$", PAGE, re.MULTILINE)}
    assert {heading.partition(" --")[0] for heading in headings} == with_json - VERBS


NO_GUEST = ("qup validate", "qup trust", "qup status", "qup list", "qup inspect",
            "qup plan --explain", "qup box list", "qup plugins list")  # fmt: skip


def ask(qup: Callable[..., Any], heading: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(qup(*heading.split()[1:], "--json").ok().stdout)
    return data


@pytest.mark.parametrize("heading", NO_GUEST)
def test_without_a_guest(heading: str, project: Callable[..., Path], qup: Any) -> None:
    project('[machine]\nmemory = "256M"\n[machine.qemu]\nargs = ["-no-reboot"]\n')
    compare(heading, ask(qup, heading))


def test_init(qup: Any) -> None:
    compare("qup init", ask(qup, "qup init"))


@pytest.mark.parametrize("words", [("status", "nosuch"), ("up", "--memory", "2X")])
def test_errors(words: tuple[str, ...], project: Callable[..., Path], qup: Any) -> None:
    project("")
    done = qup(*words, "--json")
    data = json.loads(done.stdout)
    assert data["error"]["exit_code"] == done.code
    if "problems" not in data["error"]:
        data["error"]["problems"] = None
    compare("Errors", data)


@pytest.mark.qemu
def test_doctor(qup: Any) -> None:
    compare("qup doctor", ask(qup, "qup doctor"))


@pytest.mark.qemu
@pytest.mark.parametrize("heading", ["qup plan", "qup plan --qemu"])
def test_plans(heading: str, project: Callable[..., Path], qup: Any) -> None:
    project('[[machine.provision]]\nshell = "true"\n[machine.qemu]\naccelerator = "tcg"\n')
    compare(heading, ask(qup, heading))


QUPFILE = """
[machine]
memory = "256M"
network.forward = ["0:80", "0:2375"]
[[machine.provision]]
shell = "echo provisioned"
"""


@pytest.mark.vm
def test_with_a_guest(vm_project: Callable[..., Path], qup: Any) -> None:
    vm_project(QUPFILE)
    check_events(qup("up", "--json").ok().stdout)
    for heading in ("qup status", "qup list", "qup inspect", "qup ip", "qup port list",
                    "qup ssh-config", "qup logs", "qup plan", "qup plan --qemu",
                    "qup box list", "qup box path", "qup box verify",
                    "qup url", "qup config"):  # fmt: skip
        compare(heading, ask(qup, heading))
    engine = ask(qup, "qup url")["url"]
    said = qup("active", "--json", env={"DOCKER_HOST": engine}).ok().stdout
    compare("qup active", json.loads(said))
    added = ask(qup, "qup port add 0:81")
    port = added["forward"]["host"]
    assert port
    compare("qup port add", added)
    compare("qup port rm", ask(qup, f"qup port rm {port}:81"))
    check_events(qup("snapshot", "save", "one", "--json").ok().stdout)
    compare("qup snapshot list", ask(qup, "qup snapshot list"))
    compare("qup snapshot delete", ask(qup, "qup snapshot delete one"))
    check_events(qup("down", "--json").ok().stdout)
    check_events(qup("destroy", "-y", "--json").ok().stdout)


def check_events(output: str) -> None:
    """Each line is one of the events in the table, with the keys that stand there."""
    rows = re.findall(r"^\| `([\w-]+)` \| (`machine`[^|]*) \|", PAGE, re.MULTILINE)
    table = {name: {*re.findall(r"`(\w+)`", keys)} for name, keys in rows}
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines
    for line in lines:
        assert line.keys() - {"schema", "event"} == table[line["event"]]
