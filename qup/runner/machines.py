"""A project's machines as plugins' commands see them: see :class:`qup.api.ProjectMachines`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from qup.paths import MachineFolder, Project
from qup.runner.endpoint import find_way
from qup.runner.roster import read_roster


class KnownMachine(NamedTuple):
    """A machine of a project, whether it has been started or not."""

    place: MachineFolder

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def project(self) -> Path:
        """The folder with the Qupfile."""
        return self.place.project

    def folder(self, provisioner: str) -> Path:
        """Where a provisioner keeps what it has of this machine; not there before it ran."""
        return self.place.provisioner(provisioner)

    def reach(self, port: int) -> tuple[str, int]:
        """Where this computer reaches a port of the guest; see :func:`find_way`."""
        return find_way(self.place, port)


class KnownMachines(NamedTuple):
    """The machines of a project."""

    project: Project

    def names(self) -> tuple[str, ...]:
        """What they are called."""
        return read_roster(self.project).names

    def choose(self, name: str | None = None) -> KnownMachine:
        """One of them; see :meth:`qup.runner.roster.Roster.choose_one`."""
        return KnownMachine(self.project.machine(read_roster(self.project).choose_one(name)))
