"""The Qupfile's schema, and the configuration that comes out of it.

pydantic gives validation and the JSON Schema; finding the file, merging its layers and
placing every problem at its line is :mod:`qup.qupfile`'s work. Loaded only where a Qupfile
is: never on the way to ``status`` or ``ssh``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from qup.model import units
from qup.model.display import NONE
from qup.model.fields import (
    MAX_CPUS,
    MAX_DISKS,
    BoxName,
    CacheName,
    CloudInit,
    DiskName,
    DiskSize,
    Display,
    Duration,
    Environment,
    GuestFolder,
    Hostname,
    ImageFormat,
    IoName,
    Memory,
    QemuCpu,
    QemuWord,
    Settings,
    StepName,
    User,
)
from qup.model.folders import AUTO, MAX_FOLDERS
from qup.model.network import Seat
from qup.model.settings import summarize
from qup.model.user_data import MAX_USER_DATA


class SshSettings(Settings):
    """``[machine.ssh]``"""

    user: User | None = Field(default=None, description=summarize("ssh.user"))


class NetworkSettings(Settings):
    """``[machine.network]``: ``mode``, and the options of that mode."""

    model_config = ConfigDict(extra="allow")

    mode: str = Field(default="user", description=summarize("network.mode"))


MAX_NETWORKS = 7
"""NICs beside the first: each takes a slot of the machine's PCI bus."""


class QemuSettings(Settings):
    """``[machine.qemu]``"""

    program: str = Field(
        default="qemu-system-x86_64",
        min_length=1,
        description=summarize("qemu.program"),
    )
    accelerator: QemuWord = Field(
        default="auto",
        description=summarize("qemu.accelerator"),
    )
    machine: QemuWord = Field(default="q35", description=summarize("qemu.machine"))
    cpu: QemuCpu = Field(default="auto", description=summarize("qemu.cpu"))
    firmware: Literal["bios", "uefi"] = Field(
        default="bios", description=summarize("qemu.firmware")
    )
    virtio_drives: bool = Field(default=True, description=summarize("qemu.virtio-drives"))
    cache: CacheName = Field(default="default", description=summarize("qemu.cache"))
    io: IoName = Field(default="default", description=summarize("qemu.io"))
    display: Display = Field(default=NONE, description=summarize("qemu.display"))
    nographic: bool = Field(default=False, description=summarize("qemu.nographic"))
    args: tuple[str, ...] = Field(
        default=(),
        description="Words appended to QEMU's command line as they are. Needs 'qup trust'.",
    )

    @property
    def shown_at(self) -> str:
        """The display that counts: a machine that is ``nographic`` has none."""
        return NONE if self.nographic else self.display


class DiskSettings(Settings):
    """``[[machine.disks]]``"""

    name: DiskName | None = Field(
        default=None,
        description='The disk\'s name, which the guest sees as its serial number. Default: "disk1"'
        " for the first, and so on.",
    )
    size: DiskSize | None = Field(
        default=None,
        description="Make a new, empty disk of this virtual size; it takes up what is written.",
    )
    image: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Use an image that exists; its path is relative to the Qupfile.",
    )
    read_only: bool = Field(default=False, description="Whether the guest can't write to it.")
    format: ImageFormat | None = Field(
        default=None,
        description="The image's format. A raw image that the guest may write to has to say so.",
    )
    cache: CacheName = Field(default="default", description="As 'cache' in [machine.qemu].")
    io: IoName = Field(default="default", description="As 'io' in [machine.qemu].")

    @model_validator(mode="after")
    def _check_source(self) -> DiskSettings:
        if (self.size is None) == (self.image is None):
            raise ValueError("a disk has either 'size' (a new one) or 'image' (one that exists)")
        if self.size is not None and (self.read_only or self.format):
            word = "read-only" if self.read_only else "format"
            raise ValueError(f"a new disk has no {word!r}: that is for an image")
        if self.image is not None and "://" in self.image:
            raise ValueError(f"{units.shorten(self.image)} is a URL: an image is a file here")
        return self

    def name_at(self, index: int) -> str:
        """Its name; a disk without is called after its place in the list, from 0."""
        return self.name or f"disk{index + 1}"


