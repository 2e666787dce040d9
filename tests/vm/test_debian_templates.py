"""A whole Debian from a template is a machine of its own; test_mounts has it restart as well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.debian import FIELDS, is_the_same, who
from tests.vm.lab import Lab, open_lab, read_clock_bound, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

# As others have it: one boot serves all of them.
QUPFILE = """\
[machine]
box = "debian/12"
memory = "512M"
[machines.a]
[machines.b]
"""
# What happens to its routes while it does what was put off; nothing is said if it has done that.
PUT_OFF = """
sudo sh -s <<'END'
read -r pid </run/qup-late || exit 0
main() { systemctl show --property MainPID systemd-networkd; }
before=$(main)
ip monitor route >/run/routes & monitor=$!
until grep -q 192.0.2.1 /run/routes; do
    ip route add 192.0.2.1 dev eth0
    ip route del 192.0.2.1
done
rm /run/systemd/netif/leases/*
kill "$pid"
while [ -e /run/qup-late ] || [ ! "$(ls /run/systemd/netif/leases)" ]; do sleep 0.1; done
[ "$(main)" != "$before" ] && echo anew
ip route add 192.0.2.2 dev eth0
until grep -q 192.0.2.2 /run/routes; do sleep 0.1; done
kill $monitor
grep default /run/routes
ls -d /run/systemd/network/*.d 2>/dev/null
END
"""
CLIENT_ID = "grep -h ^CLIENTID= /run/systemd/netif/leases/*"


@pytest.fixture(scope="module")
def lab(debian_cache: Path) -> Iterator[Lab]:
    """Two machines from one template, which is made if nobody has made it yet."""
    with open_lab(debian_cache, QUPFILE, templates=True) as made:
        made("up", "a", timeout=900).ok()
        second = made("up", "b", timeout=300).ok()
        assert "restoring template" in second.stderr
        assert "booting" not in second.stderr
        yield made


def test_no_two_machines_are_alike(lab: Lab) -> None:
    one, other = who(lab, "a"), who(lab, "b")
    assert (one["hostname"], other["hostname"]) == ("a", "b")
    for field in FIELDS[:-1]:
        assert one[field] != other[field], field
    for name, me in (("a", one), ("b", other)):
        seen = lab.inspect(name)
        assert me["instance"] == me["instances"] == seen["state"]["uuid"]
        assert me["mac"] == seen["plan"]["nics"][0]["mac"]
        assert me["user-key"] == (lab.machine(name) / "ssh" / "key.pub").read_text().split()[1]
        assert me["host-keys"] == "1"
        assert "10.0.2.15/" in lab.sh("ip -4 -o addr show dev eth0", name)
        assert lab.sh("sudo grep -rl qup-template /etc || true", name) == ""
        assert lab.sh("systemctl list-units --failed --no-legend", name) == ""


def test_dhcp_servers_can_tell_them_apart(lab: Lab) -> None:
    """networkd makes its client id of the machine id, and asks with it as soon as it can."""

    def ids() -> list[str]:
        said = [lab("ssh", name, "--", CLIENT_ID).stdout for name in ("a", "b")]
        return [text for text in said if text.startswith("CLIENTID=ff")]

    assert wait_until(lambda: len(set(ids())) == 2, 60), ids()


def test_it_reaches_everybody_while_networkd_starts_anew(lab: Lab) -> None:
    """Which it does some seconds after `up`, when somebody may be installing something."""

    def said() -> str:
        lab("destroy", "-y", "b").ok()
        lab("up", "b", timeout=300).ok()
        return lab("ssh", "b", "--", PUT_OFF).stdout

    assert next(filter(None, (said() for _ in range(5))), "") == "anew\n"


def test_the_clock_is_right(lab: Lab) -> None:
    """It is set again and again until the answer comes within a tenth of a second; that is asked
    of the guest's own words here, as a login takes longer.
    """
    lab("destroy", "-y", "b").ok()
    done = lab("up", "b", timeout=300).ok()
    assert read_clock_bound(done) < 0.5  # 0.1 unless this computer is busy
    assert lab.clock_error("b") <= 0.5


def test_a_snapshot_brings_it_back(lab: Lab) -> None:
    before = who(lab, "b")
    lab.sh("echo one >note; sync", "b")
    lab("snapshot", "save", "here", "b").ok()
    lab.sh("echo two >note; sync", "b")
    lab("snapshot", "restore", "here", "b", timeout=300).ok()
    assert lab.sh("cat note", "b") == "one\n"
    assert is_the_same(who(lab, "b"), before)
    assert lab.clock_error("b") <= 0.5


def test_a_command_in_a_machine_of_its_own(lab: Lab) -> None:
    """Its exit code, its words, its user; and nothing is left of it."""
    done = lab("run", "a", "--", "sh", "-c", "id -un; cat; exit 7", input="to it", timeout=300)
    assert done.code == 7, done
    assert done.stdout == "debian\nto it"
    assert "booting" not in done.stderr
    machines = json.loads(lab("list", "--json").ok().stdout)["machines"]
    assert len(machines) == 2, machines
