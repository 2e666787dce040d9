"""The settings that the environment and the command line can give, as a table.

Each row becomes options of ``up`` and its like, environment variables, and the spellings of
docker-machine's QEMU driver. The table is apart from the schema (:mod:`qup.model.config`),
which takes its descriptions from here, because tab completion and ``--help`` need no pydantic.
For the same reason a row says itself what its values are: a network mode's options belong to
a plugin, which ``--help`` does not load.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What the text of a variable or an option means."""

    TEXT = "text"
    """The text itself, which the schema reads."""
    NUMBER = "number"
    """A whole number."""
    SWITCH = "switch"
    """On or off: ``--x`` and ``--no-x``, or one of :data:`YES` and :data:`NO`."""
    FILE = "file"
    """A file's path, relative to the folder in which the user is."""


YES = ("1", "true", "yes", "on", "t", "y")
NO = ("0", "false", "no", "off", "f", "n")


class Setting(NamedTuple):
    """A setting with variables and options of its own.

    Attributes:
        key: its dotted key in ``[machine]``.
        env: the environment variable.
        flag: the option of the command line.
        metavar: what its value is called in ``--help``.
        summary: what it is, in a line.
        aliases: other variables that are understood; ``env`` goes first.
        flags: other names of the option.
        kind: what its text means.
        old: what docker-machine's driver calls the option; understood, but not shown.
        old_switch: an option of that driver without a value, and the value it stands for
            where none is said; understood, but not shown.
        bare: the value that its option stands for when no value follows it.
    """

    key: str
    env: str
    flag: str
    metavar: str
    summary: str
    aliases: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    kind: Kind = Kind.TEXT
    old: str = ""
    old_switch: tuple[str, str] = ("", "")
    bare: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """All its environment variables; the first that is set and not empty counts."""
        return (self.env, *self.aliases)

    @property
    def options(self) -> tuple[str, ...]:
        """All names of its option, without the old ones."""
        return (self.flag, *self.flags)

    @property
    def is_network_option(self) -> bool:
        """Whether it belongs to some network modes only."""
        return self.key.startswith("network.") and self.key != "network.mode"


