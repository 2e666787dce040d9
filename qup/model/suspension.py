"""A suspended machine: what is known about its memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qup.model.network import Forward

SUSPENSION_SCHEMA = 1

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class OpenedForward:
    """A forward that was open.

    Attributes:
        nic: the NIC that it led to.
        forward: with the port that it had on this computer.
        wanted: what it was opened for in the Qupfile; None for one that the user added.
    """

    nic: int
    forward: Forward
    wanted: Forward | None = None


@dataclass(frozen=True)
class Suspension:
    """The memory of a machine whose guest stands still on disk.

    Attributes:
        machine: the machine's id.
        created: when, in ISO 8601, UTC.
        size: bytes of the file with the memory.
        sha256: of that file.
        hardware: see :func:`qup.templates.key.describe_hardware`.
        disks: size in bytes and time of the last change in nanoseconds of each file that the
            guest has, by its path; seen from the machine's folder if it is qup's.
        waiting: the guest waits at its second serial port for the time and randomness.
        of_template: see :class:`qup.model.state.Launch`.
        ssh_port: of this computer, that led to sshd; None for a guest with its own address.
        forwards: what was open beside that.
        pause: seconds for which the guest stood still before QEMU ended.
    """

    machine: str
    created: str
    size: int
    sha256: str
    hardware: dict[str, Any]
    disks: dict[str, tuple[int, int]]
    waiting: bool = False
    of_template: bool = False
    ssh_port: int | None = None
    forwards: tuple[OpenedForward, ...] = ()
    pause: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As ``suspension.json`` holds it."""
        return {"schema": SUSPENSION_SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Suspension:
        """Read what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: the data isn't a suspension.
        """
        if data["schema"] != SUSPENSION_SCHEMA:
            raise TypeError("another schema")
        known = {key: value for key, value in data.items() if key != "schema"}
        known["disks"] = {
            str(path): (int(size), int(changed)) for path, (size, changed) in known["disks"].items()
        }
        known["forwards"] = tuple(map(_read_forward, known["forwards"]))
        found = cls(**known)
        if not _DIGEST.fullmatch(found.sha256) or not isinstance(found.size, int):
            raise TypeError("no digest or size")
        if not isinstance(found.hardware, dict):
            raise TypeError("no hardware")
        return found


def _read_forward(data: Mapping[str, Any]) -> OpenedForward:
    wanted = data["wanted"]
    return OpenedForward(int(data["nic"]), Forward(**data["forward"]), wanted and Forward(**wanted))
