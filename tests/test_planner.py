"""From a Qupfile to a plan: golden files, and what a plan must never hold.

``UPDATE_GOLDEN=1 pytest tests/test_planner.py`` writes the golden files anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup import qupfile
from qup.builtin.network_user import UserNetwork
from qup.builtin.seeder_nocloud import NoCloud
from qup.builtin.shell import Shell
from qup.model.box import BoxSpec
from qup.model.config import MachineConfig
from qup.model.network import make_mac
from qup.model.plan import AcceleratorPlan, ExtraArguments, Identity, Plan, ProvisionStep
from qup.planner import (
    Facts,
    add_arguments,
    describe_change,
    describe_obstacles,
    plan_machine,
    take_forwards,
)
from tests.qupfile_registry import FakeRegistry

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
NETWORK = UserNetwork()
REGISTRY = FakeRegistry(network_modes={"user": NETWORK}, provisioners={"shell": Shell()})
IDENTITY = Identity("0123456789ab", "01234567-89ab-4cde-8f01-23456789abcd", "web")
FACTS = Facts(
    machine_type="pc-q35-7.2",
    accelerator=AcceleratorPlan("tcg", {"accel": "tcg"}, "max,-la57"),
    box=BoxSpec("tiny", "tiny", "x86_64", "1.0", "x86_64-key", cmdline="console=ttyS0 quiet"),
    box_digest="d" * 64,
)

QUPFILES = {
    "defaults": "",
    "full": """
[machine]
box = "tiny"
cpus = 4
memory = "1536M"
disk = "3G"
hostname = "hello"
boot-timeout = "90s"
user-data = "#!/bin/sh\\ntrue\\n"
[machine.ssh]
user = "me"
[machine.network]
mode = "user"
forward = ["8080:80", "127.0.0.1:5353:53/udp", "0:8000", "0.0.0.0:2222:2222"]
isolate = true
[machine.qemu]
cpu = "qemu64,+ssse3"
machine = "q35"
args = ["-device", "usb-tablet,id=x", "--", "a b"]
[[machine.provision]]
shell = { inline = "true" }
""",
    "networks": """
[machine.network]
ports = "40000-40009"
[[machine.networks]]
forward = ["8080:80"]
[[machine.networks]]
isolate = true
""",
    "inherited": """
