"""What a provisioner may have besides: ports to be reached, a moment by default, ``true``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from qup.api import ConfigError, Guest, PluginError, Settings, hookimpl
from qup.qupfile.schema import make_schema
from qup.testing import check_plugin, make_plan, plugins_with

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