SETTINGS = (
    Setting(
        "box",
        "QUP_BOX",
        "--box",
        "BOX",
        "What the machine boots from: 'tiny', 'debian/12', or an image's or ISO's path or URL.",
        aliases=("QUP_BOOT2DOCKER_URL", "QEMU_BOOT2DOCKER_URL"),
        flags=("--boot2docker-url",),
        old="--qemu-boot2docker-url",
    ),
    Setting(
        "cpus",
        "QUP_CPUS",
        "--cpus",
        "N",
        "Number of virtual CPUs.",
        aliases=("QUP_CPU_COUNT",),
        flags=("--cpu-count",),
        kind=Kind.NUMBER,
        old="--qemu-cpu-count",
    ),
    Setting(
        "memory",
        "QUP_MEMORY",
        "--memory",
        "SIZE",
        'Memory: "512M", "2G", or a number of MiB.',
        old="--qemu-memory",
    ),
    Setting(
        "disk",
        "QUP_DISK",
        "--disk",
        "SIZE",
        "Virtual size of the disk; it takes up only what is written.",
        aliases=("QUP_DISK_SIZE",),
        flags=("--disk-size",),
        old="--qemu-disk-size",
    ),
    Setting(
        "hostname",
        "QUP_HOSTNAME",
        "--hostname",
        "NAME",
        "The guest's name. Default: the machine's name.",
    ),
    Setting(
        "boot-timeout",
        "QUP_BOOT_TIMEOUT",
        "--boot-timeout",
        "TIME",
        "How long the guest may take until ssh answers.",
    ),
    Setting(
        "templates",
        "QUP_TEMPLATES",
        "--templates",
        "",
        "Whether the first start may restore a template instead of booting.",
        kind=Kind.SWITCH,
    ),
    Setting(
        "userdata",
        "QUP_USERDATA",
        "--userdata",
        "FILE",
        "A file with user data for the guest's first boot; in a Qupfile, relative to its folder.",
        kind=Kind.FILE,
        old="--qemu-userdata",
    ),
    Setting(
        "seeder",
        "QUP_SEEDER",
        "--seeder",
        "NAME",
        "How the guest learns its name, user and key. Default: as the box reads it.",
    ),
    Setting(
        "ssh.user",
        "QUP_SSH_USER",
        "--ssh-user",
        "USER",
        "Account to log in as. Default: the box's own.",
        aliases=("QEMU_SSH_USER",),
        old="--qemu-ssh-user",
    ),
    Setting(
        "network.mode",
        "QUP_NETWORK",
        "--network",
        "MODE",
        "A network mode that a plugin brings.",
        old="--qemu-network",
    ),
    Setting(
        "network.interface",
        "QUP_NETWORK_INTERFACE",
        "--network-interface",
        "NAME",
        "In mode tap: the tap, one that is there or one to be made.",
        old="--qemu-network-interface",
    ),
    Setting(
        "network.address",
        "QUP_NETWORK_ADDRESS",
        "--network-address",
        "ADDRESS",
        "In modes tap and bridge: the guest's address, where ssh goes. Default: it is looked for.",
        old="--qemu-network-address",
    ),
    Setting(
        "network.bridge",
        "QUP_NETWORK_BRIDGE",
        "--network-bridge",
        "NAME",
        "In mode bridge: the bridge. In mode tap: the one that a tap is put on that qup makes.",
        old="--qemu-network-bridge",
    ),
    Setting(
        "network.ports",
        "QUP_LOCALPORTS",
        "--localports",
        "FIRST-LAST",
        'Host ports "first-last" to pick from: for ssh, and for forwards with host port 0.',
        aliases=("QEMU_LOCALPORTS",),
        old="--qemu-localports",
    ),
    Setting(
        "qemu.program",
        "QUP_PROGRAM",
        "--program",
        "PROGRAM",
        "QEMU to start. In a Qupfile, a path or a name other than qemu-system-* needs 'qup trust'.",
        old="--qemu-program",
    ),
    Setting(
        "qemu.accelerator",
        "QUP_ACCELERATOR",
        "--accelerator",
        "NAME",
        "auto (the best that is proved to work), kvm, hvf, whpx, tcg, or a plugin's.",
        old="--qemu-accelerator",
    ),
    Setting("qemu.machine", "QUP_MACHINE_TYPE", "--machine-type", "TYPE", "QEMU's machine type."),
    Setting(
        "qemu.firmware",
        "QUP_FIRMWARE",
        "--firmware",
        "NAME",
        "What starts the guest: bios, or uefi with variables of the machine's own.",
    ),
    Setting(
        "qemu.virtio-drives",
        "QUP_VIRTIO_DRIVES",
        "--virtio-drives",
        "",
        "Virtio drives (/dev/vda); if not, IDE or SATA (/dev/sda and /dev/sr0).",
        aliases=("QEMU_VIRTIO_DRIVES",),
        kind=Kind.SWITCH,
        old="--qemu-virtio-drives",
    ),
    Setting(
        "qemu.cache",
        "QUP_CACHE_MODE",
        "--cache-mode",
        "MODE",
        "How the disk's writes reach its file: none, writethrough, writeback, directsync, unsafe,"
        " or default.",
        aliases=("QEMU_CACHE_MODE",),
        old="--qemu-cache-mode",
    ),
    Setting(
        "qemu.io",
        "QUP_IO_MODE",
        "--io-mode",
        "MODE",
        "How QEMU asks the host for the disk's data: threads, native, io_uring, or default.",
        aliases=("QEMU_IO_MODE",),
        old="--qemu-io-mode",
    ),
    Setting("qemu.cpu", "QUP_CPU", "--cpu", "MODEL", "CPU model; auto: as the accelerator says."),
    Setting(
        "qemu.display",
        "QUP_DISPLAY",
        "--display",
        "TYPE",
        "Where the picture goes: none, vnc (a socket of yours), auto (what suits this computer),"
        " or what QEMU's -display takes. In a Qupfile, some need 'qup trust'.",
        aliases=("QEMU_DISPLAY_TYPE",),
        flags=("--display-type",),
        old="--qemu-display-type",
        old_switch=("--qemu-display", "auto"),
        bare="auto",
    ),
    Setting(
        "qemu.nographic",
        "QUP_NOGRAPHIC",
        "--nographic",
        "",
        "No display, and the machine's console in this terminal until it powers off."
        " In a Qupfile, needs 'qup trust'.",
        kind=Kind.SWITCH,
        old="--qemu-nographic",
    ),
)
"""Every setting that has variables and options of its own."""

BY_KEY = {setting.key: setting for setting in SETTINGS}


def summarize(key: str) -> str:
    """The summary of the setting with a dotted key."""
    return BY_KEY[key].summary


def parse_switch(text: str) -> bool | None:
    """What a word says about a switch; None if it says nothing."""
    word = text.strip().lower()
    return True if word in YES else False if word in NO else None