class FolderSettings(Settings):
    """``[[machine.folders]]``"""

    host: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="The folder on this computer; its path is relative to the Qupfile."
    )
    guest: GuestFolder = Field(description="Where the guest has it: an absolute path.")
    type: Annotated[str, Field(min_length=1, max_length=40)] = Field(
        default=AUTO,
        description="How it gets there: mounted by 'virtiofs' (in machines without templates) or"
        " '9p', copied by 'rsync', 'tar' or 'sftp', or"
        " as a plugin does it. 'auto' takes the first that works, in this order, and says why.",
    )
    read_only: bool = Field(
        default=False, description="Whether the guest can't change what is mounted."
    )
    exclude: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        default=(),
        max_length=100,
        description="Patterns of what is not copied: '*.log' anywhere, '/build' at the top, 'x/'"
        " for folders only. A folder with patterns is copied, never mounted.",
    )
    delete: bool = Field(
        default=False,
        description="Whether copying removes from the guest's folder what isn't in yours, also what"
        " qup did not put there.",
    )

    @model_validator(mode="after")
    def _check_type(self) -> FolderSettings:
        if "\0" in self.host or any("\0" in item for item in self.exclude):
            raise ValueError("a path has no NUL character")
        for pattern in self.exclude:
            if pattern.startswith("!") or not pattern.strip("/"):
                raise ValueError(f"{pattern!r} is not a pattern of what to leave out")
        return self


class MachineSettings(Settings):
    """``[machine]`` and ``[machines.<name>]``"""

    box: BoxName = Field(default="tiny", description=summarize("box"))
    cpus: int = Field(default=1, ge=1, le=MAX_CPUS, description=summarize("cpus"))
    memory: Memory = Field(
        default=1024 * units.MIB,
        description=summarize("memory"),
        json_schema_extra={"default": "1G"},
    )
    disk: DiskSize = Field(
        default=20 * units.GIB,
        description=summarize("disk"),
        json_schema_extra={"default": "20G"},
    )
    disks: tuple[DiskSettings, ...] = Field(
        default=(),
        max_length=MAX_DISKS,
        description="Further disks, each a table.",
    )
    folders: tuple[FolderSettings, ...] = Field(
        default=(),
        max_length=MAX_FOLDERS,
        description="Folders of this computer that the guest has, too, each a table.",
    )
    hostname: Hostname | None = Field(default=None, description=summarize("hostname"))
    boot_timeout: Duration = Field(
        default=300.0,
        description=summarize("boot-timeout"),
        json_schema_extra={"default": "5m"},
    )
    templates: bool = Field(default=True, description=summarize("templates"))
    autostart: bool = Field(
        default=True, description="Whether 'qup up' without names starts this machine."
    )
    primary: bool = Field(
        default=False, description="The machine that 'qup ssh' enters when none is named."
    )
    after: tuple[str, ...] = Field(
        default=(),
        description="Machines that are started before this one, and stopped after it.",
    )
    user_data: str | None = Field(
        default=None,
        max_length=MAX_USER_DATA,
        description="A '#!' script or '#cloud-config' for the guest's first boot.",
    )
    userdata: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None, description=summarize("userdata")
    )
    cloud_init: CloudInit | None = Field(
        default=None, description="A cloud-config for the guest's first boot, as a table."
    )
    env: Environment = Field(
        default={},
        description="Variables for provisioning steps, login shells and 'qup ssh -- COMMAND' in the"
        " guest. Nothing in it is a secret there.",
    )
    user_data_variables: bool = Field(
        default=False,
        description="Whether '{{ hostname }}' and the like in the user data are replaced.",
    )
    seeder: QemuWord | None = Field(default=None, description=summarize("seeder"))
    ssh: SshSettings = Field(
        default_factory=SshSettings, description="How qup logs in to the guest."
    )
    network: NetworkSettings = Field(
        default_factory=NetworkSettings, description="How the machine is connected."
    )
    networks: tuple[NetworkSettings, ...] = Field(
        default=(),
        max_length=MAX_NETWORKS,
        description="More network cards, each like [machine.network]: a mode and its options.",
    )
    qemu: QemuSettings = Field(
        default_factory=QemuSettings, description="How QEMU runs the machine."
    )
    provision: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Steps that set the guest up, each {<provisioner> = options}.",
    )


