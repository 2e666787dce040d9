"""From what was asked to the folders of a plan. Pure, a part of the planner."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qup.model.box import BoxSpec
from qup.model.folders import AUTO, COPY, FolderPlan, FolderRequest, Share

if TYPE_CHECKING:
    from qup.model.config import FolderSettings, MachineConfig

VIRTIOFS = "virtiofs"
NO_VIRTIOFS = "a guest that has it can't be restored, suspended or saved with its memory"
"""Why that type, which many know, is not here; see decisions.md. A plugin may bring it."""


@dataclass(frozen=True)
class FolderFacts:
    """What the choice of a type depends on besides the Qupfile.

    Attributes:
        shares: what says how a folder is mounted, for each type that mounts.
        offered: the types among them that are taken without being named, the best first.
        obstacles: why a type can't work on this computer, by type; what isn't here can.
    """

    shares: Mapping[str, Callable[[FolderRequest], Share]] = field(default_factory=dict)
    offered: tuple[str, ...] = ()
    obstacles: Mapping[str, str] = field(default_factory=dict)


def plan_folders(config: MachineConfig, box: BoxSpec, facts: FolderFacts) -> tuple[FolderPlan, ...]:
    """The machine's folders, each with its type, and why it has that."""
    return tuple(
        _plan(index, folder, box, facts) for index, folder in enumerate(config.settings.folders)
    )


def _plan(index: int, folder: FolderSettings, box: BoxSpec, facts: FolderFacts) -> FolderPlan:
    kind: str = folder.type
    reason = ""
    if kind == AUTO:
        kind, reason = _choose(folder, box, facts)
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


def _choose(folder: FolderSettings, box: BoxSpec, facts: FolderFacts) -> tuple[str, str]:
    """The first type that works, and what is against those before it."""
    if folder.exclude:
        return COPY, "what is mounted is there as a whole, and this folder has 'exclude'"
    reasons = [] if VIRTIOFS in facts.shares else [f"not {VIRTIOFS}: {NO_VIRTIOFS}"]
    for kind in facts.offered:
        share = facts.shares[kind](request_for(folder))
        obstacle = find_obstacle(kind, share, box, facts)
        if obstacle is None:
            return kind, "; ".join(reasons)
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