[machine]
memory = "512M"
[machine.network]
forward = ["0:80"]
[machines.web]
cpus = 2
[machines.web.network]
isolate = true
""",
}


def machine(text: str, **given: Any) -> MachineConfig:
    document = qupfile.parse(text.encode())
    (found,) = qupfile.load(document, registry=REGISTRY, **given).machines.values()
    return found


def make(config: MachineConfig, facts: Facts = FACTS, identity: Identity = IDENTITY) -> Plan:
    return plan_machine(
        config,
        facts,
        identity,
        lambda use, nic: NETWORK.plan(use.options, nic),
        NoCloud().form,
    )


@pytest.mark.parametrize("name", QUPFILES)
def test_golden(name: str) -> None:
    config = machine(QUPFILES[name])
    facts = FACTS
    if config.provision:
        facts = Facts(
            FACTS.machine_type, FACTS.accelerator, FACTS.box, FACTS.box_digest,
            (ProvisionStep("shell", {"inline": "true"}, "e" * 64),),
        )  # fmt: skip
    plan = make(config, facts)
    text = json.dumps(plan.to_dict(), indent=2, ensure_ascii=False) + "\n"
    path = GOLDEN / f"plan-{name}.json"
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_same_question_has_the_same_answer() -> None:
    one, other = (make(machine(QUPFILES["full"])) for _ in range(2))
    assert one == other
    assert one.digest() == other.digest()
    assert one.digest() != make(machine(QUPFILES["defaults"])).digest()


def test_a_plan_names_no_path_of_this_host(tmp_path: Path) -> None:
    for text in QUPFILES.values():
        said = json.dumps(make(machine(text)).to_dict())
        for word in (str(tmp_path), os.environ["HOME"], "/tmp", "QUP_"):
            assert word not in said


def test_layers_reach_the_plan() -> None:
    config = machine(
        '[machine]\nmemory = "512M"\ncpus = 2\n',
        environment={"QUP_MEMORY": "1G", "QUP_CPUS": "3"},
        overrides={"memory": "2G"},
    )
    plan = make(config)
    assert (plan.memory_mib, plan.cpus) == (2048, 3)


def test_a_mac_belongs_to_a_machine() -> None:
    macs = {make_mac(f"{number:012x}", index) for number in range(50) for index in range(2)}
    assert len(macs) == 100
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)
    assert make_mac("0123456789ab", 0) == make_mac("0123456789ab", 0)


def test_arguments_are_added_behind_and_keep_their_origin() -> None:
    plan = make(machine('[machine.qemu]\nargs = ["-a"]\n'))
    more = add_arguments(plan, (ExtraArguments(("-b", "c,d"), "plugin x"),))
    assert [item.words for item in more.extra] == [("-a",), ("-b", "c,d")]
    assert add_arguments(plan, ()) == plan


CHANGES = [
    ('memory = "1G"', 'memory = "2G"', "memory: 1024M -> 2048M"),
    ("cpus = 1", "cpus = 2", "cpus: 1 -> 2"),
    ('disk = "1G"', 'disk = "2G"', "disk: 1G -> 2G"),
    ('hostname = "a"', 'hostname = "b"', "hostname: a -> b"),
    ('qemu = { cpu = "max" }', 'qemu = { cpu = "qemu64" }', "qemu.cpu: max -> qemu64"),
    ("qemu = { args = [] }", 'qemu = { args = ["-a"] }', "qemu.args:  -> -a"),
    ("networks = []", 'networks = [{mode = "user"}]', "networks: none -> user type=user"),
    ("network = { isolate = false }", "network = { isolate = true }", "restrict=on"),
    ('ssh = { user = "a" }', 'ssh = { user = "b" }', "ssh.user: a -> b"),
]


@pytest.mark.parametrize(("old", "new", "said"), CHANGES, ids=[case[2] for case in CHANGES])
def test_a_change_is_said_in_the_words_of_the_qupfile(old: str, new: str, said: str) -> None:
    before, after = (make(machine(f"[machine]\n{text}\n")).to_dict() for text in (old, new))
    changes = describe_change(json.loads(json.dumps(before)), after)
    assert said in "; ".join(changes)
    assert describe_change(before, before) == []


def test_what_no_restart_applies_is_said_apart_with_its_reason() -> None:
    old, new = (
        make(machine(f"[machine]\ncpus = {cpus}\ndisk = '{disk}'\nuser-data = '{text}'")).to_dict()
        for cpus, disk, text in ((1, "2G", "#!a"), (2, "1G", "#!b"))
    )
    new["box"] = {**new["box"], "name": "other"}
    assert describe_change(old, new) == ["cpus: 1 -> 2"]
    assert describe_obstacles(old, new) == [
        f"box: {old['box']['name']} -> other (a disk can't change its box)",
        "disk: 2G -> 1G (a disk can't shrink)",
        "user-data (the guest reads it at its first boot only)",
    ]
    assert describe_obstacles(old, old) == describe_obstacles({}, old) == []


def test_forwards_are_no_change_that_needs_a_restart() -> None:
    old, new = (
        make(machine(f"[machine.network]\nforward = [{rule}]\n[[machine.networks]]\n")).to_dict()
        for rule in ("'1:80'", "'2:80', '0:81'")
    )
    (said,) = describe_change(old, new)
    assert said == "network.forward: 127.0.0.1:1:80 -> 127.0.0.1:2:80, 127.0.0.1:0:81"
    stored = json.loads(json.dumps(old))
    assert take_forwards(stored, new) == json.loads(json.dumps(new))
    assert take_forwards(stored, old) == stored
    one_nic = make(machine("")).to_dict()
    assert len(take_forwards(old, one_nic)["nics"]) == 2
    assert take_forwards({"nics": [3]}, new) == {"nics": [3]}


@pytest.mark.parametrize("stored", [{}, {"nics": []}, {"nics": [3]}, {"nics": [{"plan": None}]}])
def test_a_plan_of_another_version_is_no_reason_to_fail(stored: dict[str, Any]) -> None:
    describe_change(stored, make(machine("")).to_dict())


@given(
    st.integers(1, 64),
    st.integers(32, 4096),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True),
)
def test_every_plan_survives_json(cpus: int, memory: int, hostname: str) -> None:
    text = f'[machine]\ncpus = {cpus}\nmemory = "{memory}M"\nhostname = "{hostname}"\n'
    plan = make(machine(text))
    assert json.loads(json.dumps(plan.to_dict()))["memory_mib"] == memory
    assert plan.seed.hostname == hostname
