"""The settings that the environment and the command line can give, as a table.

It is apart from the schema (:mod:`qup.model.config`), which takes its descriptions from here,
because tab completion and ``--help`` need no pydantic.
"""

from __future__ import annotations

from typing import NamedTuple


class Setting(NamedTuple):
    """A setting with a variable and an option of its own.

    Attributes:
        key: its dotted key in ``[machine]``.
        env: the environment variable.
        flag: the option of the command line.
        metavar: what its value is called in ``--help``.
        summary: what it is, in a line.
        aliases: other variables that are understood; ``env`` goes first.
    """

    key: str
    env: str
    flag: str
    metavar: str
    summary: str
    aliases: tuple[str, ...] = ()


SETTINGS = (
    Setting(
        "box", "QUP_BOX", "--box", "BOX", "What the machine boots from: 'tiny', or an image's path."
    ),
    Setting("cpus", "QUP_CPUS", "--cpus", "N", "Number of virtual CPUs.", ("QUP_CPU_COUNT",)),
    Setting(
        "memory", "QUP_MEMORY", "--memory", "SIZE", 'Memory: "512M", "2G", or a number of MiB.'
    ),
    Setting(
        "disk",
        "QUP_DISK",
        "--disk",
        "SIZE",
        "Virtual size of the disk; it takes up only what is written.",
        ("QUP_DISK_SIZE",),
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
        "ssh.user",
        "QUP_SSH_USER",
        "--ssh-user",
        "USER",
        "Account to log in as. Default: the box's own.",
    ),
    Setting(
        "network.mode", "QUP_NETWORK", "--network", "MODE", "A network mode that a plugin brings."
    ),
    Setting(
        "qemu.program",
        "QUP_PROGRAM",
        "--program",
        "PROGRAM",
        "QEMU to start. In a Qupfile, a path or a name other than qemu-system-* needs 'qup trust'.",
    ),
    Setting(
        "qemu.accelerator",
        "QUP_ACCELERATOR",
        "--accelerator",
        "NAME",
        "auto (the best that is proved to work), kvm, hvf, whpx, tcg, or a plugin's.",
    ),
    Setting("qemu.machine", "QUP_MACHINE_TYPE", "--machine-type", "TYPE", "QEMU's machine type."),
    Setting("qemu.cpu", "QUP_CPU", "--cpu", "MODEL", "CPU model; auto: as the accelerator says."),
)
"""Every setting that has a variable and an option of its own."""

_BY_KEY = {setting.key: setting for setting in SETTINGS}


def summarize(key: str) -> str:
    """The summary of the setting with a dotted key."""
    return _BY_KEY[key].summary
