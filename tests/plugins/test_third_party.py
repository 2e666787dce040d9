"""Somebody's plugins, installed by pip, used from a Qupfile; and broken ones beside them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done, Sandbox, find_processes
from tests.plugins import broken
from tests.plugins.environments import (
    Distribution,
    Environment,
    make_environment,
    read_distribution,
)

MEMORY = '[machine]\nmemory = "256M"\ndisk = "1G"\n'


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Makes each environment once."""
    made: dict[tuple[str, ...], Environment] = {}

    def make(*distributions: Distribution) -> Environment:
        key = tuple(item.name for item in distributions)
        if key not in made:
            made[key] = make_environment(tmp_path_factory.mktemp("env") / "venv", *distributions)
        return made[key]

    return make


@pytest.fixture
def party(environments: Callable[..., Environment]) -> Environment:
    """A good plugin among all the broken ones that nobody needs."""
    good = read_distribution("qup-thirdparty")
    return environments(good, *broken.HARMLESS, broken.FAULTY)


@pytest.fixture
def machine(
    vm_project: Callable[..., Path], party: Environment, sandbox: Sandbox
) -> Iterator[Callable[..., Path]]:
    """``machine(text)`` makes a project; at its end the machine is destroyed."""
    yield lambda text="": vm_project(MEMORY + text)
    party.qup("destroy", "-y").ok()
    assert not find_processes(str(sandbox.runtime))


def lan(marker: Path, more: str = "") -> str:
    return f'[machine.network]\nmode = "lan"\nmarker = {json.dumps(str(marker))}\n{more}'


def assert_refused(done: Done, code: int, *words: str) -> None:
    """It ended with a code and one clear error, not with a traceback."""
    assert done.code == code, str(done)
    assert "Traceback" not in done.stdout + done.stderr
    assert "bug in qup" not in done.stderr
    text = " ".join(done.stderr.split())
    for word in words:
        assert word in text, str(done)


# --- from a Qupfile -----------------------------------------------------------------------


def test_a_qupfile_uses_it(party: Environment, project: Callable[..., Path]) -> None:
    folder = project(
        MEMORY
        + '[machine.qemu]\naccelerator = "patient"\n[[machine.provision]]\nstamp = {text = "x"}\n'
        + lan(Path("/tmp/mark"), "max-age = 7\n")
    )
    party.qup("validate").ok()
    plan = json.loads(party.qup("plan", "--json").ok().stdout)["machines"]["default"]
    assert plan["accelerator"]["properties"] == {"accel": "tcg", "thread": "single"}
    assert plan["nics"][0]["plan"]["actions"] == [
        {"do": ["touch", "/tmp/mark"], "undo": ["rm", "-f", "/tmp/mark"]}
    ]
    assert plan["provision"][0]["provisioner"] == "stamp"
    command = party.qup("plan", "--qemu").ok().stdout
    assert "-accel tcg,thread=single" in command
    assert "-netdev user,id=net0,hostname=default" in command
    said = party.qup("plan", "--explain").ok().stdout
    assert [line.split()[1:] for line in said.splitlines() if "network.max-age" in line] == [
        ["7", "Qupfile", "Qupfile:11:1"]
    ]
    assert not (folder / ".qup").exists()
    assert not Path("/tmp/mark").exists()


def test_its_options_are_checked(party: Environment, project: Callable[..., Path]) -> None:
    project(lan(Path("/tmp/mark"), "max-age = 70\nmarkr = 1\n"))
    done = party.qup("validate")
    assert_refused(done, 4, "Qupfile:4:11", "Qupfile:5:1", "marker")


def test_the_schema_has_its_options(party: Environment) -> None:
    schema = party.qup("schema").ok().stdout
    json.loads(schema)
    for word in ("A file that exists while the machine is connected.", "max-age", "What to write."):
        assert word in schema, word


def test_its_command(party: Environment) -> None:
    assert party.qup("thirdparty", "--loud").ok().stdout == "THIRD PARTY\n"
    assert "thirdparty" in party.qup("--help").ok().stdout
    assert_refused(party.qup("thirdparty", "--lout"), 2, "--lout")


def test_its_check(party: Environment) -> None:
    assert "party: the party goes on" in party.qup("doctor").stdout


# --- broken ones --------------------------------------------------------------------------

