"""Folders of this computer in a guest: attached when it is up, detached before it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qup.folders import FolderFacts
from qup.model.config import MachineConfig
from qup.model.folders import MOUNTED
from qup.model.state import State
from qup.paths import MachineFolder
from qup.runner.context import Context


def gather_facts(ctx: Context, config: MachineConfig, accelerator: str) -> FolderFacts:
    """What the types of a machine's folders depend on."""
    del ctx, config
    return FolderFacts(dict.fromkeys(MOUNTED, "it is not there yet"), accelerator)


def detach(ctx: Context, folder: MachineFolder, state: State, plan: Mapping[str, Any]) -> None:
    """Unmount what is mounted, so that a guest can be saved with its memory.

    Does nothing for a machine without mounted folders, or with none mounted.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        state: the machine, which runs and is ready.
        plan: the plan that was carried out, as :meth:`qup.model.plan.Plan.to_dict` gives it.

    Raises:
        GuestError: a program in the guest uses a folder; those before it are mounted again.
    """


def attach(ctx: Context, folder: MachineFolder, state: State, plan: Mapping[str, Any]) -> None:
    """Mount again what was detached; folders that are mounted stay so.

    Args: as of :func:`detach`.
    """
