"""The network modes ``tap`` and ``bridge``: options, plans, and the helper's ACL."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qup.api import AddressPlan, ConfigError, NicRequest, Problem, Tap
from qup.builtin import network_bridge, network_tap, taps
from qup.builtin.network_bridge import BridgeNetwork, find_acl_problems, name_tap, read_acl
from qup.builtin.network_tap import TapNetwork
from qup.testing import FakeHost, make_plan, qemu_words

NIC = NicRequest("web", "web", 0, "52:54:00:0a:0b:0c")


def test_plans() -> None:
    mode = TapNetwork()
    plan = mode.plan(mode.options(), NIC)
    assert (plan.netdev, plan.tap, plan.discover) == ({"type": "tap"}, Tap("tap0"), True)
    given = {"interface": "vm.1", "address": "10.0.0.5", "host-address": "10.0.0.1/24",
             "bridge": "br1"}  # fmt: skip
    plan = mode.plan(mode.options.model_validate(given), NIC)
    assert plan.tap == Tap("vm.1", "br1", "10.0.0.1/24")
    assert (plan.ssh_address, plan.guest_address, plan.discover) == ("10.0.0.5", "10.0.0.5", False)

    assert plan.address.dhcp
    given |= {"address": "10.0.0.5/24", "gateway": "10.0.0.1"}
    nic = replace(NIC, resolvers=("127.0.0.53", "9.9.9.9", "fd00::1"))
    plan = mode.plan(mode.options.model_validate(given), nic)
    assert plan.ssh_address == "10.0.0.5"
    assert plan.address == AddressPlan(False, ("10.0.0.5/24",), "10.0.0.1", ("9.9.9.9",))

    bridge = BridgeNetwork()
    plan = bridge.plan(bridge.options(), NIC)
    assert plan.tap == Tap("qup-0a0b0c", "br0", helper=True)
    assert plan.discover
    assert len(name_tap(NIC.mac)) < 16


@pytest.mark.parametrize("module", [network_tap, network_bridge])
def test_importing_them_does_not_import_pydantic(module: Any) -> None:
    code = f"import sys, {module.__name__}; sys.exit('pydantic' in sys.modules)"
    env = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"interface": "sixteen-letters-"}, "not an interface's name"),
        ({"interface": "br0;x"}, "not an interface's name"),
        ({"interface": "all"}, "not an interface's name"),
        ({"interface": ".."}, "not an interface's name"),
        ({"interface": "a/b"}, "not an interface's name"),
        ({"interface": "tap%d"}, "not an interface's name"),
        ({"interface": ""}, "not an interface's name"),
        ({"interface": "täp"}, "not an interface's name"),
        ({"interface": "tap0\n"}, "not an interface's name"),
        ({"interface": 3}, "string"),
        ({"bridge": "-rf"}, "not an interface's name"),
        ({"address": "10.0.0.255/24"}, "of a whole network"),
        ({"address": "10.0.0.5/33"}, "with its prefix length"),
        ({"address": "10.0.0.5", "gateway": "10.0.0.1"}, "by DHCP gets its gateway, too"),
        ({"gateway": "10.0.0.1"}, "by DHCP gets its gateway, too"),
        ({"address": "10.0.0.5/24", "gateway": "10.0.0.1/24"}, "not an IPv4 address"),
        ({"address": "10.0.0"}, "not an IPv4 address"),
        ({"address": "fd00::1"}, "not an IPv4 address"),
        ({"address": "127.0.0.1"}, "not an address that a computer can have"),
        ({"address": "0.0.0.0"}, "not an address that a computer can have"),
        ({"host-address": "10.0.0.1"}, "with its prefix length"),
        ({"host-address": "10.0.0.1/33"}, "with its prefix length"),
        ({"host-address": "10.0.0.0/24"}, "of a whole network"),
        ({"host-address": "8.8.8.1/24"}, "not in a private network"),
        ({"host-address": "10.0.0.1/4"}, "not in a private network"),
        ({"forward": ["80:80"]}, "not permitted"),
    ],
)
def test_bad_options(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TapNetwork().options.model_validate(values)
    (error,) = caught.value.errors()
    assert said in error["msg"]


def test_schemas_describe_everything() -> None:
    for mode in (TapNetwork(), BridgeNetwork()):
        schema = mode.options.model_json_schema(by_alias=True)
        assert all(one.get("description") for one in schema["properties"].values())


def test_nothing_but_linux_has_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (TapNetwork(), BridgeNetwork()):
        (problem,) = mode.problems(mode.options(), FakeHost(system="darwin"))
        assert "Linux" in problem.message


def test_this_computers_own_address_is_no_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "is_own_address", lambda address: address == "10.0.0.1")
    (problem,) = taps.find_common_problems(FakeHost(), "10.0.0.1")
    assert "this computer's own" in problem.message
    assert list(taps.find_common_problems(FakeHost(), "10.0.0.2")) == []


# --- bridge.conf ----------------------------------------------------------------------------


def acl(tmp_path: Path, text: str, **others: str) -> list[Problem]:
    path = tmp_path / "bridge.conf"
    path.write_text(text.replace("@", f"{tmp_path}/"))
    for name, content in others.items():
        (tmp_path / name).write_text(content.replace("@", f"{tmp_path}/"))
    return list(find_acl_problems(path, "br0"))


@pytest.mark.parametrize(
    "text", ["allow br0\n", "  allow\tbr0  \n", "allow all", "# no\n\nallow br0\nallow br1\n"]
)
def test_acl_that_allows(tmp_path: Path, text: str) -> None:
    assert acl(tmp_path, text) == []


def test_acl_in_an_included_file(tmp_path: Path) -> None:
    assert acl(tmp_path, "include @more\n", more="include @bridge.conf\nallow br0\n") == []
    (problem,) = acl(tmp_path, "allow br0\ninclude @more\n", more="# x\ndeny all\n")
    assert f"{tmp_path}/more:2 denies" in problem.message
    (problem,) = acl(tmp_path, "include @nowhere\n")
    assert f"{tmp_path}/nowhere can't be read" in problem.message


@pytest.mark.parametrize("text", ["", "allow br1\n", "#allow br0\n", "allow br0 # ours\n"])
def test_acl_without_the_line(tmp_path: Path, text: str) -> None:
    (problem,) = acl(tmp_path, text)
    assert "has no line 'allow br0'" in problem.message
    assert f"echo allow br0 >> {tmp_path}/bridge.conf" in str(problem.hint)


@pytest.mark.parametrize("line", ["permit br0", "allow", "allow 0123456789abcdef"])
def test_acl_that_the_helper_does_not_understand(tmp_path: Path, line: str) -> None:
    (problem,) = acl(tmp_path, f"allow br0\n{line}\n")
    assert "bridge.conf:2" in problem.message
    assert "does not understand" in problem.message


def test_acl_that_is_not_there_or_locked(tmp_path: Path) -> None:
    (problem,) = find_acl_problems(tmp_path / "bridge.conf", "br0")
    assert "there is no" in problem.message
    (tmp_path / "bridge.conf").mkdir()
    (problem,) = find_acl_problems(tmp_path / "bridge.conf", "br0")
    assert "can't be read" in problem.message


def test_a_helper_needs_its_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "qemu-bridge-helper"
    helper.write_bytes(b"")
    monkeypatch.setattr(network_bridge, "find_bridge_helper", lambda: helper)
    monkeypatch.setattr(network_bridge, "acl_path", lambda helper: tmp_path / "bridge.conf")
    (tmp_path / "bridge.conf").write_text("allow br0\n")
    (problem,) = network_bridge.find_helper_problems("br0")
    assert problem.hint == f"sudo chmod u+s {helper}"
    if os.getuid() == 0:
        helper.chmod(0o4755)
        assert list(network_bridge.find_helper_problems("br0")) == []
    monkeypatch.setattr(network_bridge, "find_bridge_helper", lambda: None)
    (problem,) = network_bridge.find_helper_problems("br0")
    assert "not found" in problem.message


def test_including_oneself_ends(tmp_path: Path) -> None:
    path = tmp_path / "bridge.conf"
    path.write_text(f"include {path}\nallow br0\n")
    assert read_acl(path).rules


@pytest.mark.parametrize("mode", ["tap", "bridge"])
def test_an_option_of_another_mode_says_so(mode: str) -> None:
    text = f'[machine.network]\nmode = "{mode}"\nforward = ["8080:80"]\n'
    with pytest.raises(ConfigError) as caught:
        make_plan(text)
    said = str(caught.value.details)
    assert "Qupfile:3:1: unknown key 'forward'" in said
    assert f"an option of network mode 'user'; mode '{mode}' opens no ports" in said


def test_names_are_checked_where_they_stand() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan('[machine.network]\nmode = "tap"\ninterface = "br0;x"\n')
    assert caught.value.exit_code == 4
    assert "Qupfile:3:13: 'br0;x' is not an interface's name" in str(caught.value.details)


def test_command_line() -> None:
    """A port for the agent only where the address is looked for, and a name to paste."""
    text = '[machine.network]\nmode = "tap"\ninterface = "vm0"\n'
    line = " ".join(qemu_words(make_plan(text)))
    assert "tap,id=net0,ifname=vm0,script=no,downscript=no" in line
    assert "name=org.qemu.guest_agent.0" in line
    assert "guest_agent" not in " ".join(qemu_words(make_plan(text + 'address = "10.0.0.5"\n')))
    second = text.replace("[machine.network]", "[[machine.networks]]")
    line = " ".join(qemu_words(make_plan(second)))
    assert "tap,id=net1,ifname=vm0" in line
    assert "guest_agent" not in line  # ssh goes through the first card


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
vm0\t0007A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
broken
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is of a little-endian computer")
def test_networks_that_are_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "ROUTES", tmp_path / "route")
    assert taps.find_route(ipaddress.IPv4Network("192.168.1.0/24"), "vm0") is None
    (tmp_path / "route").write_text(ROUTES)
    for network in ("192.168.1.0/24", "192.168.1.128/25", "192.168.0.0/16"):
        found = taps.find_route(ipaddress.IPv4Network(network), "vm0")
        assert found == "eth0 (192.168.1.0/24)"
    for network in ("192.168.7.0/24", "10.0.0.0/8"):
        assert taps.find_route(ipaddress.IPv4Network(network), "vm0") is None