CLEAR_LINES = {
    "qup-clash-a": [
        "failed in qup_network_modes: network mode 'user' is built in",
        (
            "failed in qup_network_modes: network mode 'shared' is brought by qup-clash-a and by"
            " qup-clash-b"
        ),
    ],
    "qup-clash-b": [
        "failed in qup_network_modes: network mode 'user' is built in",
        (
            "failed in qup_network_modes: network mode 'shared' is brought by qup-clash-a and by"
            " qup-clash-b"
        ),
    ],
    "qup-explodes": ["could not be loaded: RuntimeError: boom at import"],
    "qup-exits": ["could not be loaded: SystemExit: 3"],
    "qup-misregisters": ["failed in qup_network_modes: OSError: no modes today"],
    "qup-misspelt": [
        (
            "could not be loaded: hookimpl definition: qup_amend_plan(konfig, plan);"
            " Argument(s) {'konfig'} are declared in the hookimpl but can not be found in the"
            " hookspec"
        )
    ],
    "qup-nonsense": [
        "failed in qup_accelerators: 42 is no accelerator: it has no name",
        (
            "failed in qup_accelerators: accelerator 'Not A Name': a name has lower case letters,"
            " digits and hyphens"
        ),
        "failed in qup_accelerators: accelerator 'auto': the word is qup's own",
        (
            "failed in qup_accelerators: accelerator 'hollow' has no usable, no plan, no summary,"
            " no priority, or of the wrong type"
        ),
        "failed in qup_box_sources: SystemExit: half-way",
        "failed in qup_checks: {'name': 'a-dict'} is no Check of qup.api",
        "failed in qup_commands: command 'up': the word is qup's own",
        "failed in qup_commands: command 'Übel': a name has lower case letters, digits and hyphens",
        "failed in qup_network_modes: TypeError: it returned None, which is not a list of object",
        "failed in qup_provisioners: TypeError: it returned 'shell', which is not a list of object",
    ],
    "qup-unknown": [
        "could not be loaded: qup has no hook qup_provisoners; is it qup_provisioners?"
    ],
    "qup-unmarked": ["could not be loaded: qup_checks: not marked with @hookimpl"],
    "qup-wraps": ["could not be loaded: qup_checks can't be wrapped"],
}


def test_the_broken_ones_are_listed_in_clear_lines(party: Environment) -> None:
    done = party.qup("plugins", "list").ok()
    expected = {f"warning: plugin {name} {line}" for name, lines in CLEAR_LINES.items()
                for line in lines}  # fmt: skip
    assert set(done.stderr.splitlines()) == expected
    states = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert {name for name, line in states.items() if " broken " in line} == set(CLEAR_LINES)
    assert "network mode lan, accelerator patient" in states["qup-thirdparty"]
    assert "network mode own-a" in states["qup-clash-a"]
    assert "shared" not in done.stdout
    assert states["qup.builtin.network_user"].endswith("network mode user")


def test_the_broken_ones_are_listed_for_programs(party: Environment) -> None:
    data = json.loads(party.qup("plugins", "list", "--json").ok().stdout)
    assert {item["name"] for item in data["plugins"] if not item["ok"]} == set(CLEAR_LINES)
    assert {item["plugin"] for item in data["failures"]} == set(CLEAR_LINES)
    (explosion,) = (item for item in data["failures"] if item["plugin"] == "qup-explodes")
    assert explosion["where"] == "import"
    assert "Traceback" in explosion["log"]
    versions = {item["name"]: item["version"] for item in data["plugins"]}
    assert versions["qup-thirdparty"] == "1.2.3"


