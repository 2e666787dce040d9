"""Templates of machines with more than a card and a disk, and of those on networks with others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup.builtin.network_private import default_address
from qup.qemu.firmware import descriptor_folders, find_firmware
from tests.conftest import run_qup
from tests.vm.lab import Lab, open_lab
from tests.vm.netns import open_net

pytestmark = pytest.mark.vm

NODES = ("a", "b", "c")
CLUSTER = """
[machine]
memory = "160M"
disk = "1G"
networks = [{ mode = "user" }, { mode = "private" }]
disks = [{ name = "data", size = "32M" }]
[[machine.provision]]
shell = "echo provisioned once >note; sudo dd if=note of=/dev/vdc conv=sync 2>/dev/null"
share = "all"
""" + "".join(f"[machines.{name}]\n" for name in NODES)


def address(machine: str) -> str:
    return default_address("default", machine)


@pytest.fixture(scope="module")
def lab(vm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three machines from one template, which the first of them has made."""
    with open_lab(vm_cache, CLUSTER, templates=True) as made:
        first = made("up", "a").ok()
        assert "cold boot" not in first.stderr
        others = made("up", "-j", "2").ok()
        assert others.stderr.count("restoring provisioned template") == 2, others
        assert "booting a template" not in others.stderr
        yield made


def check_cards(lab: Lab, name: str) -> None:
    """A machine's cards have their addresses, and it reaches the others by their names."""
    others = " ".join(set(NODES) - {name})
    said = lab.sh(
        f"for who in {others}; do for try in 1 2 3 4 5; do"  # a packet may get lost
        " sudo ping -c 1 -W 4 $who >/dev/null && echo $who && break; done; done;"
        " ip -4 -o addr; cat /sys/class/net/eth*/address",
        name,
    )
    words = said.split()
    assert {*words[:2]} == {*others.split()}, said
    for place in ("10.0.2.15/24", "10.0.3.15/24", address(name)):
        assert place in words, said
    assert said.count("inet ") == 4, said
    assert lab.sh("sudo head -n 1 /dev/vdc", name) == "provisioned once\n"
    assert words[-3:] == [nic["mac"] for nic in lab.inspect(name)["plan"]["nics"]]


