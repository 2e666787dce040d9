"""The network modes ``tap`` and ``bridge`` on real guests, in networks of the tests' own.

On port 22 of the host itself something says that it is an sshd, all the time: ssh must never
end up there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, find_processes, refused, run_qup
from tests.vm.lab import SMALL, Lab, alive, copy_tiny, open_lab, wait_until
from tests.vm.netns import HELPER, Net, open_net, wait_for_links

pytestmark = [pytest.mark.vm, pytest.mark.root]


@pytest.fixture
def net() -> Iterator[Net]:
    with open_net() as made:
        made.serve_ssh_on_the_host()
        yield made


@pytest.fixture
def box_cache(vm_cache: Path) -> Path:
    """The cache with the box in it: it can't be got in a network that leads nowhere."""
    run_qup("box", "build", "tiny", cwd=vm_cache, env={"QUP_CACHE_DIR": str(vm_cache)}).ok()
    return vm_cache


@pytest.fixture
def lab(net: Net, box_cache: Path) -> Iterator[Lab]:
    with open_lab(box_cache, prefix=net.prefix) as made:
        yield made


def monitor(lab: Lab, machine: str, command: str, /, **arguments: Any) -> Any:
    """A command of QEMU's monitor."""
    runtime = lab.inspect(machine)["state"]["launch"]["runtime"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"{runtime}/qmp")
        stream = connection.makefile("rw", encoding="utf-8")
        stream.readline()
        for words in (
            {"execute": "qmp_capabilities"},
            {"execute": command, "arguments": arguments},
        ):
            stream.write(json.dumps(words) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
        return answer


TAP = '[machine.network]\nmode = "tap"\n'
MADE = SMALL + TAP + 'interface = "vm0"\nhost-address = "192.168.7.1/24"\n'
MADE += TAP.replace("[machine.network]", "[[machine.networks]]") + 'interface = "vm1"\n'


def test_a_tap_that_qup_makes_is_gone_with_the_machine(net: Net, lab: Lab) -> None:
    """After kill -9 of QEMU, after down, and after destroy."""
    net.serve_dhcp("vm0", "192.168.7.20", "192.168.7.29")
    lab.write(MADE)
    assert "ifname=vm0" in lab("plan", "--qemu").ok().stdout
    done = lab("up").ok()
    seen = lab.inspect()
    address, source = seen["ssh"]["address"], seen["ssh"]["source"]
    assert address.startswith("192.168.7.2")
    assert source.startswith(("DHCP lease of dnsmasq", "neighbour table"))
    assert f"ssh on {address}:22, address by {source}" in done.stderr
    assert address in lab("status").ok().stdout
    assert source in lab("status").ok().stdout
    assert lab("ip").ok().stdout == f"{address}\n"
    assert address in lab.sh("ip -4 address show dev eth0")
    assert "192.168.7.1/24" in net.run("ip address show vm0")
    assert "elevateprivileges=deny" in Path(f"/proc/{lab.pid()}/cmdline").read_text()
    refused(lab("port", "add", "8080:80"), 9, "qup ip")

    lab.settle()
    pid = lab.pid()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(pid))
    assert wait_for_links(net, set())
    assert lab.status() == "crashed"

    net.forget_leases()  # of this server; the guest may get another address now
    assert "recovering" in lab("up").ok().stderr
    assert net.links() == {"vm0", "vm1"}
    assert "is up already" in lab("up").ok().stderr
    lab.write(MADE.replace("192.168.7.1/24", "192.168.8.1/24"))
    assert "network.host-address: 192.168.7.1/24 -> 192.168.8.1/24" in lab("up").ok().stderr
    lab("down").ok()
    assert wait_for_links(net, set())

    refused(lab("up", "--boot-timeout", "1s"), 10, "not ready after 1 s")
    assert net.links() == {"vm0", "vm1"}
    refused(lab("reload", "--boot-timeout", "1s", "--force"), 10, "not ready after 1 s")
    lab("destroy", "-y").ok()
    assert wait_for_links(net, set())


TWO = SMALL + '[machine.network]\nmode = "bridge"\n[machines.a]\n[machines.b]\n'


