"""Rules over the folders of the machines: which of them exclude each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from qup.files import is_outside
from qup.model.config import FolderSettings, MachineSettings
from qup.qupfile.layers import Stack
from qup.qupfile.problems import Collector


def check_folders(
    machines: Mapping[str, object], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """No folder of a guest is another one's place, or inside of it."""
    for name, settings in machines.items():
        if not isinstance(settings, MachineSettings):
            continue
        for index, folder in enumerate(settings.folders):
            other = _find_clash(folder, settings.folders[:index])
            if other is None:
                continue
            same = other.guest == folder.guest
            what = "twice" if same else f"and {other.guest}, of which one is inside of the other"
            problems.add(
                stacks[name].problem(
                    ("folders", index, "guest"),
                    f"two folders can't be at {folder.guest} {what}",
                    hint="give each a place of its own in the guest",
                )
            )


def _find_clash(
    folder: FolderSettings, others: tuple[FolderSettings, ...]
) -> FolderSettings | None:
    path = PurePosixPath(folder.guest)
    for other in others:
        place = PurePosixPath(other.guest)
        if path.is_relative_to(place) or place.is_relative_to(path):
            return other
    return None


def leads_out(folder: FolderSettings, project: Path) -> bool:
    """Whether a folder is more than the project's own: a guest can send it anywhere, and may
    change what is mounted.
    """
    return folder.host.startswith("~") or is_outside(folder.host, project)
