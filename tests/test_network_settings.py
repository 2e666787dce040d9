"""Variables and options that belong to some network modes only."""

from __future__ import annotations

from typing import Any

import pytest

from qup import qupfile
from qup.model.config import Config, Origin
from qup.model.settings import SETTINGS, Setting
from qup.qupfile import QupfileErrors
from tests.qupfile_registry import FakeRegistry

TAP = Setting("network.tap", "QUP_TAP", "--tap", "NAME", "A device.")
TWO = '[machine]\n[machines.a]\n[machines.b.network]\nmode = "tap"\ntap = "low"\n'


@pytest.fixture(autouse=True)
def a_setting_of_mode_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (*(row for row in SETTINGS if not row.is_network_option), TAP)
    for module in ("layers", "outer"):
        monkeypatch.setattr(f"qup.qupfile.{module}.BY_KEY", {row.key: row for row in rows})
    monkeypatch.setattr("qup.qupfile.layers.SETTINGS", rows)


def load(text: str, **given: Any) -> Config:
    return qupfile.load(qupfile.parse(text.encode()), registry=FakeRegistry(), **given)


def test_it_is_for_the_machines_whose_mode_has_it() -> None:
    for given in ({"environment": {"QUP_TAP": "x"}}, {"overrides": {"network.tap": "x"}}):
        config = load(TWO, **given)
        assert config.machines["b"].network.tap == "x"  # type: ignore[attr-defined]
        assert not hasattr(config.machines["a"].network, "tap")
        assert config.notes == ()


def test_a_variable_that_no_machine_has_a_use_for_is_ignored_with_a_note() -> None:
    config = load("[machine.network]\nisolate = true", environment={"QUP_TAP": "x"})
    assert config.notes == (
        "QUP_TAP is ignored: no machine here has a network mode with 'tap'",
    )  # fmt: skip
    assert config.machines["default"].network.isolate  # type: ignore[attr-defined]


def test_an_option_that_no_machine_has_a_use_for_is_an_error() -> None:
    with pytest.raises(QupfileErrors) as caught:
        load("", overrides={"network.tap": "x"})
    (found,) = caught.value.problems
    assert found.where == "command line --tap"
    assert found.message == "no machine here has a network mode with the option 'tap'"
    assert found.hint == "--network chooses another mode"


def test_what_is_set_by_its_key_is_meant() -> None:
    with pytest.raises(QupfileErrors, match="1 problem") as caught:
        load("", assignments=["network.tap=x"])
    assert caught.value.problems[0].message == "unknown key 'tap'"


def test_a_variable_stays_when_the_command_line_changes_the_mode() -> None:
    given: dict[str, Any] = {
        "environment": {"QUP_TAP": "x", "QUP_NETWORK": "user"},
        "overrides": {"network.mode": "tap"},
    }
    config = load('[machine.network]\nforward = ["8080:80"]', **given)
    assert config.machines["default"].network.tap == "x"  # type: ignore[attr-defined]
    origins = config.origins["default"]
    assert origins["network.tap"] == Origin("environment", "QUP_TAP")
    assert origins["network.mode"] == Origin("command line", "--network")


def test_a_mode_that_nobody_knows_is_the_only_problem() -> None:
    with pytest.raises(QupfileErrors) as caught:
        load("", overrides={"network.mode": "vde", "network.tap": "x"})
    assert [item.message for item in caught.value.problems] == ["unknown network mode 'vde'"]