def test_machines_on_a_bridge(net: Net, lab: Lab) -> None:
    """They see each other; a cable is pulled; the bridge vanishes; an address is taken."""
    net.add_bridge("br0", "192.168.9.1/24")
    net.serve_dhcp("br0", "192.168.9.50", "192.168.9.59")
    lab.write(TWO)
    lab("up", timeout=240).ok()
    addresses = {name: lab.inspect(name)["ssh"]["address"] for name in "ab"}
    assert len(set(addresses.values())) == 2
    assert "1 packets received" in lab.sh(f"sudo ping -c 1 -w 10 {addresses['b']}", "a")
    for name in "ab":
        assert lab.sh("hostname", name) == f"{name}\n"
    mac = lab.sh("cat /sys/class/net/eth0/address", "a").strip()
    taps = net.links() - {"br0"}
    assert f"qup-{mac.replace(':', '')[6:]}" in taps
    assert len(taps) == 2

    assert monitor(lab, "a", "set_link", name="net0", up=False) == {"return": {}}
    said = lab("status", "a").ok().stdout
    assert f"{addresses['a']} does not answer" in said
    done = lab("up", "a", "--boot-timeout", "2s")
    refused(done, 10, f"{addresses['a']} does not answer", "the guest is expected at")
    assert monitor(lab, "a", "set_link", name="net0", up=True) == {"return": {}}
    lab("up", "a").ok()
    assert lab.sh("hostname", "a") == "a\n"

    net.run("ip link delete br0")
    assert "the bridge br0 is gone" in lab("status", "a").ok().stdout
    refused(lab("up", "a"), 9, "the bridge br0 is gone", "ip link set qup-")
    net.add_bridge("br0", "192.168.9.1/24")
    assert "is not on the bridge br0 any more" in lab("status", "a").ok().stdout
    for tap in taps:
        net.run(f"ip link set {tap} master br0")
    assert lab.sh("hostname", "a") == "a\n"

    # Somebody else has the address: b, which has another host key, and another MAC.
    lab("down", "a", "--force").ok()
    done = lab("up", "a", "--network-address", addresses["b"], timeout=240)
    refused(done, 10, "another host key", f"{addresses['b']} is taken by", mac)
    assert lab.status("b") == "running"
    # An old book says the same, and is not believed when b shows its key.
    lab("down", "a", "--force").ok()
    (net.root / "leases/dnsmasq.old.leases").write_text(f"0 {mac} {addresses['b']} a *\n")
    lab("up", "a", timeout=240).ok()
    assert lab.inspect("a")["ssh"]["address"] != addresses["b"]
    assert lab.sh("hostname", "a") == "a\n"
    lab("destroy", "-y").ok()
    assert wait_for_links(net, {"br0"})

    # A shared connection that was just being opened gives up when it finds nobody.
    lab("destroy", "-y").ok()
    mark = f"ssh\0-F\0{lab.folder}/"
    assert wait_until(lambda: not find_processes(mark), 35)


