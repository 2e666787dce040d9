"""The kit for plugin authors does what the real things do."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qup import testing
from qup.api import (
    Guest,
    Host,
    HostError,
    NicPlan,
    ProvisionError,
    QupError,
    Settings,
    hookimpl,
)
from qup.guest.session import SshGuest
from qup.host import LocalHost
from qup.testing import FakeGuest, FakeHost, check_plugin, make_plan, plugins_with, qemu_words

pytest_plugins = ["qup.testing"]


def test_the_fixtures(fake_host: FakeHost, fake_guest: FakeGuest) -> None:
    host: Host = fake_host
    guest: Guest = fake_guest
    assert host.which("ssh") == Path("/usr/bin/ssh")
    assert guest.run(["true"]).code == 0


def test_the_fakes_offer_what_the_protocols_ask_for() -> None:
    for protocol, fake, real in [(Host, FakeHost(), LocalHost), (Guest, FakeGuest(), SshGuest)]:
        asked = [name for name in vars(protocol) if not name.startswith("_")]
        assert asked
        for name in asked:
            assert hasattr(fake, name)
            assert hasattr(real, name)


def test_a_host_without_qemu() -> None:
    host = FakeHost(programs=set())
    assert host.which("ssh") is None
    for ask in (host.qemu_version, lambda name: host.qemu_supports(name, "tcg")):
        with pytest.raises(HostError):
            ask("qemu-system-x86_64")


def test_a_proof_is_remembered(fake_host: FakeHost) -> None:
    assert fake_host.prove("qemu-system-x86_64", {"accel": "kvm"}, "host").usable
    assert fake_host.proved == [{"accel": "kvm"}]


def test_a_guest_writes_down_what_is_done(fake_guest: FakeGuest, tmp_path: Path) -> None:
    fake_guest.on("uname", stdout="Linux\n")
    fake_guest.on("uname", "-m", stdout="m68k\n")
    fake_guest.on("apt-get", stderr="no network", code=100)
    assert fake_guest.run(["uname", "-a"]).stdout == "Linux\n"
    assert fake_guest.run(["uname", "-m"], input="x").stdout == "m68k\n"
    assert fake_guest.run(["apt-get", "update"], check=False).code == 100
    with pytest.raises(ProvisionError, match="apt-get update: exit code 100"):
        fake_guest.run(["apt-get", "update"])
    assert fake_guest.ran[1] == ("uname", "-m")
    assert fake_guest.inputs == [None, "x", None, None]
    (tmp_path / "a").write_text("content")
    fake_guest.put(tmp_path / "a", "/b", mode=0o600)
    fake_guest.get("/b", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "content"
    assert fake_guest.modes == {"/b": 0o600}
    with pytest.raises(ProvisionError):
        fake_guest.get("/nothing", tmp_path / "d")


def test_a_plan_is_pure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen.__init__", refuse)
    text = "[machines.web]\ncpus = 2\n[machines.db]\nmemory = 512\n"
    assert make_plan(text).cpus == 2
    plan = make_plan(text, machine="db")
    assert plan.memory_mib == 512
    assert plan == make_plan(text, machine="db")
    assert plan.machine_type == "pc-q35-8.2"
    assert plan.accelerator.name == "tcg"
    words = qemu_words(plan)
    assert words[0] == "/usr/bin/qemu-system-x86_64"
    assert words[words.index("-m") + 1] == "512M"
    with pytest.raises(QupError):
        make_plan("[machine]\nnonsense = 1\n")


def test_plugins_with() -> None:
    registry = plugins_with()
    assert "user" in registry.network_modes
    assert registry.failures == []


class Mode:
    name = "odd"
    summary = "two\nlines"

    class options(Settings):  # noqa: N801
        """Options without words."""

        level: int = 1

    def problems(self, options: Any) -> list[Any]:
        return []

    def plan(self, options: Any, nic: Any) -> NicPlan:
        return NicPlan({"type": "user"})


def test_check_plugin_has_every_objection() -> None:
    odd = SimpleNamespace(__name__="qup_odd", qup_network_modes=hookimpl(lambda: [Mode()]))
    with pytest.raises(AssertionError) as caught:
        check_plugin(odd)
    assert str(caught.value).splitlines()[:3] == [
        "network mode odd: its summary is not one line",
        "network mode odd: problems must take (options, host): too many positional arguments",
        "network mode odd: its option level has no description",
    ]
    broken = SimpleNamespace(__name__="qup_broken", qup_checks=hookimpl(lambda: None))
    with pytest.raises(AssertionError, match="plugin qup_broken failed in qup_checks"):
        check_plugin(broken)


def test_the_docstrings_example_works(pytester_free_example: list[str]) -> None:
    assert pytester_free_example == [
        "test_an_old_qemu_is_refused",
        "test_it_keeps_to_the_hooks",
        "test_the_guest_is_kept_dry",
        "test_the_guest_learns_the_weather",
    ]


WEATHER = """
from qup.api import NicPlan, Problem, Settings, hookimpl
class Umbrella:
    name, summary, options = "umbrella", "keeps the guest dry", Settings
    def problems(self, options, host):
        old = host.qemu_version("qemu-system-x86_64") < (7, 0, 0)
        return [Problem("QEMU is older than 7.0")] if old else []
    def plan(self, options, nic):
        return NicPlan({"type": "user", "restrict": "on"})
class Forecast:
    name, summary, options = "forecast", "tells the weather", Settings
    def digest(self, options, project):
        return "1"
    def run(self, options, guest, project, report):
        import tempfile, pathlib
        day = guest.run(["date"]).stdout.strip()
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "weather")
            file.write_text(f"{day}: rain\\n")
            guest.put(file, "/etc/weather")
@hookimpl
def qup_network_modes():
    return [Umbrella()]
@hookimpl
def qup_provisioners():
    return [Forecast()]
"""


@pytest.fixture
def pytester_free_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the example of the kit's docstring; returns the names of its tests."""
    doc = testing.__doc__ or ""
    match = re.search(r"``::\n\n(.*?)\n\n(?=\S)", doc, re.DOTALL)
    assert match
    (tmp_path / "qup_weather.py").write_text(WEATHER)
    monkeypatch.syspath_prepend(tmp_path)
    space: dict[str, Any] = {}
    exec(compile(textwrap.dedent(match[1]), "the docstring's example", "exec"), space)
    fixtures = {"fake_host": FakeHost, "fake_guest": FakeGuest, "tmp_path": lambda: tmp_path}
    tests = sorted(name for name in space if name.startswith("test_"))
    for name in tests:
        wanted = space[name].__code__.co_varnames[: space[name].__code__.co_argcount]
        space[name](*(fixtures[word]() for word in wanted))
    return tests
