"""The plan: everything that a start will do, as data.

A plan names no path of this host: files are named by their role, and the layout of a launch
(:class:`qup.qemu.argv.Layout`) says where they are. So a plan can be printed, compared,
stored and carried to another host.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from qup.model.box import BoxSpec
from qup.model.drives import DISK, VIRTIO
from qup.model.folders import FolderPlan
from qup.model.network import AddressPlan, HostAction, NicPlan
from qup.model.seed import NOCLOUD, SeedForm

PLAN_SCHEMA = 1


@dataclass(frozen=True)
class Identity:
    """Who a machine is, from its first ``up`` to its ``destroy``.

    Attributes:
        id: 12 hexadecimal digits, random; names the folder of its sockets.
        uuid: the SMBIOS UUID the guest sees, and what QMP answers to ``query-uuid``.
        name: its name in the Qupfile.
    """

    id: str
    uuid: str
    name: str


@dataclass(frozen=True)
class AcceleratorPlan:
    """What an accelerator puts into the plan.

    Attributes:
        name: the accelerator's name in the Qupfile.
        properties: properties of QEMU's ``-accel``; ``accel`` is QEMU's own name for it.
        cpu: the ``-cpu`` for ``cpu = "auto"``.
    """

    name: str
    properties: dict[str, str]
    cpu: str


@dataclass(frozen=True)
class Disk:
    """A disk of the machine, or something in a drive.

    Attributes:
        role: what it is for, unique among the machine's disks; the layout knows its file, and
            QEMU calls it so. ``disk`` (writable overlay over the box's base), ``seed``, ``iso``
            (the box's), or ``disk-<name>`` for ``[[machine.disks]]``.
        serial: what the guest finds it by, at most 20 bytes.
        format: ``qcow2`` or ``raw``.
        size: virtual size in bytes; None for as large as the file.
        read_only: the guest can't write to it.
        bus: ``virtio`` or ``ide`` (which is SATA where the machine type has that).
        media: ``disk`` or ``cdrom``; on virtio both look the same to the guest.
        cache: how writes reach the file, one of :data:`qup.model.drives.CACHE_MODES`; None for
            QEMU's default.
        io: how QEMU asks the host for them, one of :data:`qup.model.drives.IO_MODES`; None for
            QEMU's default.
        boot: the firmware tries the lowest number first, and no disk without one.
        image: the user's own file that it is, as the Qupfile names it; None for one of qup's.
    """

    role: str
    serial: str
    format: str
    size: int | None = None
    read_only: bool = False
    bus: str = VIRTIO
    media: str = DISK
    cache: str | None = None
    io: str | None = None
    boot: int | None = None
    image: str | None = None


@dataclass(frozen=True)
class Firmware:
    """UEFI firmware in the machine's flash; the layout knows its file and that of its variables.

    Attributes:
        description: which it is, in its descriptor's words.
        format: of its file, ``raw`` or ``qcow2``.
    """

    description: str
    format: str


@dataclass(frozen=True)
class Nic:
    """A network card and what it is connected to."""

    mode: str
    mac: str
    plan: NicPlan


@dataclass(frozen=True)
class NicSeed:
    """What the guest is told about the NIC with this MAC."""

    mac: str
    address: AddressPlan


@dataclass(frozen=True)
class SeedPlan:
    """What the guest is told at its first boot; secrets are added when the seed is made.

    Attributes:
        instance_id: changes only when the machine is a new one.
        hostname: the guest's name.
        user: the account that gets qup's key.
        user_data: a script or ``#cloud-config`` of the user's own, or None.
        nics: the NICs, in the order in which the guest sees them.
        seeder: the guest seeder that tells it.
    """

    instance_id: str
    hostname: str
    user: str
    user_data: str | None = None
    nics: tuple[NicSeed, ...] = ()
    seeder: str = NOCLOUD


@dataclass(frozen=True)
class DisplayPlan:
    """A graphics card, and where its picture goes.

    Attributes:
        type: QEMU's type: ``vnc``, ``gtk`` ...
        value: the whole of ``-display``; a private one lacks the socket's path.
        private: VNC at the machine's own socket, whose place the layout knows.
    """

    type: str
    value: str
    private: bool = False


@dataclass(frozen=True)
class ProvisionStep:
    """One provisioner to run.

    Attributes:
        provisioner: its name.
        options: its options.
        digest: SHA-256 over both and what the options refer to.
        name: what the user calls the step, or ``<provisioner> (<number>)``.
        run: ``changed``, ``once``, ``always`` or ``never``.
        on: ``before-up``, ``up`` or ``after-up``.
        timeout: seconds; None for ever.
        on_host: whether it runs programs on this computer.
        by_content: what it leaves in a guest follows from the digest.
        share: ``name``, ``all``, ``none``, or empty; see :mod:`qup.templates.steps`.
    """

    provisioner: str
    options: dict[str, Any]
    digest: str
    name: str = ""
    run: str = "changed"
    on: str = "up"
    timeout: float | None = None
    on_host: bool = False
    by_content: bool = False
    share: str = ""

    @property
    def mark(self) -> str:
        """What is remembered when it has succeeded."""
        return f"once:{self.name}" if self.run == "once" else self.digest


@dataclass(frozen=True)
class ExtraArguments:
    """Raw words for QEMU, and who wants them: ``qemu.args`` or a plugin's name."""

    words: tuple[str, ...]
    origin: str


CD = SeedForm(label="CIDATA")


@dataclass(frozen=True)
class TemplatePlan:
    """Whether the machine's first start may be the restoring of a template.

    Attributes:
        key: names everything that a guest sees and that can't be changed later; a template
            with another key doesn't fit. None while the box isn't here, or with an obstacle.
        obstacle: why the machine can't have a template, or None.
        provisioned: names that and the provisioning steps that come first: a guest in which they
            have run is another template. None if there are none, or an obstacle.
        steps: the numbers of these steps, from 1, in the order in which they run.
        steps_obstacle: why the steps after them, or all of them, run in each machine; or None.
    """

    key: str | None = None
    obstacle: str | None = None
    provisioned: str | None = None
    steps: tuple[int, ...] = ()
    steps_obstacle: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything about one machine's start. Sizes in bytes unless the name says otherwise.

    ``display`` is None for a machine without a graphics card; a machine that is ``nographic``
    has its firmware speak on the serial console.
    """

    identity: Identity
    box: BoxSpec
    box_digest: str | None
    program: str
    machine_type: str
    accelerator: AcceleratorPlan
    cpu: str
    cpus: int
    memory_mib: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    seed: SeedPlan
    boot_timeout: float
    provision: tuple[ProvisionStep, ...] = ()
    firmware: Firmware | None = None
    extra: tuple[ExtraArguments, ...] = ()
    template: TemplatePlan | None = None
    display: DisplayPlan | None = None
    nographic: bool = False
    seed_form: SeedForm = CD
    folders: tuple[FolderPlan, ...] = ()
    schema: int = PLAN_SCHEMA

    @property
    def actions(self) -> tuple[HostAction, ...]:
        """What the network modes want done on the host before the start."""
        return tuple(action for nic in self.nics for action in nic.plan.actions)

    @property
    def disk(self) -> Disk:
        """The machine's own disk."""
        return next(disk for disk in self.disks if disk.role == DISK)

    @property
    def guest_agent(self) -> bool:
        """Whether the guest gets a port for its agent: only where its address is looked for."""
        return bool(self.nics) and self.nics[self.ssh_nic].plan.discover

    @property
    def ssh_nic(self) -> int:
        """The NIC that ssh goes through: the first by which the host reaches the guest."""
        reachable = (index for index, nic in enumerate(self.nics) if nic.plan.reachable)
        return next(reachable, 0)

    @property
    def identity_port(self) -> bool:
        """Whether the guest has a second serial port, by which a restored one becomes another
        machine. It has one with and without a template, as its hardware should stay the same.
        """
        return self.template is not None and self.template.obstacle is None

    @property
    def shares_memory(self) -> bool:
        """Whether programs beside QEMU have the guest's memory, too."""
        return any(folder.vhost for folder in self.folders)

    def to_dict(self) -> dict[str, Any]:
        """The plan as ``qup plan --json`` prints it."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """SHA-256 over everything that a running machine can't change without a restart."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
