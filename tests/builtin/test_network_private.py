"""The network mode ``private``: its addresses, its plan, and what it objects to."""

from __future__ import annotations

import errno
import ipaddress
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from qup.api import NicRequest
from qup.builtin.network_private import (
    PrivateNetwork,
    default_address,
    default_subnet,
    group_of,
    qup_network_modes,
)
from qup.testing import FakeHost

NIC = NicRequest("web", "web.example", 1, "52:54:00:00:00:01", project="one")


def options(**values: Any) -> Any:
    return PrivateNetwork().options.model_validate(values)


def test_importing_it_does_not_import_pydantic() -> None:
    code = "import sys, qup.builtin.network_private; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=sys.path[0] or None, check=False,
                          env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0  # fmt: skip


def test_the_plan() -> None:
    (mode,) = qup_network_modes()
    plan = mode.plan(options(), NIC)
    assert plan.netdev == {
        "type": "socket",
        "mcast": group_of("one", "default"),
        "localaddr": "127.0.0.1",
    }
    assert plan.address.addresses == (default_address("default", "web"),)
    assert not plan.address.dhcp
    assert not plan.reachable
    assert plan.segment == "private/default"
    assert mode.plan(options(address="10.1.2.3/24"), NIC).guest_address == "10.1.2.3"


def test_without_loopback_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    mode, host = PrivateNetwork(), FakeHost()
    assert mode.problems(options(), host) == ()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr("socket.socket.setsockopt", refuse)
    (problem,) = mode.problems(options(), host)
    assert "multicast on 127.0.0.1: No such device" in problem.message
    assert "ip link set lo up" in str(problem.hint)


def test_every_project_and_every_network_is_for_itself() -> None:
    groups = {
        PrivateNetwork().plan(options(name=name), replace(NIC, project=project)).netdev["mcast"]
        for project in ("one", "other")
        for name in ("default", "lab")
    }
    assert len(groups) == 4


@pytest.mark.parametrize("number", range(50))
def test_a_group_is_one_that_organizations_may_use(number: int) -> None:
    group, _, port = group_of("project", str(number)).partition(":")
    assert ipaddress.ip_address(group) in ipaddress.ip_network("239.192.0.0/14")
    assert 16384 <= int(port) < 32768


def test_an_address_is_made_of_the_names_and_stays() -> None:
    assert default_address("default", "web") == "10.128.77.84/16"
    assert str(default_subnet("default")) == "10.128.0.0/16"
    subnets = {str(default_subnet(f"n{number}")) for number in range(500)}
    assert "10.128.0.0/16" not in subnets
    assert len(subnets) > 100
    for number in range(500):
        interface = ipaddress.ip_interface(default_address(f"n{number}", f"m{number}"))
        assert interface.network == default_subnet(f"n{number}")
        assert 0 < int(interface.ip) % 256 < 255


def test_an_address_of_the_networks_own_subnet_needs_no_prefix() -> None:
    assert options(address="10.128.0.7").address == "10.128.0.7/16"
    lab = str(default_subnet("lab").network_address + 7)
    assert options(name="lab", address=lab).address == f"{lab}/16"


@pytest.mark.parametrize(
    ("values", "where", "said"),
    [
        ({"address": "10.1.2.3"}, ("address",), 'has no prefix and is not in 10.128.0.0/16'),
        ({"address": "10.1.2.0/24"}, ("address",), "network's own or its broadcast"),
        ({"address": "10.1.2.255/24"}, ("address",), "network's own or its broadcast"),
        ({"address": "10.1.2.3/33"}, ("address",), "not an IPv4 address with a prefix"),
        ({"address": "10.1.2.3/31"}, ("address",), "no room for two"),
        ({"address": "fd00::1/64"}, ("address",), "not an IPv4 address with a prefix"),
        ({"address": "127.0.0.5/8"}, ("address",), "not an address that a machine can have"),
        ({"address": "239.1.2.3/8"}, ("address",), "not an address that a machine can have"),
        ({"address": "dhcp"}, ("address",), "not an IPv4 address with a prefix"),
        ({"address": ""}, ("address",), "not an IPv4 address with a prefix"),
        ({"address": 10}, ("address",), "string"),
        ({"name": "My Net"}, ("name",), "not a network's name"),
        ({"name": ""}, ("name",), "not a network's name"),
        ({"forward": []}, ("forward",), "not permitted"),
    ],
)  # fmt: skip
def test_bad_options(values: dict[str, Any], where: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**values)
    (error,) = caught.value.errors()
    assert error["loc"] == where
    assert said in error["msg"]
