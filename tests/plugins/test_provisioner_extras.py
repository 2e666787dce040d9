"""What a provisioner may have besides: ports to be reached, a moment by default, ``true``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import Field

from qup.api import ConfigError, Guest, HostError, PluginError, Problem, Settings, hookimpl
from qup.paths import Project
from qup.qupfile import load, parse
from qup.qupfile.schema import make_schema
from qup.runner.provision import Wanted, check_steps
from qup.testing import FakeHost, check_plugin, make_plan, plugins_with

STEP = "[[machine.provision]]\nengine = {}\n"


class Options(Settings):
    """Of ``engine``."""

    port: int = Field(default=2376, description="The port.")


class Engine:
    name = "engine"
    summary = "something that listens"
    options = Options
    default_run = "always"

    def digest(self, options: Any, project: Path) -> str:
        return "1"

    def ports(self, options: Any) -> Sequence[int]:
        return [options.port]

    def run(
        self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]
    ) -> None: ...


class Plugin:
    @hookimpl
    def qup_provisioners(self) -> list[Engine]:
        return [Engine()]


def forwards(qupfile: str) -> list[str]:
    plan = make_plan(qupfile, Plugin())
    return [f"{nic.mode} {item}" for nic in plan.nics for item in nic.plan.forwards]


def test_a_way_to_a_port_that_a_provisioner_asks_for() -> None:
    assert forwards(STEP) == ["user 127.0.0.1:0:2376"]
    assert forwards(STEP * 2) == ["user 127.0.0.1:0:2376"]
    own = '[machine.network]\nforward = ["4000:2376", "0:80"]\n'
    assert forwards(own + STEP) == ["user 127.0.0.1:4000:2376", "user 127.0.0.1:0:80"]
    udp = '[machine.network]\nforward = ["4000:2376/udp"]\n'
    assert forwards(udp + STEP) == ["user 127.0.0.1:4000:2376/udp", "user 127.0.0.1:0:2376"]


def test_a_machine_that_is_alone_on_its_network_is_reached_by_the_card_for_ssh() -> None:
    assert forwards('[machine.network]\nmode = "private"\n' + STEP) == ["ssh 127.0.0.1:0:2376"]


def test_a_guest_with_an_address_of_its_own_needs_no_forward() -> None:
    assert forwards('[machine.network]\nmode = "tap"\n' + STEP) == []


def test_ports_that_are_none() -> None:
    check_plugin(Plugin())
    with pytest.raises(PluginError, match="ports go from 1 to 65535"):
        forwards("[[machine.provision]]\nengine = { port = 70000 }\n")


def test_when_a_step_runs_unless_the_qupfile_says_so() -> None:
    (step,) = make_plan(STEP, Plugin()).provision
    assert step.run == "always"
    (step,) = make_plan(f'{STEP}run = "once"\n', Plugin()).provision
    assert step.run == "once"


def test_true_stands_for_nothing_but_defaults() -> None:
    (step,) = make_plan("[[machine.provision]]\nengine = true\n", Plugin()).provision
    assert step.options == {"port": 2376}
    with pytest.raises(ConfigError) as caught:
        make_plan("[[machine.provision]]\nengine = false\n", Plugin())
    assert "expected a table, got false" in str(caught.value.details)
    with pytest.raises(ConfigError):
        make_plan("[[machine.provision]]\nscript = true\n")
    forms = make_schema(plugins_with(Plugin()))
    assert '{"const": true' in str(forms).replace("'", '"').replace("True", "true")


# --- on this computer, for a guest --------------------------------------------------------


class Conductor(Engine):
    name = "conductor"
    on_host = True
    needs_guest = True
    default_run = "changed"

    def ports(self, options: Any) -> Sequence[int]:
        return []

    def problems(self, options: Any, project: Path, host: Any) -> Sequence[Problem]:
        return [] if host.which("baton") else [Problem("the baton is missing", "buy one")]


class Orchestra:
    @hookimpl
    def qup_provisioners(self) -> list[Engine]:
        return [Conductor()]


CONDUCT = "[[machine.provision]]\nconductor = {}\n"


def check(host: FakeHost, *done: str, wanted: Wanted | None = None) -> None:
    registry = plugins_with(Orchestra())
    config = load(parse(CONDUCT.encode()), registry=registry).machines["default"]
    plan = make_plan(CONDUCT, Orchestra(), host=host)
    ctx: Any = SimpleNamespace(plugins=registry, project=Project(Path("/project")), host=host)
    check_steps(ctx, config, plan, done, wanted or Wanted())


def test_what_a_step_lacks_is_said_before_the_start() -> None:
    host = FakeHost()
    with pytest.raises(HostError) as caught:
        check(host)
    assert "machine default: provisioning step conductor 1 can't run" in caught.value.message
    assert "the baton is missing" in caught.value.message
    assert caught.value.hint == "buy one; --no-provision starts the machine without it"
    host.programs.add("baton")
    check(host)


def test_a_step_that_does_not_run_needs_nothing() -> None:
    host = FakeHost()
    (step,) = make_plan(CONDUCT, Orchestra(), host=host).provision
    check(host, step.mark)
    check(host, wanted=Wanted(none=True))


def test_a_step_on_this_computer_may_need_the_guest() -> None:
    (step,) = make_plan(CONDUCT, Orchestra()).provision
    assert (step.on_host, step.run) == (True, "changed")
    with pytest.raises(ConfigError) as caught:
        make_plan(CONDUCT + 'on = "before-up"\n', Orchestra())
    assert "'conductor' works on the guest, which is not up" in str(caught.value.details)
