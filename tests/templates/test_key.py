"""What makes a template fit, and what keeps a machine from having one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qup.model.box import BoxSpec
from qup.model.network import AddressPlan, Forward, NicPlan, PortRange
from qup.model.plan import (
    AcceleratorPlan,
    Disk,
    ExtraArguments,
    Identity,
    Nic,
    NicSeed,
    Plan,
    SeedPlan,
)
from qup.runner.golden import plan_golden
from qup.templates.key import Emulator, describe_visible, make_key, plan_template

NETDEV = {"type": "user", "hostname": "web", "ipv6": "off"}
PLAN = Plan(
    identity=Identity("0123456789ab", "11111111-2222-4333-8444-555555555555", "web"),
    box=BoxSpec("tiny", "tiny", "x86_64", "1", "key"),
    box_digest="d" * 64,
    program="qemu-system-x86_64",
    machine_type="pc-q35-7.2",
    accelerator=AcceleratorPlan("tcg", {"accel": "tcg"}, "max"),
    cpu="max",
    cpus=1,
    memory_mib=256,
    disks=(
        Disk("disk", "qup-disk", "qcow2", 1 << 30),
        Disk("seed", "qup-seed", "raw", read_only=True),
    ),
    nics=(Nic("user", "52:54:00:aa:bb:cc", NicPlan(NETDEV, guest_address="10.0.2.15")),),
    seed=SeedPlan("i-1", "web", "qup", nics=(NicSeed("52:54:00:aa:bb:cc", AddressPlan()),)),
    boot_timeout=300.0,
)
QEMU = Emulator("7.2.0 /usr/bin/qemu|1|2")


def key(plan: Plan, emulator: Emulator = QEMU) -> str:
    return make_key(describe_visible(plan, emulator))


def with_nic(**changes: Any) -> Plan:
    nic = PLAN.nics[0]
    return replace(PLAN, nics=(replace(nic, plan=replace(nic.plan, **changes)),))


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, identity=Identity("ba9876543210", "22222222-2222-4333-8444-5", "db")),
        replace(PLAN, seed=replace(PLAN.seed, hostname="db", instance_id="i-2")),
        replace(PLAN, nics=(replace(PLAN.nics[0], mac="52:54:00:00:00:01"),)),
        replace(
            PLAN,
            seed=replace(PLAN.seed, nics=(NicSeed("52:54:00:00:00:01", AddressPlan()),)),
        ),
        replace(PLAN, boot_timeout=1.0),
        with_nic(ports=PortRange(40000, 40009)),
        with_nic(forwards=(Forward("tcp", "127.0.0.1", 8080, 80),)),
        with_nic(netdev={**NETDEV, "hostname": "db"}),
    ],
)
def test_what_is_told_later_does_not_matter(plan: Plan) -> None:
    assert key(plan) == key(PLAN)


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, box_digest="e" * 64),
        replace(PLAN, machine_type="pc-q35-8.0"),
        replace(PLAN, cpu="max,-svm"),
        replace(PLAN, cpus=2),
        replace(PLAN, memory_mib=512),
        replace(PLAN, disks=(replace(PLAN.disks[0], size=2 << 30), PLAN.disks[1])),
        replace(PLAN, disks=(replace(PLAN.disks[0], bus="ide"), PLAN.disks[1])),
        replace(PLAN, nics=(*PLAN.nics, *PLAN.nics)),
        replace(PLAN, seed=replace(PLAN.seed, user="me")),
        replace(PLAN, seed=replace(PLAN.seed, user_data="#!/bin/sh\n")),
        with_nic(netdev={**NETDEV, "dns": "10.0.2.99"}),
    ],
)
def test_what_the_guest_sees_does(plan: Plan) -> None:
    assert key(plan) != key(PLAN)


def test_another_qemu_or_processor_does_not_fit() -> None:
    assert key(PLAN, Emulator("7.2.1 /usr/bin/qemu|1|3")) != key(PLAN)
    assert key(PLAN, replace(QEMU, processor="f" * 64)) != key(PLAN)


def test_user_data_may_depend_on_the_name() -> None:
    script = replace(PLAN.seed, user_data="#!/bin/sh\nhostname >/etc/motd\n")
    one = replace(PLAN, seed=script)
    other = replace(PLAN, seed=replace(script, hostname="db"))
    assert key(one) != key(other)


def test_a_box_that_is_not_here_has_no_key_and_no_obstacle() -> None:
    plan = plan_template(replace(PLAN, box_digest=None), QEMU, wanted=True, system="linux")
    assert (plan.key, plan.obstacle) == (None, None)
    plan = plan_template(PLAN, QEMU, wanted=True, system="linux")
    assert plan.key == key(PLAN)


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        (replace(PLAN, extra=(ExtraArguments(("-s",), "qemu.args"),)), "qemu.args"),
        (replace(PLAN, box=replace(PLAN.box, arch="aarch64")), "aarch64"),
        (replace(PLAN, box=replace(PLAN.box, iso=True)), "ISO"),
        (replace(PLAN, disks=(*PLAN.disks, Disk("disk-a", "a", "qcow2", 1))), "disk-a"),
        (replace(PLAN, nics=(*PLAN.nics, *PLAN.nics)), "several"),
        (replace(PLAN, nics=(Nic("tap", "52:54:00:aa:bb:cc", NicPlan({"type": "tap"})),)), "tap"),
    ],
)
def test_obstacles(plan: Plan, word: str) -> None:
    found = plan_template(plan, QEMU, wanted=True, system="linux")
    assert found.key is None
    assert word in str(found.obstacle)


def test_templates_can_be_switched_off() -> None:
    found = plan_template(PLAN, QEMU, wanted=False, system="linux")
    assert found.obstacle == "templates = false"
    assert plan_template(PLAN, QEMU, wanted=True, system="darwin").obstacle


def test_a_golden_machine_takes_nothing_of_the_hosts_that_is_another_machines() -> None:
    golden = plan_golden(
        with_nic(forwards=(Forward("tcp", "127.0.0.1", 8080, 80),), ports=PortRange(40000, 40000))
    )
    (nic,) = golden.nics
    assert (nic.plan.forwards, nic.plan.ports) == ((), None)
    assert key(golden) == key(PLAN)
