"""Snapshots of a machine: what is known about each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SNAPSHOT_SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
MAX_NOTE = 1000
MEMORY = "memory"
"""The file with the guest's memory and devices."""

SAVE_POINT = ".up"
"""The name of the one that ``qup reset`` goes back to; no user can choose it."""

_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_FILE = re.compile(r"memory|disk\.qcow2|vars\.qcow2|disks/[a-z][a-z0-9-]*\.qcow2", re.ASCII)


@dataclass(frozen=True)
class Snapshot:
    """A machine at one moment. It needs no other snapshot: each has all its files.

    Attributes:
        id: names its folder.
        name: what the user calls it.
        machine: the id of the machine.
        created: when, in ISO 8601, UTC.
        note: the user's words about it.
        parent: the id of the snapshot that the machine had been restored to, or saved as, last.
        files: bytes of each file, by its name in the folder.
        hardware: see :func:`qup.templates.key.describe_hardware`; of no use without memory.
        waiting: the guest waits at its second serial port for the time and randomness.
        of_template: see :class:`qup.model.state.Launch`.
        template: the template that the disk is based on, if it is of one.
        box_digest: the box.
        provisioned: the provisioning steps that were done.
        pause: seconds for which the guest stood still.
        steps: what the provisioning steps were, as a digest; for ``qup reset``.
    """

    id: str
    name: str
    machine: str
    created: str
    note: str = ""
    parent: str | None = None
    files: dict[str, int] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    waiting: bool = False
    of_template: bool = False
    template: str | None = None
    box_digest: str = ""
    provisioned: tuple[str, ...] = ()
    pause: float = 0.0
    steps: str = ""

    @property
    def live(self) -> bool:
        """Whether it has the guest's memory."""
        return MEMORY in self.files

    @property
    def disks(self) -> tuple[str, ...]:
        """Its files but the memory."""
        return tuple(name for name in self.files if name != MEMORY)

    def to_dict(self) -> dict[str, Any]:
        """As ``snapshot.json`` holds it."""
        return {"schema": SNAPSHOT_SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Snapshot:
        """Read what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError: the data isn't a snapshot.
        """
        if data["schema"] != SNAPSHOT_SCHEMA:
            raise TypeError("another schema")
        known = {key: value for key, value in data.items() if key != "schema"}
        known["provisioned"] = tuple(known["provisioned"])
        found = cls(**known)
        names = [found.id, *([found.parent] if found.parent else [])]
        named = found.name == SAVE_POINT or NAME.fullmatch(found.name)
        if not all(_ID.fullmatch(name) for name in names) or not named:
            raise TypeError("no id or name")
        if not all(_FILE.fullmatch(name) for name in found.files) or not found.disks:
            raise TypeError("files")
        return found


def walk_tree(snapshots: Sequence[Snapshot]) -> Iterator[tuple[int, Snapshot]]:
    """Each snapshot with its depth, children after their parents, the oldest first."""
    known = {item.id for item in snapshots}
    ordered = sorted(snapshots, key=lambda item: (item.created, item.id))

    def below(parent: str | None, depth: int) -> Iterator[tuple[int, Snapshot]]:
        for item in ordered:
            if (item.parent if item.parent in known else None) == parent:
                yield depth, item
                yield from below(item.id, depth + 1)

    yield from below(None, 0)
