"""(configuration, facts, contributions, identity) -> plan. Pure: no I/O, golden-file tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qup.drives import plan_disks
from qup.errors import ConfigError
from qup.folders import FolderFacts, plan_folders
from qup.model.box import BoxSpec
from qup.model.cloud_config import add_script, write_cloud_config
from qup.model.display import NONE, parse_display
from qup.model.drives import DEFAULT, FURTHER, VIRTIO
from qup.model.folders import FolderPlan
from qup.model.network import LOOPBACK, SSH_MODE, Forward, NicPlan, NicRequest, make_mac
from qup.model.plan import (
    AcceleratorPlan,
    DisplayPlan,
    ExtraArguments,
    Firmware,
    Identity,
    Nic,
    NicSeed,
    Plan,
    ProvisionStep,
    SeedPlan,
)
from qup.model.seed import NOBODY, SeedForm
from qup.model.units import MIB, format_size
from qup.model.user_data import fill, find_fault

if TYPE_CHECKING:
    from qup.model.config import MachineConfig, NetworkUse

AUTO = "auto"
USER_STACK = "user"
"""The type of QEMU's ``-netdev`` that has forwards."""
SCRIPT_PATH = "/var/lib/qup/user-data"
"""Where a guest keeps the script of its user data."""
UPGRADES = "upgrade"
"""Instead of an obstacle: ``qup upgrade`` applies it."""
FIRST_BOOT = "the guest reads it at its first boot only"


@dataclass(frozen=True)
class Facts:
    """What a plan depends on besides the configuration.

    Attributes:
        machine_type: QEMU's versioned machine type, such as ``pc-q35-7.2``.
        accelerator: what the chosen accelerator puts into the plan.
        box: the box.
        box_digest: the digest of the box's content, when it is here already.
        provision: the steps with their digests.
        user_data: what the file of ``userdata`` says, if one is named.
        project: see :class:`~qup.model.network.NicRequest`.
        resolvers: the host's DNS servers.
        display: where the picture goes, once ``auto`` is settled.
        formats: the formats of the images of ``[[machine.disks]]``, by the disk's name.
        firmware: what ``qemu.firmware`` means here; None for QEMU's own BIOS.
        folders: what the types of folders depend on.
        project_name: the name of the folder with the Qupfile.
        ports: TCP ports of the guest that this computer is to reach.
    """

    machine_type: str
    accelerator: AcceleratorPlan
    box: BoxSpec
    box_digest: str | None
    provision: tuple[ProvisionStep, ...] = ()
    user_data: str | None = None
    project: str = ""
    resolvers: tuple[str, ...] = ()
    display: str = NONE
    formats: Mapping[str, str] = field(default_factory=dict)
    firmware: Firmware | None = None
    folders: FolderFacts = field(default_factory=FolderFacts)
    project_name: str = ""
    ports: tuple[int, ...] = ()


SSH_ONLY = NicPlan(
    {"type": "user", "restrict": "on", "ipv6": "off", "net": "10.0.255.0/24"},
    guest_address="10.0.255.15",
)
"""The NIC of a machine that the host reaches by no other: nothing goes through but ssh. Its
network is beside those of the mode ``user``."""


def plan_machine(
    config: MachineConfig,
    facts: Facts,
    identity: Identity,
    plan_nic: Callable[[NetworkUse, NicRequest], NicPlan],
    plan_seed: Callable[[SeedPlan], SeedForm],
) -> Plan:
    """Plan one machine.

    Args:
        config: what was asked.
        facts: what the plan depends on besides.
        identity: who the machine is.
        plan_nic: asks a NIC's network mode for its plan.
        plan_seed: the guest seeder's word on how the seed reaches the guest.
    """
    settings = config.settings
    nics = _plan_nics(config, facts, identity, plan_nic)
    seed = SeedPlan(
        instance_id=identity.uuid,
        hostname=config.hostname,
        user=settings.ssh.user or facts.box.user,
        user_data=_user_data(config, facts),
        nics=tuple(NicSeed(nic.mac, nic.plan.address) for nic in nics),
        seeder=choose_seeder(config, facts.box),
    )
    form = plan_seed(seed)
    return Plan(
        identity=identity,
        box=facts.box,
        box_digest=facts.box_digest,
        program=settings.qemu.program,
        machine_type=facts.machine_type,
        accelerator=facts.accelerator,
        cpu=facts.accelerator.cpu if settings.qemu.cpu == AUTO else settings.qemu.cpu,
        cpus=settings.cpus,
        memory_mib=settings.memory // MIB,
        disks=plan_disks(config, facts.box, facts.machine_type, facts.formats, form),
        nics=nics,
        seed=seed,
        boot_timeout=settings.boot_timeout,
        provision=facts.provision,
        firmware=facts.firmware,
        extra=(ExtraArguments(settings.qemu.args, "qemu.args"),) if settings.qemu.args else (),
        display=_plan_display(facts.display),
        nographic=settings.qemu.nographic,
        seed_form=form,
        folders=plan_folders(config, facts.box, facts.folders),
    )


