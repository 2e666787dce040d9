"""Box debian as a real guest: a whole Debian that cloud-init sets up, through all that may happen.

One machine serves all tests, in their order: in emulation each boot takes half a minute or more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import Lab, open_lab, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

QUPFILE = """\
[machine]
box = "debian/12"
memory = "512M"
disk = "{disk}"
hostname = "worker"
user-data = '''
#!/bin/sh
echo "first boot of $(hostname)" >>/etc/first-boot
'''
[machine.cloud-init]
timezone = "Europe/Berlin"
runcmd = ["echo before the script >>/etc/first-boot"]
"""


BROKEN = """
[machines.default]
[machines.broken]
autostart = false
user-data = '''
#!/bin/sh
echo "this is where it hurts"
nosuchprogram --now || exit 3
'''
"""


@pytest.fixture(scope="module")
def lab(debian_cache: Path) -> Iterator[Lab]:
    with open_lab(debian_cache, QUPFILE.format(disk="3G")) as made:
        made("up", timeout=400).ok()
        yield made


def test_first_boot(lab: Lab) -> None:
    """The seed is taken in: name, user, key, script; and nothing is wrong with the system."""
    assert "status: done" in lab.sh("cloud-init status --wait --long")
    said = lab.sh("hostname; id -un; groups; cat /etc/first-boot").splitlines()
    assert said[:2] == ["worker", "debian"]
    assert "sudo" in said[2].split()
    assert said[3:] == ["before the script", "first boot of worker"]
    assert lab.sh("readlink /etc/localtime").endswith("/Europe/Berlin\n")
    assert lab.sh("sudo id -un; systemctl list-units --failed --no-legend") == "root\n"
    assert len(lab.sh("cat /etc/machine-id").strip()) == 32
    assert lab.sh("sudo systemctl is-enabled apt-daily.timer || true") == "masked\n"
    assert lab.sh("dpkg --audit; ls /etc/ssh/*_key") == "/etc/ssh/ssh_host_ed25519_key\n"


def test_the_system_fits_a_machine(lab: Lab) -> None:
    """The disk is used up, and the kernel has what qup's shares, clones and devices need."""
    assert int(lab.sh("df -k --output=size / | tail -1")) > 2_900_000
    # Packages that are installed later may start their services.
    lab.sh("test ! -e /usr/sbin/policy-rc.d && /sbin/start-stop-daemon --version | grep -q Debian")
    lab.sh("sudo modprobe -a 9p 9pnet_virtio virtiofs ahci e1000e virtio_gpu overlay nf_tables")
    assert "10.0.2.15" in lab.sh("ip -brief address show eth0")
    assert lab.sh("getent hosts worker localhost | wc -l") == "2\n"


def test_power_cut(lab: Lab) -> None:
    """What was synced is there afterwards; a larger disk is used; it isn't a first boot again."""
    lab.sh("echo kept | sudo tee /etc/kept && sync")
    machine_id = lab.sh("cat /etc/machine-id")
    os.kill(lab.pid(), signal.SIGKILL)
    assert wait_until(lambda: not lab.qemus())
    assert lab.status() in ("crashed", "stopped")
    lab.write(QUPFILE.format(disk="4G"))
    lab("up", timeout=400).ok()
    assert lab.sh("cat /etc/kept; wc -l </etc/first-boot") == "kept\n2\n"
    assert lab.sh("cat /etc/machine-id") == machine_id
    assert int(lab.sh("df -k --output=size / | tail -1")) > 3_900_000


def test_down(lab: Lab) -> None:
    """systemd hears the power button."""
    done = lab("down").ok()
    assert done.seconds < 45, done
    assert "power cut" not in done.stderr, done
    assert lab.status() == "stopped"


def test_a_failing_script_is_reported_in_its_own_words(lab: Lab) -> None:
    lab.write(QUPFILE.format(disk="4G").replace('hostname = "worker"\n', "") + BROKEN)
    done = lab("up", "broken", timeout=400)
    assert done.code == 10, done
    assert "cloud-init failed" in done.stderr
    assert "this is where it hurts" in done.stderr
    assert "nosuchprogram" in done.stderr
    assert lab.status("broken") == "running"
    lab("up", "broken", timeout=400).ok()  # it goes on from there
    lab("destroy", "-y", "broken").ok()
