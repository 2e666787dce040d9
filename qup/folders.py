"""From what was asked to the folders of a plan. Pure, a part of the planner."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qup.model.box import BoxSpec
from qup.model.folders import AUTO, COPY, FolderPlan, FolderRequest, Share

if TYPE_CHECKING:
    from qup.model.config import FolderSettings, MachineConfig

TCG = "tcg"
NOT_SAVED = "a guest that has it can't be restored, suspended or saved with its memory"
STALE = "in emulation, a program that is built anew may run as it was before"
"""What is against memory that others write to: QEMU's translations of code that was there stay,
as it doesn't notice."""


@dataclass(frozen=True)
class FolderFacts:
    """What the choice of a type depends on besides the Qupfile.

    Attributes:
        shares: what says how a folder is mounted, for each type that mounts.
        offered: the types among them that are taken without being named, the best first.
        obstacles: why a type can't work on this computer, by type; what isn't here can.
        reservations: why a type is not taken unless it is named, by type.
        accelerator: what runs the guest.
    """

    shares: Mapping[str, Callable[[FolderRequest], Share]] = field(default_factory=dict)
    offered: tuple[str, ...] = ()
    obstacles: Mapping[str, str] = field(default_factory=dict)
    reservations: Mapping[str, str] = field(default_factory=dict)
    accelerator: str = TCG


def plan_folders(config: MachineConfig, box: BoxSpec, facts: FolderFacts) -> tuple[FolderPlan, ...]:
    """The machine's folders, each with its type, and why it has that."""
    warm = config.settings.templates
    return tuple(
        _plan(index, folder, box, facts, warm=warm)
        for index, folder in enumerate(config.settings.folders)
    )


def _plan(
    index: int, folder: FolderSettings, box: BoxSpec, facts: FolderFacts, *, warm: bool
) -> FolderPlan:
    kind: str = folder.type
    reason = ""
    if kind == AUTO:
        kind, reason = _choose(folder, box, facts, warm=warm)
    elif named := facts.shares.get(kind):
        reason = "; ".join(_find_drawbacks(kind, named(request_for(folder)), facts))
    mount = facts.shares.get(kind)
    name = f"folder{index}"
    return FolderPlan(
        id=name,
        host=folder.host,
        guest=folder.guest,
        type=kind,
        chosen=folder.type == AUTO,
        reason=reason,
        read_only=folder.read_only,
        exclude=folder.exclude,
        delete=folder.delete,
        share=mount(request_for(folder)) if mount else None,
        tag=f"{name}-{_digest(folder)}" if mount else "",
    )


def _digest(folder: FolderSettings) -> str:
    words = [folder.host, folder.guest, str(folder.read_only)]
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:8]


def request_for(folder: FolderSettings) -> FolderRequest:
    """What a type is told of a folder."""
    return FolderRequest(folder.host, folder.guest, folder.read_only)


def _find_drawbacks(kind: str, share: Share, facts: FolderFacts) -> Iterator[str]:
    """What has to be known of a type that was named."""
    if share.vhost:
        if facts.accelerator == TCG:
            yield STALE
        if kind in facts.reservations:
            yield facts.reservations[kind]


def _find_loss(kind: str, share: Share, facts: FolderFacts, *, warm: bool) -> str | None:
    """Why a type isn't taken unless it is named; None if nothing is lost by it."""
    if share.vhost and warm:
        return NOT_SAVED
    return next(_find_drawbacks(kind, share, facts), None)


def _choose(
    folder: FolderSettings, box: BoxSpec, facts: FolderFacts, *, warm: bool
) -> tuple[str, str]:
    """The first type that works, and what is against those before it."""
    if folder.exclude:
        return COPY, "what is mounted is there as a whole, and this folder has 'exclude'"
    reasons: list[str] = []
    for kind in facts.offered:
        share = facts.shares[kind](request_for(folder))
        loss = _find_loss(kind, share, facts, warm=warm)
        obstacle = loss or find_obstacle(kind, share, box, facts)
        if obstacle is None:
            return kind, "; ".join([*reasons, *([NOT_SAVED] if share.vhost else [])])
        reasons.append(f"not {kind}: {obstacle}")
    return COPY, "; ".join(reasons)


def find_obstacle(kind: str, share: Share, box: BoxSpec, facts: FolderFacts) -> str | None:
    """Why a folder had better not be mounted by a type; None if it may.

    Args:
        kind: the type.
        share: what it mounts.
        box: the machine's box.
        facts: what is known of this computer.
    """
    if box.mounts is not None and share.kind not in box.mounts:
        return f"box {box.name} has no driver for it"
    return facts.obstacles.get(kind)