def _plan_nics(
    config: MachineConfig,
    facts: Facts,
    identity: Identity,
    plan_nic: Callable[[NetworkUse, NicRequest], NicPlan],
) -> tuple[Nic, ...]:
    nics = []
    for index, use in enumerate(config.nics):
        mac = make_mac(identity.id, index)
        request = NicRequest(
            config.name, config.hostname, index, mac, facts.project, facts.resolvers
        )
        nics.append(Nic(use.mode, mac, plan_nic(use, request)))
    if not any(nic.plan.reachable for nic in nics):
        nics.append(Nic(SSH_MODE, make_mac(identity.id, len(nics)), SSH_ONLY))
    return _lead_to(nics, facts.ports)


def _lead_to(nics: Sequence[Nic], ports: Sequence[int]) -> tuple[Nic, ...]:
    """The NICs with a forward to each port that has none, where the guest is reached by forwards.

    They are added to the NIC by which ssh goes: the first that the host gets through.
    """
    first = next(index for index, nic in enumerate(nics) if nic.plan.reachable)
    plan = nics[first].plan
    if plan.netdev.get("type") != USER_STACK:
        return tuple(nics)  # the guest has an address of its own
    own = {item.guest for nic in nics for item in nic.plan.forwards if item.protocol == "tcp"}
    added = [Forward("tcp", LOOPBACK, 0, port) for port in ports if port not in own]
    plan = replace(plan, forwards=(*plan.forwards, *added))
    return (*nics[:first], replace(nics[first], plan=plan), *nics[first + 1 :])


def _plan_display(value: str) -> DisplayPlan | None:
    if value == NONE:
        return None
    display = parse_display(value)
    return DisplayPlan(display.type, str(display), display.private)


def choose_seeder(config: MachineConfig, box: BoxSpec) -> str:
    """The guest seeder's name: the one that was asked for, or the box's."""
    return config.settings.seeder or box.seeder or NOBODY


def _user_data(config: MachineConfig, facts: Facts) -> str | None:
    """What the user wants at the first boot: the script or cloud-config, the table, or both.

    Raises:
        ConfigError: both are cloud-configs, or the file has an unknown variable.
    """
    settings = config.settings
    text = facts.user_data if settings.userdata else settings.user_data
    table = settings.cloud_init
    if settings.user_data_variables:
        text, table = _fill_in(config, facts, text), _fill_in(config, facts, table)
    if not table:
        return text
    if text is None:
        return write_cloud_config(table)
    if not text.startswith("#!"):
        raise ConfigError(
            "there are two cloud-configs: [machine.cloud-init] and the user data",
            hint="write all of it into one of them; the user data may be a script beside the table",
        )
    return write_cloud_config(add_script(table, text, SCRIPT_PATH))


def _fill_in(config: MachineConfig, facts: Facts, value: Any) -> Any:
    """User data with the values of its variables."""
    if isinstance(value, str) and (fault := find_fault(value)):
        # The Qupfile's own was looked at before.
        raise ConfigError(
            f"machine {config.name}: {config.settings.userdata}, line {fault.line}:"
            f" {fault.message}",
            hint=fault.hint,
        )
    return fill(
        value,
        {
            "machine": config.name,
            "hostname": config.hostname,
            "user": config.settings.ssh.user or facts.box.user,
            "project": facts.project_name,
            "box": facts.box.name,
            "arch": facts.box.arch,
        },
    )


def add_arguments(plan: Plan, extra: Sequence[ExtraArguments]) -> Plan:
    """The plan with what plugins contribute."""
    return replace(plan, extra=(*plan.extra, *extra))


def arch_of(program: str) -> str:
    """The guest's processor, by the name of a QEMU program: ``qemu-system-<arch>``."""
    name = program.rsplit("/", 1)[-1]
    return name.removeprefix("qemu-system-") if name.startswith("qemu-system-") else "x86_64"


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two plans of a machine and a restart applies, in the Qupfile's words.

    Args:
        old: the plan that was carried out, as :meth:`Plan.to_dict` gives it.
        new: the plan for now, in the same form.
    """
    before, after = _in_words(old), _in_words(new)
    return [
        f"{key}: {before.get(key)} -> {value}"
        for key, value in after.items()
        if before.get(key) != value and not (before and _find_obstacle(key, old, new))
    ]


def describe_obstacles(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two plans and can't be applied to this machine at all, and why.

    Args:
        old: the plan that was carried out, as :meth:`Plan.to_dict` gives it.
        new: the plan for now, in the same form.
    """
    before, after = _in_words(old), _in_words(new)
    if not before or not after:
        return []
    found = [
        f"{key}: {before.get(key)} -> {value} ({reason})"
        for key, value in after.items()
        if before.get(key) != value
        and (reason := _find_obstacle(key, old, new))
        and reason != UPGRADES
    ]
    if old["seed"].get("user_data") != new["seed"].get("user_data"):
        found.append(f"user-data ({FIRST_BOOT})")
    return found


