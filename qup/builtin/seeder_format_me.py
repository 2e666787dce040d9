"""The guest seeders ``format-me`` and ``rancheros``: a message on the empty disk.

The disk of a new machine begins with a tar archive whose first entry is named as the guest
expects it. boot2docker (``files/init.d/autoformat``) looks through all whole disks for that name
at their first byte, keeps the first 4096 bytes, formats the disk, and unpacks what it has kept
into its user's home at every boot. RancherOS (``pkg/init/b2d`` in rancher/os) looks at
``/dev/sda`` and ``/dev/vda`` only, and keeps 8192.

The archive is what docker-machine, minikube and the QEMU driver write: ustar headers, and two
empty blocks at the end without further padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qup.api import ConfigError, GuestSeeder, Problem, Seed, SeedForm, SeedPlan, hookimpl
from qup.builtin.seeder_config_drive import LABEL, build_files

MAGIC = b"boot2docker, please format-me"
BUDGET = 4096
"""Bytes of the archive that the guest keeps."""
BLOCK = 512


def build_payload(key: str) -> bytes:
    """The archive.

    Args:
        key: a public key in OpenSSH's form.

    Raises:
        ConfigError: the key is so long that the guest would keep only a part of it.
    """
    line = key.strip().encode() + b"\n"
    entries = [
        _entry(MAGIC.decode(), 0, MAGIC),
        _entry(".ssh", 0o700, b"", kind=b"5"),
        _entry(".ssh/authorized_keys", 0o644, line),
        _entry(".ssh/authorized_keys2", 0o644, line),
    ]
    archive = b"".join(entries)
    if len(archive) > BUDGET:
        raise ConfigError(
            f"the machine's ssh key has {len(line)} bytes, and a guest that is told by"
            f" 'format-me' keeps {BLOCK}",
            hint="use an Ed25519 key, as qup makes them: remove 'ssh/key' and 'ssh/key.pub' from"
            " the machine's folder",
        )
    return archive + bytes(2 * BLOCK)


def _entry(name: str, mode: int, data: bytes, *, kind: bytes = b"0") -> bytes:
    """A header of POSIX.1-1988 ("ustar") and its data, in whole blocks."""
    fields = [
        name.encode().ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,  # user
        b"%07o\0" % 0,  # group
        b"%011o\0" % len(data),
        b"%011o\0" % 0,  # time
        b" " * 8,  # the checksum counts itself as spaces
        kind,
        bytes(100),  # link
        b"ustar\0" + b"00",
        bytes(32),  # user's name
        bytes(32),  # group's name
        b"%07o\0" % 0,  # device
        b"%07o\0" % 0,
        bytes(155),  # prefix
    ]
    header = b"".join(fields).ljust(BLOCK, b"\0")
    checksum = b"%06o\0 " % sum(header)
    header = header[:148] + checksum + header[156:]
    return header + data + bytes(-len(data) % BLOCK)


class FormatMe:
    """boot2docker's way: the key, and nothing else."""

    name = "format-me"
    summary = "boot2docker's message on the empty disk: the key alone"

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:
        if seed.user_data is None:
            return []
        return [
            Problem(
                "user data is given, but a guest that is told by 'format-me', such as"
                " boot2docker, reads none",
                'set it up by provisioning steps; for RancherOS write seeder = "rancheros"',
            )
        ]

    def form(self, seed: SeedPlan) -> SeedForm:  # noqa: ARG002  it is always the same
        return SeedForm(payload=True, host_key=False)

    def files(self, seed: Seed) -> Mapping[str, str]:  # noqa: ARG002  there are none
        return {}

    def payload(self, seed: Seed) -> bytes:
        return build_payload(seed.user_key)


class RancherOs:
    """RancherOS's way: the key by the same message, and user data by ``config-2``."""

    name = "rancheros"
    summary = "the same for RancherOS, with user data on a CD as for 'config-2'"

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:  # noqa: ARG002  all can be told
        return []

    def form(self, seed: SeedPlan) -> SeedForm:
        label = LABEL if seed.user_data is not None else None
        return SeedForm(label=label, payload=True, host_key=False)

    def files(self, seed: Seed) -> Mapping[str, str]:
        return build_files(seed)

    def payload(self, seed: Seed) -> bytes:
        return build_payload(seed.user_key)


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [FormatMe(), RancherOs()]
