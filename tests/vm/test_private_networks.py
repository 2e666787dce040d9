"""Machines of one project on networks of their own; other projects, and copies, are not on them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import socketserver
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from qup.builtin.network_private import default_address
from tests.vm.lab import Lab, open_lab, wait_until

pytestmark = pytest.mark.vm

MACHINES = """
[machine]
memory = "160M"
disk = "1G"
[[machine.networks]]
mode = "private"
[machines.web]
primary = true
[machines.db]
hostname = "db.example"
networks = [{ mode = "private" }, { mode = "private", name = "lab" }]
"""
VAULT = """
[machines.vault]
networks = []
[machines.vault.network]
mode = "private"
"""
QUPFILE = MACHINES + VAULT


def address(machine: str, network: str = "default") -> str:
    return default_address(network, machine).partition("/")[0]


def hears(lab: Lab, machine: str, who: str, **more: Path) -> bool:
    """Whether somebody answers a machine's ping."""
    script = f"sudo ping -c 1 -W 2 {who} || sudo ping -c 1 -W 4 {who}"
    return lab("ssh", machine, "--", script, **more).code == 0


def names(lab: Lab, machine: str) -> dict[str, str]:
    """The addresses in a guest's /etc/hosts, by name."""
    lines = [line.split() for line in lab.sh("cat /etc/hosts", machine).splitlines()]
    return {name: line[0] for line in lines if line[:1] != ["#"] for name in line[1:]}


@contextmanager
def greeter() -> Iterator[int]:
    """A port of this computer's loopback that says hello to whoever comes."""

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"hello")

    with socketserver.TCPServer(("127.0.0.1", 0), Greeting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, QUPFILE) as made:
        made("up").ok()
        yield made


def test_three_machines_reach_each_other_by_name(lab: Lab) -> None:
    for machine, others in {
        "web": ("db", "db.example", "vault", "db.default"),
        "db": ("web", "vault"),
        "vault": ("web", "db"),
    }.items():
        assert [who for who in others if not hears(lab, machine, who)] == []


def test_cards_are_in_the_order_of_the_qupfile(lab: Lab) -> None:
    said = lab.sh("ip -o -4 addr", "db")
    cards = re.findall(r"(eth\d)\s+inet (\S+)", said)
    lab_address = default_address("lab", "db")
    assert cards == [
        ("eth0", "10.0.2.15/24"), ("eth1", default_address("default", "db")), ("eth2", lab_address),
    ]  # fmt: skip
    assert "default via 10.0.2.2 dev eth0" in lab.sh("ip route", "db")
    plan = lab("plan", "db").ok().stdout
    assert f"private ({lab.inspect('db')['plan']['nics'][2]['mac']}), {lab_address}" in plan


def test_networks_of_other_names_are_other_networks(lab: Lab) -> None:
    assert hears(lab, "db", f"-I eth1 {address('web')}")
    assert not hears(lab, "db", f"-I eth2 {address('web')}")
    assert "db.lab" not in names(lab, "web")


def test_a_machine_without_another_network_is_kept_in_and_ssh_gets_in(lab: Lab) -> None:
    assert "default" not in lab.sh("ip route", "vault")
    with greeter() as port:
        knock = f"timeout 4 nc -w 2 10.0.{{}}.2 {port} </dev/null"
        assert lab("ssh", "web", "--", knock.format(2)).stdout == "hello"
        assert lab("ssh", "vault", "--", knock.format(255)).stdout == ""
    assert "(for ssh)" in lab("plan", "vault").ok().stdout
    opened = json.loads(lab("port", "add", "0:22", "-m", "vault", "--json").ok().stdout)["forward"]
    with socket.create_connection(("127.0.0.1", opened["host"]), timeout=10) as connection:
        assert connection.recv(4) == b"SSH-"


def test_a_guest_that_reboots_is_who_it_was(lab: Lab) -> None:
    before = lab.sh("cat /proc/sys/kernel/random/boot_id", "db")
    lab("ssh", "db", "--", "sudo reboot")

    def is_back() -> bool:
        done = lab("ssh", "db", "--", "cat /proc/sys/kernel/random/boot_id")
        return done.code == 0 and done.stdout != before

    assert wait_until(is_back, 60)
    assert names(lab, "db")["web"] == address("web")
    assert hears(lab, "db", "web")
    assert hears(lab, "web", "db")


def test_machines_come_and_go_and_the_others_learn_of_it(lab: Lab) -> None:
    lab.sh("echo 192.0.2.7 mine | sudo tee -a /etc/hosts", "web")
    lab.write(MACHINES + "[machines.new]\nautostart = false\n")
    lab("up", "web", "db").ok()
    for machine in ("web", "db"):
        known = names(lab, machine)
        assert known["new"] == address("new")
        assert "vault" not in known
    assert names(lab, "web")["mine"] == "192.0.2.7"
    lab.write(QUPFILE)
    lab("up", "db").ok()
    for machine in ("web", "db"):
        known = names(lab, machine)
        assert known["vault"] == address("vault")
        assert "new" not in known
    text = lab.sh("cat /etc/hosts", "web")
    lab("up", "web").ok()
    assert lab.sh("cat /etc/hosts", "web") == text
    assert text.count("# qup: the other machines") == 1


@contextmanager
def copied(lab: Lab) -> Iterator[Path]:
    """A copy of the project, with everything in it; its machines are gone at the end."""
    folder = lab.folder.with_name("copy")
    subprocess.run(["cp", "-a", lab.folder, folder], check=True)
    try:
        yield folder
    finally:
        lab("destroy", "-y", cwd=folder)
        shutil.rmtree(folder)


def test_a_copy_of_the_project_is_not_on_its_networks(lab: Lab) -> None:
    with copied(lab) as folder:
        lab("up", "web", cwd=folder).ok()
        ids = [
            json.loads((root / ".qup" / "project.json").read_text())["id"]
            for root in (lab.folder, folder)
        ]
        assert ids[0] != ids[1]
        assert not hears(lab, "web", "db", cwd=folder)
        assert hears(lab, "web", "db")
        assert hears(lab, "db", "web")


def test_a_moved_project_stays_on_its_networks(lab: Lab) -> None:
    folder = lab.folder.with_name("moved")
    lab("down", "vault", "--force").ok()
    lab.folder.rename(folder)
    try:
        lab("up", "vault", cwd=folder).ok()
        assert hears(lab, "vault", "web", cwd=folder)
    finally:
        folder.rename(lab.folder)