def _find_obstacle(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why a restart can't apply what has changed about a key; empty if it can."""
    if key == "box":
        return UPGRADES if old["box"].get("iso") else "a disk can't change its box"
    if key == "seeder":
        return FIRST_BOOT
    if key == "disk" and _main_disk(new)["size"] < _main_disk(old)["size"]:
        return "a disk can't shrink"
    return ""


def _main_disk(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    (main,) = (disk for disk in plan["disks"] if disk["role"] == "disk")
    return dict(main)


def take_forwards(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A plan that was carried out with what of a newer one needs no restart: its forwards, and
    the address of a guest that isn't told its own.

    Args:
        old: the plan that was carried out, as :meth:`Plan.to_dict` gives it.
        new: the plan for now, in the same form.
    """
    try:
        nics = [
            {**nic, "plan": {**nic["plan"], **_take_of_nic(nic["plan"], fresh["plan"])}}
            if nic["mode"] == fresh["mode"]
            else nic
            for nic, fresh in zip(old["nics"], new["nics"], strict=False)
        ]
        return {**old, "nics": [*nics, *old["nics"][len(nics) :]]}
    except (KeyError, TypeError):  # written by another version of qup
        return dict(old)


def _take_of_nic(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    taken = {"forwards": [*new["forwards"]]}
    told = old["address"]["addresses"] or new["address"]["addresses"]
    if new["ssh_address"] and old["tap"] and not told:
        taken |= {key: new[key] for key in ("ssh_address", "guest_address")}
    return taken


def words_of(plan: Plan) -> dict[str, str]:
    """A plan in the words of the Qupfile."""
    return _in_words(plan.to_dict())


def _disks_in_words(plan: Mapping[str, Any]) -> dict[str, str]:
    main = _main_disk(plan)
    further = [disk for disk in plan["disks"] if disk["role"].startswith(FURTHER)]
    return {
        "disk": format_size(main["size"]),
        "disks": ", ".join(map(_disk_in_words, further)) or "none",
        "qemu.virtio-drives": str(main["bus"] == VIRTIO).lower(),
        "qemu.cache": main["cache"] or DEFAULT,
        "qemu.io": main["io"] or DEFAULT,
    }


def _folders_in_words(plan: Mapping[str, Any]) -> str:
    """Folders that are mounted: those that are copied need no restart."""
    folders = (FolderPlan.of(folder) for folder in plan.get("folders", ()))
    return "; ".join(str(folder) for folder in folders if folder.mounted)


def _disk_in_words(disk: Mapping[str, Any]) -> str:
    words = [disk["image"] or format_size(disk["size"])]
    words += ["read-only"] if disk["read_only"] else []
    words += [f"{key}={disk[key]}" for key in ("cache", "io") if disk[key]]
    return f"{disk['serial']} ({' '.join(words)})"


def _in_words(plan: Mapping[str, Any]) -> dict[str, str]:
    try:
        nic, *others = plan["nics"]
        forwards = [Forward(**item) for item in nic["plan"]["forwards"]]
        tap = nic["plan"].get("tap") or {}
        return {
            "box": plan["box"]["name"],
            "cpus": str(plan["cpus"]),
            "memory": f"{plan['memory_mib']}M",
            **_disks_in_words(plan),
            "hostname": plan["seed"]["hostname"],
            "seeder": plan["seed"].get("seeder", ""),
            "ssh.user": plan["seed"]["user"],
            "network.mode": nic["mode"],
            "network.interface": tap.get("interface") or "none",
            "network.bridge": tap.get("bridge") or "none",
            "network.host-address": tap.get("host_address") or "none",
            "network.address": nic["plan"].get("ssh_address") or "none",
            "network.gateway": nic["plan"].get("address", {}).get("gateway") or "none",
            "network": _netdev_in_words(nic),
            "network.forward": ", ".join(str(item) for item in forwards) or "none",
            "network.ports": _ports_in_words(nic["plan"].get("ports")),
            "networks": "; ".join(f"{one['mode']} {_netdev_in_words(one)}" for one in others)
            or "none",
            "qemu.program": plan["program"],
            "qemu.machine": plan["machine_type"],
            "qemu.accelerator": plan["accelerator"]["name"],
            "qemu.cpu": plan["cpu"],
            "qemu.display": (plan.get("display") or {"value": NONE})["value"],
            "qemu.firmware": "uefi" if plan["firmware"] else "bios",
            "folders": _folders_in_words(plan) or "none",
            "qemu.args": " ".join(word for item in plan["extra"] for word in item["words"]),
        }
    except (KeyError, TypeError, ValueError):  # written by another version of qup
        return {}


def _ports_in_words(ports: Mapping[str, int] | None) -> str:
    return f"{ports['first']}-{ports['last']}" if ports else "any"


def _netdev_in_words(nic: Mapping[str, Any]) -> str:
    """What a NIC is connected to; its guest's name is said elsewhere."""
    words = {key: value for key, value in nic["plan"]["netdev"].items() if key != "hostname"}
    words["address"] = " ".join(nic["plan"].get("address", {}).get("addresses", ()))
    return ", ".join(f"{key}={value}" for key, value in words.items() if value)
