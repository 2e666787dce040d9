"""Where plugins come from: a list of what is built in, and installed distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

ENTRY_POINT_GROUP = "qup"
"""The group of entry points by which an installed package says that it has a plugin."""

BUILTIN = (
    "qup.builtin.network_user",
    "qup.builtin.network_tap",
    "qup.builtin.network_bridge",
    "qup.builtin.network_private",
    "qup.builtin.accelerators",
    "qup.builtin.box_tiny",
    "qup.builtin.catalog.source",
    "qup.builtin.box_debian",
    "qup.builtin.iso.source",
    "qup.builtin.vagrant.source",
    "qup.builtin.box_image",
    "qup.builtin.seeder_nocloud",
    "qup.builtin.seeder_config_drive",
    "qup.builtin.seeder_format_me",
    "qup.builtin.seeder_ignition",
    "qup.builtin.seeder_credentials",
    "qup.builtin.seeder_vagrant",
    "qup.builtin.seeder_none",
    "qup.builtin.folder_virtiofs",
    "qup.builtin.folder_9p",
    "qup.builtin.folder_rsync",
    "qup.builtin.folder_tar",
    "qup.builtin.folder_sftp",
    "qup.builtin.shell",
    "qup.builtin.file_step",
    "qup.builtin.host_step",
    "qup.builtin.checks",
)
"""Plugins that are always there. They come in by the same hooks as anybody's."""


def find_distributions() -> Iterator[Distribution]:
    """The installed distributions that have entry points for us, by name.

    They are looked at one by one: ``importlib.metadata.entry_points()`` gives up on all when
    the files of one are damaged. It takes 2 ms for 60 distributions, so nothing is cached.
    """
    from importlib.metadata import distributions

    found: dict[str, Distribution] = {}
    for distribution in distributions():
        try:
            if f"[{ENTRY_POINT_GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            if isinstance(distribution.name, str):  # damaged ones have none
                # What is first on the path hides others of its name, as for imports.
                found.setdefault(distribution.name, distribution)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return (found[name] for name in sorted(found))
