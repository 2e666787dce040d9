"""What makes a template fit, and what keeps a machine from having one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from qup.guest.identity import make_waiting_script
from qup.model.box import BoxSpec
from qup.model.folders import FolderPlan, Share
from qup.model.network import AddressPlan, Forward, NicPlan, PortRange, Tap
from qup.model.plan import (
    AcceleratorPlan,
    Disk,
    DisplayPlan,
    ExtraArguments,
    Identity,
    Nic,
    NicSeed,
    Plan,
    SeedPlan,
)
from qup.runner.golden import plan_golden
from qup.templates.extra import find_stranger
from qup.templates.key import RECIPE, Emulator, describe_visible, make_key, plan_template

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


PRIVATE = NicPlan({"type": "socket", "mcast": "239.192.0.1:16384"}, reachable=False)
TAP = NicPlan({"type": "tap"}, tap=Tap("tap0"))


def fixed(address: str, **more: Any) -> AddressPlan:
    return AddressPlan(dhcp=False, addresses=(address,), **more)


BY_DHCP = AddressPlan()


def with_card(nic: NicPlan, address: AddressPlan = BY_DHCP, plan: Plan = PLAN) -> Plan:
    """The plan with one more card."""
    mac = f"52:54:00:aa:bb:{len(plan.nics):02x}"
    seed = replace(plan.seed, nics=(*plan.seed.nics, NicSeed(mac, address)))
    return replace(plan, nics=(*plan.nics, Nic("x", mac, replace(nic, address=address))), seed=seed)


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
        with_card(NicPlan(NETDEV, guest_address="10.0.3.15")),
        with_card(PRIVATE, fixed("10.128.1.1/16")),
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


def with_image(*, read_only: bool) -> Plan:
    disk = Disk("disk-a", "a", "raw", image="a.img", read_only=read_only)
    return replace(PLAN, disks=(*PLAN.disks, disk))


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        (replace(PLAN, extra=(ExtraArguments(("-s",), "qemu.args"),)), "-s of qemu.args"),
        (replace(PLAN, box=replace(PLAN.box, arch="aarch64")), "aarch64"),
        (replace(PLAN, box=replace(PLAN.box, iso=True)), "ISO"),
        (with_image(read_only=False), "writes to your image a.img"),
        (with_image(read_only=True), "a.img is too large"),
        (replace(PLAN, nographic=True), "nographic"),
        (with_card(NicPlan({"type": "vhost-user"})), "vhost-user"),
        (with_card(NicPlan(NETDEV)), "without a known address"),
        (with_card(TAP, fixed("192.168.7.2/32")), "192.168.7.2/32"),
    ],
)
def test_obstacles(plan: Plan, word: str) -> None:
    found = plan_template(plan, QEMU, wanted=True, system="linux")
    assert found.key is None
    assert word in str(found.obstacle)


@pytest.mark.parametrize(
    ("words", "stranger"),
    [
        (("-device", "virtio-balloon-pci,id=b", "--smbios", "type=11,value=a b"), None),
        (("-fw_cfg", "name=opt/org.example,string=x", "-global", "ICH9-LPC.disable_s3=1"), None),
        (("-device", "vfio-pci,host=00:02.0"), "-device vfio-pci"),
        (("-device", "virtio-rng-pci,rng=r"), "-device rng=r"),
        (("-smbios", "file=/etc/passwd"), "-smbios file=/etc/passwd"),
        (("-fw_cfg", "opt/x,file=/etc/passwd"), "-fw_cfg file=/etc/passwd"),
        (("-global", "virtio-blk-pci.drive=x"), "-global virtio-blk-pci.drive=x"),
        (("-device", "qemu-xhci", "-drive", "file=a.img"), "-drive"),
        (("-device",), "-device"),
        (("a.img",), "a.img"),
    ],
)
def test_words_for_qemu_that_concern_the_guest_alone(
    words: tuple[str, ...], stranger: str | None
) -> None:
    """They are a part of the key; all others may be about this computer."""
    plan = replace(PLAN, extra=(ExtraArguments(words, "qemu.args"),))
    assert find_stranger(words) == stranger
    found = plan_template(plan, QEMU, wanted=True, system="linux")
    assert (found.obstacle is None) == (stranger is None)
    assert found.key != key(PLAN)


def test_an_image_that_is_only_read_counts_by_its_content() -> None:
    one = replace(QEMU, images=(("a.img", "1" * 64),))
    other = replace(QEMU, images=(("a.img", "2" * 64),))
    plan = with_image(read_only=True)
    assert key(plan, one) not in (key(plan, other), key(PLAN, one))
    moved = replace(plan, disks=(*PLAN.disks, replace(plan.disks[-1], image="/b.img")))
    assert key(moved, replace(QEMU, images=(("/b.img", "1" * 64),))) == key(plan, one)
    assert plan_template(plan, one, wanted=True, system="linux").key == key(plan, one)


def test_what_a_card_is_connected_to_does_not_matter() -> None:
    one = with_card(PRIVATE, fixed("10.128.1.1/16"))
    other = replace(PRIVATE, netdev={"type": "socket", "mcast": "239.192.0.9:16399"})
    assert key(with_card(other, fixed("10.128.7.9/16"))) == key(one)
    assert key(with_card(TAP, fixed("10.128.7.9/16"))) == key(one)
    assert key(with_card(PRIVATE, fixed("10.128.1.1/24"))) != key(one)
    assert key(with_card(TAP, fixed("10.128.1.1/16", gateway="10.128.0.1"))) != key(one)
    assert key(with_card(replace(TAP, discover=True))) != key(with_card(TAP))
    # User data may look at the address.
    seed = replace(PLAN.seed, user_data="#!/bin/sh\nip addr >/etc/motd\n")
    plan = replace(PLAN, seed=seed)
    one, two = (with_card(PRIVATE, fixed(f"10.128.1.{n}/16"), plan) for n in (1, 2))
    assert key(one) != key(two)
    assert plan_golden(one).nics[1].plan.address == one.nics[1].plan.address


def test_where_a_picture_goes_does_not_matter() -> None:
    vnc, window = (
        replace(PLAN, display=DisplayPlan(*two)) for two in (("vnc", "vnc"), ("gtk",) * 2)
    )
    assert key(vnc) == key(window) != key(PLAN)
    golden = plan_golden(vnc)
    assert golden.display == DisplayPlan("none", "none")
    assert key(golden) == key(vnc)


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


def test_a_golden_machine_is_on_nobodys_network() -> None:
    plan = with_card(PRIVATE, fixed("10.128.1.1/16"))
    plan = with_card(TAP, fixed("192.168.7.9/24", gateway="192.168.7.254"), plan)
    plan = with_card(replace(TAP, discover=True), plan=plan)
    golden = plan_golden(plan)
    own, private, told, asked = (nic.plan for nic in golden.nics)
    assert own.netdev["type"] == "user"
    assert private.netdev == {"type": "none"}
    assert private.address.addresses == ("10.128.255.254/16",)
    assert told.netdev == {
        "type": "user",
        "ipv6": "off",
        "net": "192.168.7.0/24",
        "host": "192.168.7.254",
        "dns": "192.168.7.1",
        "dhcpstart": "192.168.7.2",
    }
    assert told.address.addresses == ("192.168.7.253/24",)
    assert told.guest_address == "192.168.7.253"
    assert (asked.netdev["net"], asked.guest_address) == ("10.0.131.0/24", "10.0.131.15")
    assert (told.tap, asked.tap, asked.discover) == (None, None, True)
    assert [nic.address for nic in golden.seed.nics] == [nic.plan.address for nic in golden.nics]
    assert len({nic.mac for nic in (*golden.nics, *plan.nics)}) == 8


@pytest.mark.parametrize(
    ("address", "gateway", "golden", "net", "host"),
    [
        ("192.168.7.2/30", "192.168.7.1", "192.168.7.2", "192.168.7.0/29", "192.168.7.1"),
        ("192.168.7.1/30", None, "192.168.7.2", "192.168.7.0/29", "192.168.7.1"),
        ("192.168.7.3/31", "192.168.7.2", "192.168.7.3", "192.168.7.0/29", "192.168.7.2"),
        ("192.168.7.6/31", None, "192.168.7.7", "192.168.7.0/28", "192.168.7.6"),
    ],
)
def test_networks_with_room_for_two(
    address: str, gateway: str | None, golden: str, net: str, host: str
) -> None:
    """Who connects has to be a neighbour; the user network is larger than what the guest knows."""
    card = plan_golden(with_card(TAP, fixed(address, gateway=gateway))).nics[1].plan
    assert card.guest_address == golden
    assert (card.netdev["net"], card.netdev["host"]) == (net, host)
    others = {card.netdev["dns"], card.netdev["dhcpstart"]}
    assert len(others | {golden, host}) == 4


def test_a_network_without_a_free_address() -> None:
    plan = with_card(PRIVATE, fixed("10.9.9.0/31", nameservers=("10.9.9.1", "10.9.9.0")))
    assert plan_golden(plan).nics[1].plan.address.addresses == ("10.9.9.0/31",)


def test_two_cards_in_one_network_get_two_addresses() -> None:
    plan = with_card(PRIVATE, fixed("10.128.1.1/16"), with_card(PRIVATE, fixed("10.128.1.2/16")))
    addresses = [nic.plan.address.addresses for nic in plan_golden(plan).nics[1:]]
    assert addresses == [("10.128.255.254/16",), ("10.128.255.253/16",)]


def test_only_folders_that_are_mounted_are_a_part_of_the_hardware() -> None:
    def key(*folders: FolderPlan) -> str:
        return make_key(describe_visible(replace(PLAN, folders=folders), Emulator("7.2")))

    copied = FolderPlan("folder0", ".", "/srv/app", "copy")
    share = Share("9p", backend={"fsdriver": "local"}, device={"driver": "virtio-9p-pci"})
    mounted = FolderPlan("folder0", ".", "/srv/app", "9p", share=share)
    read_only = replace(share, backend={"fsdriver": "local", "readonly": "on"})
    elsewhere = FolderPlan("folder0", "src", "/srv/x", "9p", read_only=True, share=read_only)
    assert key() == key(copied)
    assert key() != key(mounted)
    assert key(mounted) == key(elsewhere), "a clone mounts what it likes, where it likes"


def test_another_script_in_templates_is_another_recipe() -> None:
    """A template of before would go on with the script of before: whoever changes one of
    ``qup/guest/*.sh`` counts RECIPE up, and says so here.
    """
    script = hashlib.sha256(make_waiting_script().encode()).hexdigest()
    assert (RECIPE, script[:16]) == (13, "2968ca5dc97d5b67")
