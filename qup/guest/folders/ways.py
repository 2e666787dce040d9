"""Which way to bring files into a guest: rsync where both sides have it, else tar, else sftp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qup.errors import HostError

if TYPE_CHECKING:
    from qup.folder_types import CopyingType


@dataclass(frozen=True)
class Way:
    """A way that there is.

    Attributes:
        type: what a plugin has registered.
        obstacle: why it can't be taken on this computer; None if it can.
    """

    type: CopyingType
    obstacle: str | None = None

    def find_obstacle(self, programs: frozenset[str]) -> str | None:
        """Why it can't be taken, by the programs that the guest has; None if it can."""
        missing = [name for name in self.type.programs if name not in programs]
        return self.obstacle or (f"the guest has no {missing[0]}" if missing else None)


def choose_way(
    wanted: str | None, programs: frozenset[str], ways: Sequence[Way]
) -> tuple[CopyingType, str]:
    """The way that is asked for, or else the first that works; and what is against others.

    Args:
        wanted: its name; None leaves the choice.
        programs: those of its ways' that the guest has.
        ways: what there is, the best first.

    Raises:
        HostError: it doesn't work, or none does.
    """
    reasons: list[str] = []
    for way in ways:
        name = way.type.name
        if wanted != name and (wanted is not None or way.type.priority < 0):
            continue
        obstacle = way.find_obstacle(programs)
        if obstacle is None:
            return way.type, "; ".join(reasons)
        reasons.append(f"not {name}: {obstacle}")
    raise HostError(
        f"the folder can't be copied: {'; '.join(reasons)}",
        hint="leave 'type' out, or install what is missing",
    )
