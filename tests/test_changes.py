"""Whatever can be set is said when it is different from what a machine was started with.

**Whoever adds a row to ``SETTINGS`` adds one here**, or says why a change is not said.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from qup import qupfile
from qup.model.box import BoxSpec
from qup.model.config import NetworkUse
from qup.model.network import NicPlan, NicRequest
from qup.model.plan import AcceleratorPlan, Firmware, Identity, Plan, SeedPlan
from qup.model.seed import SeedForm
from qup.model.settings import BY_KEY
from qup.planner import Facts, describe_change, describe_obstacles, plan_machine
from qup.plugins import Plugins

IDENTITY = Identity("0123456789ab", "01234567-89ab-4cde-8f01-23456789abcd", "web")
FACTS = Facts(
    machine_type="pc-q35-7.2",
    accelerator=AcceleratorPlan("tcg", {"accel": "tcg"}, "max"),
    box=BoxSpec("tiny", "tiny", "x86_64", "1.0", "x86_64-key"),
    box_digest="d" * 64,
)
REGISTRY = Plugins(installed=False)


class Case(NamedTuple):
    """Two values of a key.

    Attributes:
        old: the value the machine was started with, as TOML.
        new: the value for now.
        said: what is said about it, after the key; empty for the values as they are.
        besides: what else the Qupfile says.
        facts: what is different about the facts, for what isn't taken from the Qupfile as it is.
        obstacle: whether no restart can apply it.
    """

    old: str
    new: str
    said: str = ""
    besides: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012  never changed
    obstacle: bool = False


TAP, BRIDGE = 'network.mode = "tap"', 'network.mode = "bridge"'
CASES = {
    "box": Case('"a"', '"b"', facts={"box": replace(FACTS.box, name="b")}, obstacle=True),
    "cpus": Case("1", "2"),
    "memory": Case('"256M"', '"512M"'),
    "disk": Case('"2G"', '"3G"'),
    "hostname": Case('"a"', '"b"'),
    "seeder": Case('"nocloud"', '"config-2"', obstacle=True),
    "ssh.user": Case('"a"', '"b"'),
    "network.mode": Case('"user"', '"tap"'),
    "network.interface": Case('"a"', '"b"', besides=TAP),
    "network.address": Case('"192.0.2.1"', '"192.0.2.2"', besides=TAP),
    "network.bridge": Case('"a"', '"b"', besides=BRIDGE),
    "network.ports": Case('"40000-40009"', '"40000-40019"'),
    "qemu.program": Case('"qemu-system-x86_64"', '"qemu-system-i386"'),
    "qemu.accelerator": Case(
        '"tcg"', '"kvm"', facts={"accelerator": AcceleratorPlan("kvm", {"accel": "kvm"}, "host")}
    ),
    "qemu.machine": Case(
        '"q35"', '"pc"', "pc-q35-7.2 -> pc-i440fx-7.2", facts={"machine_type": "pc-i440fx-7.2"}
    ),
    "qemu.cpu": Case('"max"', '"qemu64"'),
    "qemu.firmware": Case('"bios"', '"uefi"', facts={"firmware": Firmware("edk2", "raw")}),
    "qemu.virtio-drives": Case("true", "false"),
    "qemu.cache": Case('"writeback"', '"unsafe"'),
    "qemu.io": Case('"threads"', '"io_uring"'),
    "qemu.display": Case('"none"', '"gtk"', facts={"display": "gtk"}),
}
UNSAID = {
    "boot-timeout": "a running machine has booted; the next start uses it",
    "templates": "only a machine's first start can use a template",
    "userdata": "it is said as user-data, with the text of the file",
    "qemu.nographic": "it is where this command's output goes, and nothing about the machine",
}


def plan(lines: list[str], facts: Facts) -> Plan:
    document = qupfile.parse("\n".join(["[machine]", *lines, ""]).encode())
    (config,) = qupfile.load(document, registry=REGISTRY).machines.values()

    def plan_nic(use: NetworkUse, nic: NicRequest) -> NicPlan:
        return REGISTRY.network_modes[use.mode].plan(use.options, nic)

    def plan_seed(seed: SeedPlan) -> SeedForm:
        return REGISTRY.guest_seeders[seed.seeder].form(seed)

    return plan_machine(config, facts, IDENTITY, plan_nic, plan_seed)


def test_no_setting_is_missing() -> None:
    missing = BY_KEY.keys() - CASES.keys() - UNSAID.keys()
    assert not missing, f"add to CASES, or to UNSAID with the reason: {missing}"
    assert CASES.keys() | UNSAID.keys() == BY_KEY.keys()


@pytest.mark.parametrize("key", CASES)
def test_a_change_is_said(key: str) -> None:
    case = CASES[key]
    facts = [FACTS, replace(FACTS, **case.facts)]
    if key == "box":
        facts[0] = replace(FACTS, box=replace(FACTS.box, name="a"))
    old, new = (
        plan([f"{key} = {value}", case.besides], fact)
        for value, fact in zip((case.old, case.new), facts, strict=True)
    )
    stored = json.loads(json.dumps(old.to_dict()))
    restart, never = (say(stored, new.to_dict()) for say in (describe_change, describe_obstacles))
    said = f"{key}: {case.said or f'{case.old} -> {case.new}'.replace(chr(34), '')}"
    found = never if case.obstacle else restart
    assert [item for item in found if item.startswith(said)], (said, found)
    assert not (restart if case.obstacle else never)
    assert describe_change(stored, old.to_dict()) == []