def test_they_stop_nothing_that_does_not_need_them(
    party: Environment, project: Callable[..., Path]
) -> None:
    project(MEMORY)
    for words in (("--help",), ("validate",), ("schema",), ("plan", "--json"), ("status",)):
        party.qup(*words).ok()
    said = party.qup("doctor").stdout
    assert "still-works: this one still works" in said
    assert "bad-check of plugin qup-faulty" in said
    assert "plugin qup-explodes could not be loaded" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[machine.network]\nmode = "shared"', "qup-clash-a and by qup-clash-b; uninstall all"),
        ('[machine.network]\nmode = "exploding"', "it may come from a broken plugin: qup-exits, "),
        ('[machine.network]\nmode = "exploding"', "qup-wraps, qup-misregisters, qup-nonsense; 'q"),
        ('[machine.qemu]\naccelerator = "hollow"', "plugin qup-nonsense failed in qup_accelera"),
        ("[[machine.provision]]\nanvil = {}", "broken plugin: qup-exits, qup-explodes, "),
    ],
)
def test_a_qupfile_that_needs_a_broken_one_names_it(
    party: Environment, project: Callable[..., Path], text: str, words: str
) -> None:
    """It is a problem of the Qupfile among others, at its line: exit code 4."""
    project(text)
    for command in ("validate", "plan", "up"):
        assert_refused(party.qup(command), 4, "Qupfile:2:", words)


def test_the_only_broken_one_is_named_with_its_reason(
    environments: Callable[..., Environment], project: Callable[..., Path]
) -> None:
    project('[machine.network]\nmode = "exploding"')
    said = "hint: plugin qup-explodes could not be loaded: RuntimeError: boom at import"
    assert_refused(environments(broken.EXPLODES).qup("up"), 4, "Qupfile:2:", said)


def test_a_broken_metadata_stops_nothing(
    environments: Callable[..., Environment], project: Callable[..., Path], tmp_path: Path
) -> None:
    environment = make_environment(tmp_path / "venv", read_distribution("qup-thirdparty"))
    info = environment.site / "qup_empty-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qup-empty\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[qup]\nx = no_such_module:thing\n")
    bare = environment.site / "qup_bare-1.dist-info"
    bare.mkdir()
    (bare / "entry_points.txt").write_text("[qup]\nx = os\n")
    done = environment.qup("plugins", "list").ok()
    assert re.search(r"^qup-thirdparty +1\.2\.3 +ok ", done.stdout, re.MULTILINE)
    assert "plugin qup-empty could not be loaded: ModuleNotFoundError: No module" in done.stderr
    project(lan(tmp_path / "mark"))
    environment.qup("validate").ok()


@pytest.mark.parametrize("command", ["plan", pytest.param("up", marks=pytest.mark.vm)])
def test_a_plugin_that_breaks_the_plan(
    environments: Callable[..., Environment], vm_project: Callable[..., Path], command: str
) -> None:
    """What it would have added may be what the machine needs: no plan without it."""
    environment = environments(broken.AMENDS_BADLY)
    vm_project(MEMORY)
    assert_refused(
        environment.qup(command),
        7,
        "error: plugin qup-amends-badly failed in qup_amend_plan: KeyError: 'something'",
        "qup_amends_badly.py, line 5, in qup_amend_plan",
        "hint: report this to the author of qup-amends-badly",
    )
    environment.qup("validate").ok()
    environment.qup("status").ok()


# --- at work ------------------------------------------------------------------------------

AT_WORK = [
    ("bad-plan", "SystemExit: I plan to exit", "plan"),
    ("odd-plan", "TypeError: netdev has no 'type'", "plan"),
    ("bad-problems", "LookupError: where is my network?", "problems"),
    ("no-problems", "TypeError: it returned None, which is not a list of Problem", "problems"),
]


@pytest.mark.vm
@pytest.mark.parametrize(("mode", "words", "method"), AT_WORK)
def test_a_network_mode_that_fails_at_work(
    party: Environment, machine: Callable[..., Path], mode: str, words: str, method: str
) -> None:
    machine(f'[machine.network]\nmode = "{mode}"\n')
    # Addresses are part of what is validated, and a mode's plan says them.
    assert party.qup("validate").code == (7 if method == "plan" else 0)
    said = f"network mode {mode} of plugin qup-faulty failed in {method}: {words}"
    assert_refused(party.qup("up"), 7, said, "pip uninstall qup-faulty")
    assert "running" not in party.qup("status").stdout


def test_an_accelerator_that_fails_at_work(
    environments: Callable[..., Environment], project: Callable[..., Path]
) -> None:
    project(MEMORY + '[machine.qemu]\naccelerator = "bad-accelerator"\n')
    said = "accelerator bad-accelerator of plugin qup-bad-accelerator failed in usable: Arithmetic"
    assert_refused(environments(broken.BAD_ACCELERATOR).qup("plan"), 7, said)


