"""Forwards of a running machine, against a monitor that keeps them as QEMU does."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from qup.errors import MachineError
from qup.model.network import Forward, NicPlan, PortRange, parse_forward
from qup.model.plan import Nic, Plan
from qup.paths import MachineFolder, Project
from qup.runner.context import Context
from qup.runner.forwards import (
    Kept,
    OpenForward,
    add_forward,
    apply_forwards,
    list_forwards,
    open_way_in,
    remove_forward,
)
from qup.runner.observe import STOPPED, Observation
from qup.runner.open_ports import (
    NO_PORTS,
    OpenPorts,
    open_ways,
    read_ports,
    recall_ports,
    remember_ports,
)
from qup.runner.snapshots import RESTORING, write_mark
from qup.testing import make_plan


@dataclass
class FakeMonitor:
    """QEMU's forwards; those whose host port is in ``busy`` it can't have."""

    nics: dict[int, list[Forward]] = field(default_factory=lambda: {0: [parse_forward("8080:80")]})
    busy: set[int] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def hmp(self, command_line: str, *, timeout: float = 5.0) -> str:
        if command_line == "info usernet":
            return "".join(map(self._show, self.nics))
        self.asked.append(command_line)
        verb, netdev, rule = command_line.split()
        held = self.nics[int(netdev.removeprefix("net"))]
        if verb == "hostfwd_remove":
            gone = [item for item in held if item.listener == rule]
            held[:] = [item for item in held if item not in gone]
            return f"host forwarding rule for {rule} {'removed' if gone else 'not found'}\n"
        listener, target = rule.split("-")
        protocol, address, host = listener.split(":")
        assert target.startswith((":", "10.0.2.15:"))
        guest = target.rpartition(":")[2]
        if int(host) in self.busy:
            return f"could not set up host forwarding rule '{rule}'"
        held.append(Forward(protocol, address, int(host) or 40000, int(guest)))  # type: ignore[arg-type]
        return ""

    def _show(self, nic: int) -> str:
        lines = [f"Hub -1 (net{nic}):", "  Protocol[State]    FD  Source Address  Port ..."]
        lines += [
            f"  {item.protocol.upper()}[HOST_FORWARD]  12  {item.address}  {item.host}"
            f"  10.0.2.15  {item.guest}  0  0"
            for item in self.nics[nic]
        ]
        return "\r\n".join(lines) + "\r\n"


def plan_of(*nics: tuple[str, ...], ports: PortRange | None = None) -> Plan:
    """A plan whose NICs have these forwards."""
    plan = make_plan()
    cards = tuple(
        Nic("user", f"52:54:00:00:00:0{index}",
            NicPlan({"type": "user"}, tuple(map(parse_forward, rules)), ports=ports))
        for index, rules in enumerate(nics)
    )  # fmt: skip
    return replace(plan, nics=cards)


# --- one -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["127.0.0.2:8080:81", "8080:81/udp", "8081:81"])
def test_another_address_protocol_or_port_is_another_place(rule: str) -> None:
    monitor = FakeMonitor()
    forward = parse_forward(rule)
    assert add_forward(monitor, forward) == OpenForward(0, forward)
    assert len(monitor.asked) == 1


@pytest.mark.parametrize("rule", ["8080:81", "0.0.0.0:8080:81"])
def test_the_same_place_is_refused_without_asking_qemu(rule: str) -> None:
    monitor = FakeMonitor()
    with pytest.raises(MachineError, match="open already"):
        add_forward(monitor, parse_forward(rule))
    assert monitor.asked == []


def test_a_forward_leads_to_the_nic_that_is_meant_or_to_the_first_that_can() -> None:
    monitor = FakeMonitor({1: [], 2: []})
    assert add_forward(monitor, parse_forward("81:81"), nic=2).nic == 2
    assert add_forward(monitor, parse_forward("82:82")).nic == 1
    assert [item.nic for item in list_forwards(monitor)] == [1, 2]
    remove_forward(monitor, OpenForward(2, parse_forward("81:81")))
    assert [item.nic for item in list_forwards(monitor)] == [1]


@pytest.mark.parametrize(("nics", "nic"), [({}, None), ({0: []}, 1)])
def test_without_a_user_network_there_is_no_forward(
    nics: dict[int, list[Forward]], nic: int | None
) -> None:
    with pytest.raises(MachineError, match="no network card in mode 'user'"):
        add_forward(FakeMonitor(nics), parse_forward("81:81"), nic=nic)


# --- from a range ------------------------------------------------------------------------------


def test_a_range_is_tried_from_end_to_end_until_qemu_takes_one() -> None:
    monitor = FakeMonitor({0: []}, busy={21101, 21102})
    forward = parse_forward("0:22")
    opened = add_forward(monitor, forward, ranges={0: PortRange(21101, 21103)})
    assert opened.forward.host == 21103
    assert len(monitor.asked) == 3


def test_qemu_is_not_bothered_with_ports_that_are_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monitor = FakeMonitor({0: []})
        with pytest.raises(MachineError, match=f"no port from {port}-{port} is free"):
            add_forward(monitor, parse_forward("0:22"), ranges={0: PortRange(port, port)})
        assert monitor.asked == []
        udp = add_forward(monitor, parse_forward("0:53/udp"), ranges={0: PortRange(port, port)})
        assert udp.forward.host == port


def test_a_full_range_is_gone_through_twice_and_said() -> None:
    monitor = FakeMonitor({0: []}, busy={21101, 21102})
    with pytest.raises(MachineError, match="no port from 21101-21102 is free") as caught:
        add_forward(monitor, parse_forward("0:22"), ranges={0: PortRange(21101, 21102)})
    assert "ports" in (caught.value.hint or "")
    assert len(monitor.asked) == 4


def test_a_range_is_for_ports_that_are_left_open() -> None:
    monitor = FakeMonitor({0: []})
    opened = add_forward(monitor, parse_forward("9000:22"), ranges={0: PortRange(21101, 21102)})
    assert opened.forward.host == 9000


# --- those of the Qupfile ------------------------------------------------------------------------


def test_what_is_new_is_opened_and_what_is_gone_closed_and_the_users_own_stays() -> None:
    monitor = FakeMonitor({0: []})
    first = apply_forwards(monitor, plan_of(("81:81", "0:82")), (), own=None)
    assert [str(item) for item in first.opened] == ["127.0.0.1:81:81", "127.0.0.1:40000:82"]
    add_forward(monitor, parse_forward("83:83"))
    second = apply_forwards(monitor, plan_of(("0:82", "84:84")), first.kept, own=None)
    assert [str(item) for item in second.opened] == ["127.0.0.1:84:84"]
    assert [str(item) for item in second.closed] == ["127.0.0.1:81:81"]
    assert {item.forward.guest for item in list_forwards(monitor)} == {82, 83, 84}
    third = apply_forwards(monitor, plan_of(()), second.kept, own=None)
    assert [item.forward.guest for item in list_forwards(monitor)] == [83]
    assert third.kept == []
    assert not apply_forwards(monitor, plan_of(()), third.kept, own=None).changed


def test_one_that_the_user_closed_is_opened_again() -> None:
    monitor = FakeMonitor({0: []})
    plan = plan_of(("81:81",))
    kept = apply_forwards(monitor, plan, (), own=None).kept
    assert not apply_forwards(monitor, plan, kept, own=None).changed
    remove_forward(monitor, OpenForward(0, parse_forward("81:81")))
    assert apply_forwards(monitor, plan, kept, own=None).opened == [parse_forward("81:81")]


def test_one_that_the_user_opened_becomes_the_qupfiles_when_it_is_in_there() -> None:
    monitor = FakeMonitor({0: []})
    add_forward(monitor, parse_forward("81:81"))
    kept = apply_forwards(monitor, plan_of(("81:81",)), (), own=None).kept
    assert len(monitor.asked) == 1
    apply_forwards(monitor, plan_of(()), kept, own=None)
    assert list_forwards(monitor) == []


def test_qups_own_forward_to_sshd_satisfies_no_other_wish() -> None:
    monitor = FakeMonitor({0: [parse_forward("50022:22")]})
    opened = apply_forwards(monitor, plan_of(("0:22",)), (), own=50022).opened
    assert [item.host for item in opened] == [40000]


def test_one_that_fails_keeps_no_other_from_it() -> None:
    monitor = FakeMonitor({0: []}, busy={81})
    result = apply_forwards(monitor, plan_of(("81:81", "82:82")), (), own=None)
    assert [item.host for item in result.opened] == [82]
    assert "port 81" in result.failures[0].message


def test_a_nic_that_comes_with_the_next_start_has_no_forwards_yet() -> None:
    monitor = FakeMonitor({0: []})
    result = apply_forwards(monitor, plan_of(("81:81",), ("82:82",)), (), own=None)
    assert [item.host for item in result.opened] == [81]
    assert result.failures == []


def test_what_was_opened_is_remembered(tmp_path: Path) -> None:
    folder = MachineFolder(tmp_path)
    kept = Kept(1, parse_forward("0:81/udp"), parse_forward("40000:81/udp"))
    added = OpenForward(0, parse_forward("40001:82"))
    assert recall_ports(folder) == NO_PORTS
    ports = OpenPorts(2222, (kept.held, added), (kept,))
    remember_ports(folder, ports)
    assert recall_ports(folder) == ports
    for damage in ('[{"nic": 0}]', '{"ssh": 1, "forwards": [{"nic": 0, "wanted": 3}]}', "{"):
        folder.forwards.write_text(damage)
        assert recall_ports(folder) == NO_PORTS


def test_what_was_opened_by_hand_is_closed_by_a_stop(tmp_path: Path) -> None:
    """But not by a restore that was cut off when the machine was stopped."""
    folder = MachineFolder(tmp_path)
    kept = Kept(0, parse_forward("0:81"), parse_forward("40000:81"))
    added = OpenForward(0, parse_forward("40001:82"))
    remember_ports(folder, OpenPorts(2222, (kept.held, added), (kept,)))
    stopped = Observation("web", STOPPED)
    assert read_ports(folder, stopped) == OpenPorts(2222, (kept.held,), (kept,))
    write_mark(folder, RESTORING, "0123456789ab live")
    assert read_ports(folder, stopped).forwards == (kept.held, added)


def test_ports_that_were_picked_are_the_same_again(tmp_path: Path) -> None:
    plan = plan_of(("0:80", "82:82"), ports=PortRange(21110, 21119))
    kept = Kept(0, parse_forward("0:80"), parse_forward("21115:80"))
    fixed = Kept(0, parse_forward("82:82"), parse_forward("82:82"))
    added = OpenForward(0, parse_forward("21116:81"))
    ports = OpenPorts(21114, (kept.held, fixed.held, added), (kept, fixed))
    monitor = FakeMonitor({0: []})
    folder = MachineFolder(tmp_path)
    place, applied = open_ways(Context(Project(tmp_path)), folder, monitor, plan, ports)
    assert place.port == 21114
    assert applied.kept == [kept, fixed]
    assert sorted(item.host for item in monitor.nics[0]) == [82, 21114, 21115, 21116]
    assert recall_ports(folder).ssh == 21114
    assert {item.forward.host for item in recall_ports(folder).forwards} == {82, 21115, 21116}


def test_ports_that_do_not_fit_the_qupfile_any_more_are_picked_anew(tmp_path: Path) -> None:
    outside = Kept(0, parse_forward("0:80"), parse_forward("40005:80"))
    unwanted = Kept(0, parse_forward("0:90"), parse_forward("21117:90"))
    ports = OpenPorts(40001, (outside.held, unwanted.held), (outside, unwanted))
    monitor = FakeMonitor({0: []})
    plan = plan_of(("0:80",), ports=PortRange(21130, 21139))
    open_ways(Context(Project(tmp_path)), MachineFolder(tmp_path), monitor, plan, ports)
    assert [item.guest for item in monitor.nics[0]] == [22, 80]
    assert all(21130 <= item.host <= 21139 for item in monitor.nics[0])


def test_a_port_that_is_taken_or_not_wanted_any_more_is_another_one() -> None:
    ports = PortRange(21120, 21129)
    busy = FakeMonitor({0: []}, busy={21125})
    assert open_way_in(busy, plan_of((), ports=ports), 21125).host in ports
    elsewhere = FakeMonitor({0: []})
    assert open_way_in(elsewhere, plan_of((), ports=ports), 40001).host in ports
    assert open_way_in(FakeMonitor({0: []}), plan_of(()), 40001).host == 40001