# --- as somebody who isn't root -----------------------------------------------------------------

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@pytest.fixture
def user_lab(net: Net, box_cache: Path) -> Iterator[Lab]:
    """A project of a user who may do nothing to the network."""
    python = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", "import qup.cli.main"], cwd=ROOT, capture_output=True
    )
    if python.returncode != 0:
        pytest.skip("another user can't read this checkout")
    with open_lab(box_cache, prefix=(*net.prefix, *AS_NOBODY)) as made:
        made.cache = made.box.root / "cache"  # root's is for nobody else
        copy_tiny(box_cache, made.cache)
        for path in (made.box.root, *made.box.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield made


BRIDGED = SMALL + '[machine.network]\nmode = "bridge"\n'


def test_a_bridge_through_the_helper(net: Net, user_lab: Lab) -> None:
    """What it lacks is named with what mends it, until nothing is missing; then it works."""
    lab = user_lab
    lab.write(BRIDGED)
    done = lab("up")
    refused(
        done,
        5,
        "there is no bridge br0",
        "sudo ip link add br0 type bridge",
        "is not setuid root",
        f"sudo chmod u+s {HELPER}",
        "there is no /etc/qemu/bridge.conf",
        "echo allow br0 >> /etc/qemu/bridge.conf",
    )
    net.add_bridge("br0", "192.168.9.1/24")
    net.allow("# none yet\n")
    refused(lab("up"), 5, "2 problems", "is not setuid root", "has no line 'allow br0'")
    net.make_helper_setuid()
    net.allow("allow br0\ndeny all\n")
    refused(lab("up"), 5, "/etc/qemu/bridge.conf:2 denies the bridge br0", "'deny all'")
    net.allow("include /etc/qemu/more.conf\n")
    (net.root / "etc/qemu/more.conf").write_text("allow br0\n")

    net.serve_dhcp("br0", "192.168.9.50", "192.168.9.59")
    lab("up").ok()
    assert lab.inspect()["ssh"]["address"].startswith("192.168.9.5")
    assert lab.sh("hostname") == "default\n"
    assert "elevateprivileges=deny" in Path(f"/proc/{lab.pid()}/cmdline").read_text()
    (tap,) = net.links() - {"br0"}
    assert lab.inspect()["state"]["launch"]["taps"] == [{"interface": tap, "bridge": "br0"}]
    net.allow("")  # the line is gone: the machine runs on, and doesn't start again
    assert lab.sh("hostname") == "default\n"
    refused(lab("reload"), 5, "has no line 'allow br0'")
    assert lab.status() == "running"
    lab("down").ok()
    assert wait_for_links(net, {"br0"})


def test_a_tap_that_is_there(net: Net, user_lab: Lab) -> None:
    """What keeps its user from using it; then a guest without any DHCP, at a given address."""
    lab = user_lab
    lab.write(SMALL + TAP)
    refused(lab("up"), 5, "there is no interface tap0", "ip tuntap add dev tap0 mode tap user")
    net.run("ip link add tap0 type bridge")
    refused(lab("up"), 5, "tap0 is an interface, but no tap")
    net.run("ip link del tap0")
    net.run("ip tuntap add dev tap0 mode tap user 12345")
    refused(lab("up"), 5, "tap0 is not yours: it is for uid 12345", "ip tuntap del dev tap0")
    net.run("ip tuntap del dev tap0 mode tap")
    net.run(f"ip tuntap add dev tap0 mode tap user {NOBODY}")
    refused(lab("up"), 5, "tap0 is switched off", "sudo ip link set tap0 up")
    net.run("ip address add 192.168.7.1/24 dev tap0")
    net.run("ip link set tap0 up")
    more = 'host-address = "192.168.8.1/24"\nbridge = "br7"\n'
    lab.write(SMALL + TAP + more)
    refused(lab("up"), 5, "there is no bridge br7", "not on bridge br7", "192.168.8.1/24 is not on")
    lab.write(SMALL + TAP + 'address = "192.168.7.1"\n')
    refused(lab("up"), 5, "192.168.7.1 is this computer's own")

    mine = SMALL + TAP + 'address = "192.168.7.2/24"\n'
    lab.write(mine + "[machines.web]\n")
    lab("up").ok()
    assert lab.inspect("web")["ssh"]["source"] == "network.address"
    assert lab.sh("hostname", "web") == "web\n"
    pid = lab.pid("web")
    lab.write(mine + "[machines.other]\n")
    refused(lab("up"), 5, f"tap0 is in use by process {pid} (qemu-system")
    lab.write(mine + "[machines.web]\n")
    lab("reload", "web").ok()  # by its own QEMU, it isn't
    lab("down", "web").ok()
    assert net.links() == {"tap0"}


# --- where only the guest itself can tell ---------------------------------------------------------

AGENT = """
user-data = '''
#cloud-config
bootcmd:
  - "[ ! -e /opt/ga/run ] || sh /opt/ga/run &"
'''
"""
RUN_AGENT = """
modprobe virtio_console
until grep -q org.qemu.guest_agent.0 /sys/class/virtio-ports/vport*/name; do usleep 50000; done
port=$(echo /dev/vport*)
cd /opt/ga
exec ./ld.so --library-path . ./qemu-ga -m virtio-serial -p $port -t /run
"""


def copy_agent(lab: Lab) -> None:
    """Put Debian's guest agent into the guest, with the libraries it needs."""
    program = shutil.which("qemu-ga", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [word for word in said.split() if word.startswith("/")]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "ga")
        folder.mkdir()
        for path in (program, *libraries):
            name = "ld.so" if "/ld-" in path else Path(path).name
            shutil.copy(path, folder / name)
        (folder / "run").write_text(RUN_AGENT)
        tar = subprocess.run(["tar", "-C", made, "-c", "ga"], capture_output=True, check=True)
        config = lab.machine() / "ssh" / "config"
        subprocess.run(
            [*lab.prefix, "ssh", "-F", config, "default", "sudo tar -C /opt -x && sync"],
            input=tar.stdout, check=True, env={**os.environ, **lab.env},
        )  # fmt: skip


def test_a_guest_agent_tells_the_address(net: Net, lab: Lab) -> None:
    """The DHCP server is elsewhere on the network: neither leases nor neighbours say anything.

    Its own address is no guest's, although no sshd is there that could show a wrong key.
    """
    if shutil.which("qemu-ga", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("no qemu-guest-agent: 'make test' installs it")
    net.add_bridge("br0", "192.168.9.1/24")
    with open_net() as router:
        net.run(f"ip link add lan type veth peer name uplink netns {router.pid}")
        net.run("ip link set lan master br0 up")
        router.run("ip address add 192.168.9.2/24 dev uplink")
        router.run("ip link set uplink up")
        router.serve_dhcp("uplink", "192.168.9.50", "192.168.9.50")
        lab.write(BRIDGED.replace(SMALL, SMALL + AGENT))
        done = lab("up", "--network-address", "192.168.9.2", "--boot-timeout", "3s")
        taken = json.loads(router.run("ip -j link show uplink"))[0]["address"]
        refused(done, 10, f"192.168.9.2 seems to be taken: {taken} has it")
        lab("down", "--force").ok()
        lab("up", "--boot-timeout", "1s")
        log = lab.machine() / "logs" / "serial.log"
        assert wait_until(lambda: "ready" in log.read_text(), 120)
        done = lab("up", "--boot-timeout", "1s")
        refused(
            done,
            10,
            "no address of the guest was found",
            "no DHCP lease for 52:54:00",
            "no answer from a guest agent",
            "no neighbour with that MAC",
            "network.address",
        )
        done = lab("up", "--network-address", "192.168.9.50").ok()
        assert "its address is 192.168.9.50" in done.stderr
        assert "qup reload" not in done.stderr
        copy_agent(lab)
        lab("down").ok()
        net.run("ip neigh flush all")
        assert "192.168.9.50:22, address by guest agent" in lab("up").ok().stderr
        assert lab.inspect()["ssh"]["source"] == "guest agent"
        assert lab.sh("hostname") == "default\n"
