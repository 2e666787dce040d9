"""The user network on real guests: ports from a range, forwards that follow the Qupfile, two
cards, and what a guest that is isolated can't reach."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.vm.lab import Lab, open_lab

pytestmark = pytest.mark.vm

QUPFILE = """
[machine]
memory = "160M"
disk = "1G"
[machine.network]
ports = "{ports}"
[machines.a]
primary = true
hostname = "a.example"
[machines.b]
network.isolate = true
[[machines.b.networks]]
"""


def find_range(length: int) -> range:
    """So many ports in a row that nobody has, below those that the kernel gives out."""
    for first in range(20000, 32000, length):
        ports = range(first, first + length)
        try:
            with hold(*ports):
                return ports
        except OSError:
            continue
    raise AssertionError


@contextmanager
def hold(*ports: int) -> Iterator[None]:
    """Be another program that has these ports."""
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.fixture(scope="module")
def ports() -> range:
    return find_range(4)


@pytest.fixture(scope="module")
def lab(vm_cache: Any, ports: range) -> Iterator[Lab]:
    with open_lab(vm_cache, QUPFILE.format(ports=f"{ports[0]}-{ports[-1]}")) as made:
        yield made


def ssh_port(lab: Lab, machine: str) -> int:
    port = lab.inspect(machine)["state"]["launch"]["ssh_port"]
    assert isinstance(port, int)
    return port


def forwards(lab: Lab, machine: str = "a") -> dict[int, int]:
    """Host ports by the guest's, without ssh's."""
    found = json.loads(lab("port", "list", machine, "--json").ok().stdout)["forwards"]
    return {item["guest"]: item["host"] for item in found if item["guest"] != 22}


# --- in this order: the machines are started by the first two ------------------------------------


def test_a_full_range_starts_nothing_and_says_so(lab: Lab, ports: range) -> None:
    with hold(*ports):
        done = lab("up", "a")
        assert done.code == 9
        said = f"no port from {ports[0]}-{ports[-1]} is free on 127.0.0.1"
        assert f"machine a: no way in for ssh: {said}" in done.stderr
        assert "widen 'ports'" in done.stderr
        assert lab.qemus() == []
        assert lab.status("a") == "stopped"


def test_two_machines_at_once_take_the_two_ports_that_are_left(lab: Lab, ports: range) -> None:
    with hold(*ports[1:3]):
        lab("up", "a", "b").ok()
        assert {ssh_port(lab, "a"), ssh_port(lab, "b")} == {ports[0], ports[3]}
        assert lab.sh("hostname", "a") == "a.example\n"
        full = lab("port", "add", f"{ports[1]}:80", "-m", "a")
        assert full.code == 9


def test_a_forward_takes_its_port_from_the_range_or_says_that_none_is_left(
    lab: Lab, ports: range
) -> None:
    text = (lab.folder / "Qupfile").read_text()
    lab.write(text.replace("primary = true", 'primary = true\nnetwork.forward = ["0:80"]'))
    with hold(*ports[1:3]):
        done = lab("up", "a")
        assert done.code == 9
        assert "forward 127.0.0.1:0:80: no port from" in done.stderr
        assert lab.status("a") == "running"
    lab("up", "a").ok()
    assert forwards(lab) == {80: ports[1]}
    lab.write(text)
    assert f"closed 127.0.0.1:{ports[1]}:80" in lab("up", "a").ok().stderr
    assert forwards(lab) == {}
    lab("port", "add", "0:70").ok()
    assert forwards(lab) == {70: ports[1]}
    lab("port", "rm", "0:70").ok()


def test_forwards_follow_the_qupfile_while_it_runs(lab: Lab) -> None:
    text = (lab.folder / "Qupfile").read_text()
    pid = lab.pid("a")
    one, two, mine = find_range(3)

    def up(*rules: str) -> str:
        wanted = f"primary = true\nnetwork.forward = {json.dumps(rules)}"
        lab.write(text.replace("primary = true", wanted))
        return lab("up", "a").ok().stderr

    assert f"opened 127.0.0.1:{one}:22" in up(f"{one}:22")
    with socket.create_connection(("127.0.0.1", one), timeout=10) as connection:
        assert connection.recv(4) == b"SSH-"
    lab("port", "add", f"{mine}:90", "-m", "a").ok()
    said = up(f"{two}:81")
    assert f"opened 127.0.0.1:{two}:81" in said
    assert f"closed 127.0.0.1:{one}:22" in said
    assert "configuration has changed" not in said
    assert forwards(lab) == {81: two, 90: mine}
    assert "is up already" in up(f"{two}:81")
    assert lab.inspect("a")["plan"]["nics"][0]["plan"]["forwards"][0]["host"] == two
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", one), timeout=10)
    lab.write(text)
    lab("up", "a").ok()
    assert forwards(lab) == {90: mine}
    lab("port", "rm", f"{mine}:90", "-m", "a").ok()
    assert forwards(lab) == {}
    assert lab.pid("a") == pid


def test_dhcp_tells_the_hostname(lab: Lab) -> None:
    show = "printf '#!/bin/sh\\necho $1 $hostname\\n' >/tmp/show; chmod +x /tmp/show"
    said = lab.sh(f"{show}; sudo udhcpc -i eth0 -n -q -f -s /tmp/show 2>/dev/null", "a")
    assert "bound a.example" in said


def test_two_cards_with_dhcp_and_one_that_is_isolated(lab: Lab) -> None:
    said = lab.sh("ip -o -4 addr; ip route; cat /etc/resolv.conf", "b")
    assert "eth0    inet 10.0.2.15/24" in said
    assert "eth1    inet 10.0.3.15/24" in said
    assert "default via 10.0.3.2 dev eth1" in said
    assert "default via 10.0.2.2" not in said
    assert "nameserver 10.0.3.3" in said
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(20)
        lab("ssh", "b", "--", f"timeout 3 nc -w 2 10.0.2.2 {port} </dev/null")
        lab("ssh", "b", "--", f"timeout 3 nc -w 2 10.0.3.2 {port} </dev/null; true").ok()
        server.accept()[0].close()
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_forward_leads_to_the_card_that_has_it(lab: Lab) -> None:
    text = (lab.folder / "Qupfile").read_text()
    lab.write(text + 'forward = ["0:22"]\n')
    lab("up", "b").ok()
    found = json.loads(lab("port", "list", "b", "--json").ok().stdout)["forwards"]
    (second,) = [item for item in found if item["nic"] == 1]
    with socket.create_connection(("127.0.0.1", second["host"]), timeout=10) as connection:
        assert connection.recv(4) == b"SSH-"


def test_a_card_that_comes_to_a_machine_is_there_after_a_reload(lab: Lab) -> None:
    text = (lab.folder / "Qupfile").read_text()
    lab.write(
        text.replace("[machines.b]", '[[machines.a.networks]]\nforward = ["0:9"]\n[machines.b]')
    )
    said = lab("up", "a").ok().stderr
    assert "networks: none -> user type=user" in said
    assert "'qup reload a'" in said
    assert forwards(lab) == {}
    lab("reload", "a", "--force").ok()
    assert "eth1    inet 10.0.3.15/24" in lab.sh("ip -o -4 addr", "a")
    assert "default via 10.0.2.2 dev eth0" in lab.sh("ip route | head -n 1", "a")
    assert lab.sh("head -n 1 /etc/resolv.conf", "a") == "nameserver 10.0.2.3\n"
    assert list(forwards(lab)) == [9]
    assert "eth1" in lab("port", "list", "a").ok().stdout
