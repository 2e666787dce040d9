"""Templates of machines with more than one card and one disk: a cluster from one boot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qup.builtin.network_private import default_address
from tests.vm.lab import Lab, open_lab

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("cluster from a template")]

NODES = ("a", "b", "c")
CLUSTER = """
[machine]
memory = "160M"
disk = "1G"
networks = [{ mode = "user" }, { mode = "private" }]
""" + "".join(f"[machines.{name}]\n" for name in NODES)


def address(machine: str) -> str:
    return default_address("default", machine)


@pytest.fixture(scope="module")
def lab(vm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three machines from one template, which the first of them has made."""
    with open_lab(vm_cache, CLUSTER) as made:
        made.templates = True
        first = made("up", "a").ok()
        assert "cold boot" not in first.stderr
        others = made("up", "-j", "2").ok()
        assert others.stderr.count("restoring template") == 2, others
        assert "booting a template" not in others.stderr
        yield made


def check_cards(lab: Lab, name: str) -> None:
    """A machine's cards have their addresses, and it reaches the others by their names."""
    others = " ".join(set(NODES) - {name})
    said = lab.sh(
        f"for who in {others}; do sudo ping -c 1 -W 4 $who >/dev/null && echo $who; done;"
        " ip -4 -o addr; cat /sys/class/net/eth*/address",
        name,
    )
    words = said.split()
    assert {*words[:2]} == {*others.split()}, said
    for place in ("10.0.2.15/24", "10.0.3.15/24", address(name)):
        assert place in words, said
    assert said.count("inet ") == 4, said
    assert words[-3:] == [nic["mac"] for nic in lab.inspect(name)["plan"]["nics"]]


def test_a_cluster_from_one_template(lab: Lab) -> None:
    for name in NODES:
        check_cards(lab, name)


def test_a_member_is_itself_after_reset_snapshot_and_reboot(lab: Lab) -> None:
    lab("reset", "b").ok()
    check_cards(lab, "b")
    lab("snapshot", "save", "here", "b").ok()
    lab("snapshot", "restore", "here", "b").ok()
    check_cards(lab, "b")
    lab("down", "b").ok()
    lab("up", "b").ok()
    check_cards(lab, "b")
    check_cards(lab, "a")
