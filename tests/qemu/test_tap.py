"""Opening taps, where somebody was faster than the preflight saw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.vm.netns import Net, open_net

pytestmark = [pytest.mark.root, pytest.mark.process]

OPEN = """
import os, sys
from qup.errors import HostError
from qup.interfaces import read_interface
from qup.model.network import Tap
from qup.qemu.tap import open_tap
tap = Tap(sys.argv[1], *(word or None for word in sys.argv[3:]))
try:
    with open_tap(tap, "52:54:00:0a:0b:0c") as opened:
        print(opened.link, read_interface(opened.link.interface))
        if sys.argv[2] == "twice":
            with open_tap(tap, "52:54:00:0a:0b:0c"):
                pass
        elif sys.argv[2]:
            os.system(sys.argv[2])
except HostError as exc:
    print(exc.message, "|", exc.hint)
"""


@pytest.fixture
def net() -> Iterator[Net]:
    with open_net() as made:
        yield made


def open_tap(net: Net, *words: str, user: int = 0) -> str:
    program = [*net.prefix]
    if user:
        program += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    done = subprocess.run(
        [*program, sys.executable, "-c", OPEN, *words],
        cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin"},
    )  # fmt: skip
    if user and "Permission denied" in done.stderr:
        pytest.skip("another user can't read this checkout")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tap_that_is_made(net: Net) -> None:
    net.add_bridge("br0")
    net.run("ip link set br0 mtu 1400")
    said = open_tap(net, "vm0", "ip address show vm0", "br0", "10.1.2.1/24")
    assert "TapLink(interface='vm0', bridge='br0')" in said
    assert "persistent=False" in said
    assert "busy=True" in said
    assert "link/ether fe:54:00:0a:0b:0c" in said
    assert "mtu 1400" in said
    assert "inet 10.1.2.1/24" in said
    assert net.links() == {"br0"}


def test_a_tap_that_can_not_be_had(net: Net) -> None:
    """Nothing is left of one that was half made."""
    assert "vm0 is in use | another machine has it" in open_tap(net, "vm0", "twice")
    assert "vm0 can't be used: No such device" in open_tap(net, "vm0", "", "br7")
    assert net.links() == set()
    net.run("ip link add vm0 type bridge")
    assert "vm0 can't be used: Invalid argument" in open_tap(net, "vm0", "")
    net.run("ip link del vm0")
    assert "may not be made by you | 'sudo ip tuntap add" in open_tap(net, "vm0", "", user=65534)
    net.run("ip tuntap add dev vm0 mode tap user 12345")
    assert "belongs to somebody else" in open_tap(net, "vm0", "", user=65534)
    assert "bridge=None" in open_tap(net, "vm0", "")
    assert "vm0" in net.links()  # persistent: it was there before


def test_a_tap_of_several_queues(net: Net) -> None:
    net.run("ip tuntap add dev vm0 mode tap multi_queue")
    net.run("ip link set vm0 up")
    assert "multi_queue=True" in open_tap(net, "vm0", "twice")


ASK = """
from qup.errors import HostError
from qup.model.network import Tap
from qup.qemu import tap
tap.may_administrate = lambda: False  # root has the helper's rights, and needs no setuid bit
try:
    with tap.open_tap(Tap("vm0", "br0", helper=True), "52:54:00:0a:0b:0c") as opened:
        print(opened.link)
except HostError as exc:
    print(exc.message, exc.details)
"""


def test_the_helper_and_its_list(net: Net) -> None:
    """It decides for itself, and its words are passed on."""

    def ask() -> str:
        words = [*net.prefix, sys.executable, "-c", ASK]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    net.add_bridge("br0")
    net.allow("allow br0\n")
    assert ask() == "TapLink(interface='tap0', bridge='br0')\n"
    assert net.links() == {"br0"}
    net.allow("allow br1\n")
    said = ask()
    assert "qemu-bridge-helper failed (exit code 1)" in said
    assert "access denied by acl file" in said
    assert net.links() == {"br0"}