def test_auto_does_without_an_accelerator_that_fails(
    environments: Callable[..., Environment], project: Callable[..., Path]
) -> None:
    project(MEMORY)
    done = environments(broken.BAD_ACCELERATOR).qup("plan", "--json").ok()
    plan = json.loads(done.stdout)["machines"]["default"]
    assert plan["accelerator"]["name"] == "tcg"


def test_a_command_that_fails(party: Environment) -> None:
    assert_refused(party.qup("faulty"), 7, "faulty", "ValueError: at your command")


# --- real guests --------------------------------------------------------------------------


@pytest.mark.vm
def test_a_real_guest(party: Environment, machine: Callable[..., Path], tmp_path: Path) -> None:
    """Its network mode, accelerator and provisioner; undone by down, kill -9 and destroy."""
    marker = tmp_path / "it's connected, really"
    folder = machine(
        '[machine.qemu]\naccelerator = "patient"\n'
        '[[machine.provision]]\nstamp = {text = "stamped"}\n' + lan(marker)
    )
    done = party.qup("up", "--json").ok()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(event.get("text") == "stamped default" for event in events)
    assert marker.exists()
    assert party.qup("ssh", "--", "cat", "stamp").ok().stdout == "stamped"
    (running,) = [line for line in find_processes(str(folder)).values() if "-accel" in line]
    assert "-accel tcg,thread=single" in running

    party.qup("down").ok()
    assert not marker.exists()

    done = party.qup("up", "--json").ok()
    assert "stamped default" not in done.stdout  # a step that succeeded is not run again
    assert marker.exists()
    kill_qemu(folder)
    party.qup("down").ok()
    assert not marker.exists()

    party.qup("up").ok()
    assert marker.exists()
    party.qup("destroy", "-y").ok()
    assert not marker.exists()


def kill_qemu(folder: Path) -> None:
    pid = int((folder / ".qup/machines/default/qemu.pid").read_text())
    os.kill(pid, signal.SIGKILL)


@pytest.mark.vm
def test_a_failed_start_is_undone(
    party: Environment, machine: Callable[..., Path], tmp_path: Path
) -> None:
    marker = tmp_path / "mark"
    machine(lan(marker, 'backend = "no-such-thing"\n'))
    assert_refused(party.qup("up"), 9)
    assert not marker.exists()


@pytest.mark.vm
@pytest.mark.parametrize("command", [("down",), ("destroy", "-y"), ("up",)], ids=lambda c: c[0])
def test_a_killed_start_is_undone(
    party: Environment, machine: Callable[..., Path], tmp_path: Path, command: tuple[str, ...]
) -> None:
    marker = tmp_path / "mark"
    folder = machine(lan(marker))
    party.qup("plan").ok()
    with subprocess.Popen(
        [party.python, "-m", "qup", "up"],
        env=party.variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert marker.exists()
        process.kill()
    if command == ("up",):
        inode = marker.stat().st_mtime_ns
        party.qup(*command).ok()
        assert marker.exists()
        assert marker.stat().st_mtime_ns >= inode
        party.qup("down").ok()
    else:
        party.qup(*command).ok()
    assert not marker.exists()
    assert not [line for line in find_processes(str(folder)).values() if "qemu" in line]


@pytest.mark.vm
def test_problems_stop_the_start_before_anything_is_touched(
    party: Environment, machine: Callable[..., Path]
) -> None:
    machine(lan(Path("/nowhere/mark")))
    assert_refused(party.qup("up"), 5, "/nowhere/mark is nowhere", "put it somewhere")


@pytest.mark.vm
def test_a_provisioner_that_fails_at_work(party: Environment, machine: Callable[..., Path]) -> None:
    """The machine stays up to be looked at; an observer that raises is only noted."""
    folder = machine("[[machine.provision]]\nbad-step = {}\n")
    said = "provisioner bad-step of plugin qup-faulty failed in run: ZeroDivisionError"
    assert_refused(party.qup("up"), 7, said, "about to fail")
    status: dict[str, Any] = json.loads(party.qup("status", "--json").ok().stdout)
    assert "running" in json.dumps(status)
    log = (folder / ".qup/machines/default/logs/qup.log").read_text()
    assert "plugin qup-misregisters failed in qup_event: RuntimeError: I don't want to" in log
