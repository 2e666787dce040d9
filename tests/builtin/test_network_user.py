"""The network mode ``user``: its options, its plan, and what it objects to."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from qup.api import AddressPlan, Forward, NetworkMode, NicRequest, PortRange
from qup.builtin.network_user import UserNetwork, qup_network_modes

NIC = NicRequest("web", "web.example", 0, "52:54:00:00:00:01")


def options(**values: Any) -> Any:
    return UserNetwork().options.model_validate(values)


def test_registration() -> None:
    (mode,) = qup_network_modes()
    found: NetworkMode = mode
    assert found.name == "user"
    assert found.summary


def test_importing_it_does_not_import_pydantic() -> None:
    code = "import sys, qup.builtin.network_user; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=sys.path[0] or None, check=False,
                          env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0  # fmt: skip


def test_forwards_are_read() -> None:
    read = options(forward=["8080:80", "0:8000", "127.0.0.2:5353:53/udp"]).forward
    assert read == (
        Forward("tcp", "127.0.0.1", 8080, 80),
        Forward("tcp", "127.0.0.1", 0, 8000),
        Forward("udp", "127.0.0.2", 5353, 53),
    )
    assert options().forward == ()


def test_forwards_are_shown_without_a_warning() -> None:
    """By ``qup plan --explain``; here a warning is an error."""
    shown = options(forward=["0:80"]).model_dump(mode="json")
    (forward,) = shown["forward"]
    assert forward == {"protocol": "tcp", "address": "127.0.0.1", "host": 0, "guest": 80}


@pytest.mark.parametrize(
    ("values", "where", "said"),
    [
        ({"forward": ["80"]}, ("forward", 0), "'80' is not a forward; write"),
        ({"forward": ["8080:80", "1:99999"]}, ("forward", 1), "ports go from 1 to 65535"),
        ({"forward": ["1:2", 8080]}, ("forward", 1), "8080 is not a forward"),
        ({"forward": [["1:2"]]}, ("forward", 0), "is not a forward"),
        ({"forward": "8080:80"}, ("forward",), "tuple"),
        ({"forward": ["8080:80", "8081:80"]}, ("forward",), "guest's port 80/tcp"),
        ({"isolate": "yes"}, ("isolate",), "boolean"),
        ({"ports": "40000"}, ("ports",), 'one end only; for that single port write "40000-40000"'),
        ({"ports": "40000-"}, ("ports",), "one end only"),
        ({"ports": "-40000"}, ("ports",), "one end only"),
        ({"ports": "40010-40000"}, ("ports",), 'wrong way round; write "40000-40010"'),
        ({"ports": "1-70000"}, ("ports",), "ports go from 1 to 65535"),
        ({"ports": "0-5"}, ("ports",), "ports go from 1 to 65535"),
        ({"ports": "-"}, ("ports",), "is not a range of ports"),
        ({"ports": ["8080:80"]}, ("ports",), "is not a range of ports"),
        ({"ports": 40000}, ("ports",), "is not a range of ports"),
        ({"forwards": []}, ("forwards",), "not permitted"),
    ],
)
def test_bad_options(values: dict[str, Any], where: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**values)
    (error,) = caught.value.errors()
    assert error["loc"] == where
    assert said in error["msg"]


@pytest.mark.parametrize(
    "rules",
    [
        ["8080:80", "8080:80/udp"],
        ["127.0.0.1:8080:80", "127.0.0.2:8080:81"],
        ["0:80", "0:81"],
    ],
)
def test_forwards_that_get_along(rules: list[str]) -> None:
    assert len(options(forward=rules).forward) == 2


def test_schema_describes_forwards() -> None:
    schema = UserNetwork().options.model_json_schema(by_alias=True)
    assert schema["properties"]["forward"]["items"]["type"] == "string"
    assert all(one.get("description") for one in schema["properties"].values())


def test_plan() -> None:
    plan = UserNetwork().plan(options(forward=["8080:80"]), NIC)
    assert plan.netdev == {"type": "user", "hostname": "web.example", "ipv6": "off"}
    assert [forward.rule for forward in plan.forwards] == ["tcp:127.0.0.1:8080-:80"]
    assert plan.ssh_address is None
    assert plan.actions == ()
    assert UserNetwork().plan(options(isolate=True), NIC).netdev["restrict"] == "on"


def test_taken_port_is_left_to_the_start(tmp_path: object) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = UserNetwork().problems(options(forward=[f"{port}:80", "0:81"]), None)  # type: ignore[arg-type]
    assert found == []


def test_address_of_another_computer() -> None:
    (problem,) = UserNetwork().problems(options(forward=["192.0.2.1:8080:80"]), None)  # type: ignore[arg-type]
    assert "192.0.2.1 is not an address of this computer" in problem.message


def test_port_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refusing)
    (problem,) = UserNetwork().problems(options(forward=["80:80"]), None)  # type: ignore[arg-type]
    assert "below 1024" in problem.message
    assert problem.hint == "take a higher one, such as 8080"


def test_a_range_of_ports_is_read() -> None:
    assert options(ports="40000-40009").ports == PortRange(40000, 40009)
    assert options(ports=" 40000 - 40000 ").ports == PortRange(40000, 40000)
    assert list(PortRange(7, 9)) == [7, 8, 9]
    assert UserNetwork().plan(options(ports="1-2"), NIC).ports == PortRange(1, 2)
    assert options().ports is None


def test_two_cards_are_in_two_networks() -> None:
    first, second = (UserNetwork().plan(options(), replace(NIC, index=index)) for index in (0, 1))
    assert "net" not in first.netdev
    assert second.netdev["net"] == "10.0.3.0/24"
    assert (first.guest_address, second.guest_address) == ("10.0.2.15", "10.0.3.15")


@pytest.mark.parametrize(
    ("resolvers", "told"),
    [
        ((), ()),
        (("192.0.2.1",), ()),
        (("127.0.0.53",), ()),
        (("192.0.2.1", "192.0.2.2"), ("10.0.2.3", "192.0.2.2")),
        (("127.0.0.1", "192.0.2.2"), ("10.0.2.3", "192.0.2.2")),
        (("192.0.2.1", "127.0.0.1"), ("10.0.2.3", "10.0.2.2")),
        (("192.0.2.1", "127.0.0.53"), ()),
        (("2001:db8::1", "192.0.2.1"), ()),
        (("192.0.2.1", "2001:db8::1", "192.0.2.2"), ("10.0.2.3", "192.0.2.2")),
        (tuple(f"192.0.2.{n}" for n in range(1, 6)), ("10.0.2.3", "192.0.2.2", "192.0.2.3")),
    ],
)
def test_a_guest_learns_the_resolvers_that_qemu_does_not_ask(
    resolvers: tuple[str, ...], told: tuple[str, ...]
) -> None:
    nic = replace(NIC, resolvers=resolvers)
    assert UserNetwork().plan(options(), nic).address == AddressPlan(nameservers=told)
    assert UserNetwork().plan(options(isolate=True), nic).address == AddressPlan()


def test_the_second_card_has_a_resolver_of_its_own() -> None:
    nic = replace(NIC, index=1, resolvers=("192.0.2.1", "127.0.0.1"))
    assert UserNetwork().plan(options(), nic).address.nameservers == ("10.0.3.3", "10.0.3.2")


def test_docker_machines_word_for_every_port_is_no_range() -> None:
    assert options(ports="0-65535").ports is None
