"""What plugins brought, as far as a Qupfile is checked against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qup.api import FolderType, NetworkMode, Provisioner


class Registry(Protocol):
    """What plugins brought, as far as a Qupfile can name it."""

    @property
    def network_modes(self) -> Mapping[str, NetworkMode]:
        """Values of ``network.mode``."""

    @property
    def accelerators(self) -> Mapping[str, object]:
        """Values of ``qemu.accelerator``, besides ``auto``."""

    @property
    def guest_seeders(self) -> Mapping[str, object]:
        """Values of ``seeder``."""

    @property
    def folder_types(self) -> Mapping[str, FolderType]:
        """Values of ``type`` in ``[[machine.folders]]``, besides ``auto``."""

    @property
    def provisioners(self) -> Mapping[str, Provisioner]:
        """Keys of ``[[machine.provision]]``."""

    def explain_missing(self, kind: str, name: str) -> str | None:
        """Why something isn't there; kind is ``network mode``, ``accelerator`` ..."""
