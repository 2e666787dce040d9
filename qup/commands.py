"""What plugins give for commands of their own, and how such a command finds machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qup.errors import QupError


class ProjectMachine(Protocol):
    """A machine of the project, as plugins' commands see it."""

    @property
    def name(self) -> str: ...
    @property
    def project(self) -> Path:
        """The folder with the Qupfile."""

    def folder(self, provisioner: str) -> Path:
        """Where a provisioner keeps what it has of this machine; see :attr:`Guest.folder`."""

    def reach(self, port: int) -> tuple[str, int]:
        """Where this computer reaches a TCP port of the guest: an address, and the port there.

        Raises:
            MachineError: the machine isn't running, or nothing leads there.
        """


class ProjectMachines(Protocol):
    """The machines of a project, for plugins' commands."""

    def names(self) -> Sequence[str]:
        """What they are called: those in the Qupfile, and those that have left it but exist."""

    def choose(self, name: str | None = None) -> ProjectMachine:
        """The machine of a name; without one the only machine, or the primary one.

        Raises:
            QupError: there is no such machine, or a name is needed.
        """


def machines_of(ctx: Any) -> ProjectMachines:
    """The machines of the project that a command works on.

    Nothing is loaded for it but what ``qup status`` needs, too: no Qupfile, no plan.

    Args:
        ctx: the command's ``typer.Context``.

    Raises:
        ConfigError: there is no project here.
    """
    found: ProjectMachines = ctx.find_root().obj.machines()
    return found


def complete_machines(ctx: Any, incomplete: str) -> list[str]:
    """Names of machines for tab completion, as ``autocompletion`` of an option or argument.

    Args:
        ctx: the command's ``typer.Context``.
        incomplete: what has been typed of the name.
    """
    try:
        names = machines_of(ctx).names()
    except QupError:
        return []  # nobody wants to read about it in the middle of a line
    return [name for name in names if name.startswith(incomplete)]


@dataclass(frozen=True)
class Command:
    """A command of ``qup``.

    Attributes:
        name: its word.
        summary: one line for ``qup --help``.
        callback: a function with typer's annotations, or a ``typer.Typer``.
    """

    name: str
    summary: str
    callback: Callable[..., Any] = field(compare=False)
