"""What makes a template fit a machine. Pure: no I/O.

A restored guest goes on with the hardware it was booted with, so everything that it sees is
part of the key. A plan's fields count unless they are known not to matter: what is added to
plans one day can't be forgotten here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from qup.model.plan import Plan, TemplatePlan
from qup.model.seed import NOCLOUD
from qup.templates import stand_in
from qup.templates.extra import find_stranger
from qup.templates.stand_in import USER

RECIPE = 13
"""Counts how templates are made and restored; those of another recipe don't fit."""

KEY_LENGTH = 32
X86 = ("x86_64", "i386")

NOT_SEEN = ("identity", "box", "program", "boot_timeout", "provision", "template", "schema")
"""Fields of a plan that the guest doesn't see, or not before it is itself. What boots of a box is
in its digest."""
CHANGED_LATER = ("instance_id", "hostname")
"""Fields of the seed that a restored guest is told anew."""
HOST_SIDE = ("forwards", "ports", "actions", "ssh_address")
"""Fields of a NIC's plan that are the host's business."""


@dataclass(frozen=True)
class Emulator:
    """What runs the guest.

    Attributes:
        qemu: the program, as it is now.
        processor: the host's, where the guest sees it; empty in emulation.
        images: digests of the user's images that the guest only reads, by their names in the
            plan.
    """

    qemu: str
    processor: str = ""
    images: tuple[tuple[str, str], ...] = ()


def describe_visible(plan: Plan, emulator: Emulator) -> dict[str, Any]:
    """Everything that a guest sees and that can't be changed while it runs."""
    data = {key: value for key, value in plan.to_dict().items() if key not in NOT_SEEN}
    data["seed"] = _without(data["seed"], CHANGED_LATER)
    if plan.seed.user_data:
        # What it does at the first boot may depend on the guest's name.
        data["seed"]["hostname"] = plan.seed.hostname
    del data["seed"]["nics"]  # each card's plan has what is told about it
    digests = dict(emulator.images)  # where they are is the host's business
    data["disks"] = [
        {**disk, "image": digests.get(disk["image"])} if disk["image"] else disk
        for disk in data["disks"]
    ]
    data["folders"] = _describe_folders(data["folders"])
    data["display"] = plan.display is not None  # where the picture goes is the host's business
    data["nics"] = [_describe_card(nic, own=bool(plan.seed.user_data)) for nic in data["nics"]]
    return {
        "recipe": RECIPE,
        "qemu": emulator.qemu,
        "processor": emulator.processor,
        **json.loads(json.dumps(data)),
    }


def describe_hardware(plan: Mapping[str, Any], emulator: Emulator) -> dict[str, Any]:
    """What a guest goes on with that is restored as the machine it was.

    Args:
        plan: as :meth:`qup.model.plan.Plan.to_dict` gives it, or as it was stored.
        emulator: what runs the guest.
    """
    data = {key: value for key, value in plan.items() if key not in (*NOT_SEEN, "seed")}
    data["nics"] = [_describe_nic(nic) for nic in data["nics"]]
    data["disks"] = [_without(disk, ("cache", "io")) for disk in data["disks"]]
    data["folders"] = _describe_folders(data.get("folders", ()))
    template = plan.get("template")
    data["identity_port"] = template is not None and template["obstacle"] is None
    data |= {"qemu": emulator.qemu, "processor": emulator.processor}
    described: dict[str, Any] = json.loads(json.dumps(data))
    return described


def _describe_folders(folders: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    """What a guest has of its folders while none of them is mounted: a device for each."""
    shares = ((folder["id"], folder.get("share")) for folder in folders)
    return [[name, dict(share["device"])] for name, share in shares if share and share["device"]]


def _describe_nic(nic: Mapping[str, Any]) -> dict[str, Any]:
    plan = _without(nic["plan"], HOST_SIDE)
    plan["netdev"] = _without(plan["netdev"], ("hostname",))
    return {**_without(nic, ("mac",)), "plan": plan}


def _describe_card(nic: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    """What a guest sees of a card, and is not told anew.

    Args:
        nic: of a plan.
        own: the machine's own addresses count, and not only their networks.
    """
    plan = nic["plan"]
    if plan["netdev"].get("type") == USER:
        return _describe_nic(nic)
    # What it is connected to shows in nothing but whether qup may have to look for the guest.
    addresses = plan["address"]["addresses"]
    if not own:
        addresses = [str(ip_interface(text).network) for text in addresses]
    return {"discover": plan["discover"], "told": {**plan["address"], "addresses": addresses}}


def _without(data: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in names}


def make_key(visible: Mapping[str, Any]) -> str:
    """A name for all of it, in hexadecimal digits."""
    text = json.dumps(visible, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def plan_template(plan: Plan, emulator: Emulator, *, wanted: bool, system: str) -> TemplatePlan:
    """Say whether a machine can have a template, and by what it is found.

    Args:
        plan: with everything else in it.
        emulator: what runs the guest.
        wanted: what ``templates`` in the Qupfile says.
        system: the host's, as :data:`sys.platform` names it.
    """
    obstacle = None if wanted else "templates = false"
    obstacle = obstacle or find_obstacle(plan, system) or _find_unknown(plan, emulator)
    if obstacle or plan.box_digest is None:
        return TemplatePlan(obstacle=obstacle)
    return TemplatePlan(make_key(describe_visible(plan, emulator)))


def find_obstacle(plan: Plan, system: str) -> str | None:
    """Why a machine can't be restored from a template, in a few words; or None."""
    if system != "linux":
        return "templates need Linux"
    if plan.box.arch not in X86:
        return f"templates are for x86 guests, not for {plan.box.arch}"
    if plan.box.iso or plan.seed.seeder != NOCLOUD:
        what = "the box is an ISO" if plan.box.iso else f"its seeder is {plan.seed.seeder}"
        return f"{what}, which doesn't read what makes a guest a machine of its own"
    return _find_wish(plan)


def _find_unknown(plan: Plan, emulator: Emulator) -> str | None:
    """The user's image whose content isn't known, in a few words."""
    known = {name for name, _ in emulator.images}
    for disk in plan.disks:
        if disk.image and disk.image not in known:
            return f"your image {disk.image} is too large to be compared each time"
    return None


def _find_wish(plan: Plan) -> str | None:
    """What the Qupfile asks for that can't be restored."""
    if plan.nographic:
        return "nographic shows how it boots"
    if shared := [item for item in plan.folders if item.vhost]:
        return f"its memory is shared with what serves {shared[0].guest} by {shared[0].type}"
    if images := [disk.image for disk in plan.disks if disk.image and not disk.read_only]:
        return f"what the guest writes to your image {images[0]} is not in a template"
    for extra in plan.extra:
        if word := find_stranger(extra.words):
            return f"{word} of {extra.origin} may be about more than the guest"
    form = plan.seed_form
    if form.label is None or form.payload or not (form.host_key and form.login):
        return f"seeder {plan.seed.seeder}"
    for nic in plan.nics:
        if obstacle := stand_in.find_obstacle(nic.plan):
            return f"network mode {nic.mode}: {obstacle}"
    return None