class StepSettings(Settings):
    """What every ``[[machine.provision]]`` may have besides its provisioner."""

    name: StepName | None = Field(
        default=None, description="What the step is called: for --provision-with and in messages."
    )
    run: Literal["changed", "once", "always", "never"] | None = Field(
        default=None,
        description="When it runs: 'changed' (until it has succeeded with just this content; the"
        " default), 'once' (until it has succeeded), 'always' (at each 'qup up'; the default of"
        " 'host'), 'never' (only when it is named).",
    )
    timeout: Duration | None = Field(
        default=None, description="How long it may take. Default: for ever."
    )
    on: Literal["before-up", "up", "after-up"] = Field(
        default="up",
        description="The moment: before QEMU starts (only for steps on this computer), when ssh"
        " answers, or after all steps with 'up'.",
    )
    share: Literal["name", "all", "none"] | None = Field(
        default=None,
        description="Which new machines may be restored from a guest in which it has run, instead"
        " of running it: 'name' (those of the same host name; the default for most), 'all' (also"
        " others: what it does does not depend on the name), 'none' (it makes a secret, or tells"
        " others of the machine: it and the steps after it run in each machine).",
    )


@dataclass(frozen=True)
class ProvisionerUse:
    """One ``[[machine.provision]]`` whose options its provisioner has accepted."""

    name: str
    options: BaseModel
    step: StepSettings = field(default_factory=StepSettings)

    def title(self, number: int) -> str:
        """What the step is called: by the user, or by its provisioner and its number."""
        return self.step.name or f"{self.name} {number}"


@dataclass(frozen=True)
class NetworkUse:
    """One NIC's network mode, and the options that the mode made of its table."""

    mode: str
    options: BaseModel


@dataclass(frozen=True)
class MachineConfig:
    """Everything asked of one machine, validated.

    Attributes:
        name: the machine's name.
        settings: the merged settings.
        network: the options that the first NIC's mode made of ``[machine.network]``.
        provision: the steps, in order.
        networks: the other NICs, in order: ``[[machine.networks]]``.
        seats: where all machines of the project are on the networks that they share.
    """

    name: str
    settings: MachineSettings
    network: BaseModel
    provision: tuple[ProvisionerUse, ...] = ()
    networks: tuple[NetworkUse, ...] = ()
    seats: tuple[Seat, ...] = ()

    @property
    def hostname(self) -> str:
        return self.settings.hostname or self.name

    @property
    def nics(self) -> tuple[NetworkUse, ...]:
        """All NICs, in the order in which the guest sees them."""
        return (NetworkUse(self.settings.network.mode, self.network), *self.networks)


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        layer: ``default``, ``Qupfile``, ``environment`` or ``command line``.
        where: ``Qupfile:3:1``, ``QUP_MEMORY`` or ``--memory``; empty for defaults.
    """

    layer: str
    where: str = ""


@dataclass(frozen=True)
class Config:
    """A whole Qupfile, with the environment and the command line applied.

    Attributes:
        machines: by name, in the order of the Qupfile.
        origins: per machine and dotted key (``qemu.cpu``), where the value came from.
        digest: SHA-256 of the Qupfile's bytes; what ``qup trust`` remembers.
        notes: what the user should know about it, such as variables without effect.
    """

    machines: dict[str, MachineConfig]
    origins: dict[str, dict[str, Origin]]
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, MachineSettings]:
        """The settings of each machine by name."""
        return {name: machine.settings for name, machine in self.machines.items()}