def derive_own_address(mac: str) -> str:
    """What Linux makes of a card's MAC address for IPv6 (RFC 4291, appendix A)."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    end = bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + end))


def test_a_cluster_from_one_template(lab: Lab) -> None:
    for name in NODES:
        check_cards(lab, name)
        mac = lab.inspect(name)["plan"]["nics"][2]["mac"]
        said = lab.sh("ip -6 addr show dev eth2", name)
        assert f"{derive_own_address(mac)}/64" in said
        assert said.count("inet6 ") == 1


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


def test_templates_are_carried_to_another_cache(lab: Lab, tmp_path: Path) -> None:
    """As between two runs of one CI image: nothing is booted, and the box comes along."""
    folder = tmp_path / "kept"
    lab("template", "export", folder).ok()
    files = sorted(folder.iterdir())
    assert len(files) == 2  # as it was booted, and provisioned
    assert lab("template", "export", folder).ok().stdout.count("is exported already") == 2
    cache = tmp_path / "cache"
    with open_lab(cache, CLUSTER, templates=True) as other:
        other("template", "import", folder).ok()
        assert other("template", "import", *files).ok().stdout.count("is here already") == 2
        done = other("up", "a").ok()
        assert "restoring provisioned template" in done.stderr
        assert "booting" not in done.stderr
        assert "getting box" not in done.stderr
        assert other.sh("hostname; sudo head -n 1 /dev/vdc", "a") == "a\nprovisioned once\n"
        other("reload", "a").ok()
        other("destroy", "-y").ok()
        refused = other("template", "import", tmp_path / "nothing")
        assert refused.code == 8
        files[0].write_bytes(files[0].read_bytes()[:100_000])
        other("template", "prune", "--all").ok()
        passed = other("template", "import", folder).ok()
        assert "damaged" in passed.stderr
        assert passed.stdout.count("imported") == 1


# --- disks, UEFI variables, a display -------------------------------------------------------

MIB = 1 << 20
RICH = """
[machine]
memory = "200M"
disk = "1G"
user-data = "#!/bin/sh\\necho made in the template | dd of=/dev/vdc 2>/dev/null"
hostname = "same"
disks = [{ name = "data", size = "64M" }, { size = "32M" }, { image = "a.img", read-only = true }]
[machine.qemu]
firmware = "uefi"
display = "vnc"
args = ["-device", "virtio-balloon-pci"]
[machines.a]
[machines.b]
"""
VARIABLE = "/sys/firmware/efi/efivars/QupTest-71757074-696e-7900-8000-000000000001"
WRITE = (
    f"echo of a | sudo dd of=/dev/vdc 2>/dev/null; printf '\\7\\0\\0\\0kept' | sudo tee {VARIABLE}"
)
BALLOON = "grep -l 0x0005 /sys/bus/virtio/devices/*/device | wc -l"  # its id in virtio's text
READ = f"sudo head -n 1 /dev/vdc; tail -c 4 {VARIABLE} 2>/dev/null || echo none"


@pytest.mark.skipif(
    find_firmware(descriptor_folders(), "x86_64", "pc-q35-7.2") is None,
    reason="no UEFI firmware: apt install ovmf",
)
def test_disks_variables_and_a_display(vm_cache: Path, tmp_path: Path) -> None:
    with open_lab(vm_cache, RICH, templates=True) as lab:
        (lab.folder / "a.img").write_bytes(b"whole".ljust(MIB, b"."))
        lab("trust").ok()
        first = lab("up", "a").ok()
        assert "cold boot" not in first.stderr
        lab.sh(f"{WRITE} >/dev/null; sync", "a")
        lab("snapshot", "save", "written", "a").ok()
        second = lab("up", "b").ok()
        assert "booting" not in second.stderr
        assert lab.sh(READ, "b").splitlines() == ["made in the template", "none"]
        assert lab.sh(BALLOON, "b") == "1\n"
        assert lab.sh("sudo head -c 5 /dev/vde", "b") == "whole"
        lab("screenshot", "b", str(tmp_path / "b.png")).ok()

        lab("reset", "a").ok()
        assert lab.sh(READ, "a").splitlines() == ["made in the template", "none"]
        lab("snapshot", "restore", "written", "a").ok()
        assert lab.sh(READ, "a").splitlines()[0] == "of a"
        assert lab.sh(READ, "a").endswith("kept")
        lab.write(RICH.replace("64M", "96M"))  # what is based on the template's grows, too
        lab("trust").ok()
        lab("reload", "a").ok()
        assert lab.sh(READ, "a").splitlines()[0] == "of a"
        assert lab.sh("cat /sys/block/vdc/size", "a") == f"{96 << 11}\n"

        # A disk is never taken for one of its own when the template's is gone.
        template = lab.cache / "templates" / lab.inspect("a")["state"]["template"]
        (template / "disk-data.qcow2").rename(tmp_path / "aside")
        refused = lab("reload", "a")
        assert refused.code != 0
        assert f"is gone: {template / 'disk-data.qcow2'}" in refused.stderr
        (tmp_path / "aside").rename(template / "disk-data.qcow2")


# --- on a bridge ----------------------------------------------------------------------------

ON_A_BRIDGE = """
[machine]
memory = "168M"
disk = "1G"
[machine.network]
mode = "bridge"
bridge = "br0"
[[machine.networks]]
mode = "tap"
interface = "vm1"
address = "192.168.9.2/31"
[machines.a]
[machines.b]
networks = [{ mode = "tap", interface = "vm2", address = "192.168.9.3/31" }]
"""


@pytest.mark.root
def test_machines_on_a_bridge(vm_cache: Path) -> None:
    """They ask for addresses themselves, and the template was never there."""
    run_qup("box", "build", "tiny", cwd=vm_cache, env={"QUP_CACHE_DIR": str(vm_cache)}).ok()
    with (
        open_net() as net,
        open_lab(vm_cache, ON_A_BRIDGE, prefix=net.prefix, templates=True) as lab,
    ):
        net.add_bridge("br0", "192.168.7.1/24")
        dhcp = net.serve_dhcp("br0", "192.168.7.20", "192.168.7.29")
        first = lab("up", "a").ok()
        assert "cold boot" not in first.stderr
        second = lab("up", "b").ok()
        assert "booting" not in second.stderr
        addresses = {lab("ip", name).ok().stdout.strip() for name in "ab"}
        assert len(addresses) == 2
        assert all(text.startswith("192.168.7.2") for text in addresses)
        for name, own in (("a", "192.168.9.2/31"), ("b", "192.168.9.3/31")):
            said = lab.sh("ip -4 -o addr; ip route", name)
            assert f"inet {own}" in said
            assert said.count("inet ") == 3, said  # no address of the template's is left
            assert "default via 192.168.7.1 dev eth0" in said
            assert said.count("default") == 1, said
        dhcp.terminate()
        assert dhcp.stdout is not None
        log = dhcp.stdout.read()
        assert {nic["mac"] for name in "ab" for nic in lab.inspect(name)["plan"]["nics"][:1]} == {
            *re.findall(r"DHCPACK\(br0\) \S+ (\S+)", log)
        }
        assert "qup-template" not in log
