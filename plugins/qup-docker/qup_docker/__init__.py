"""Docker hosts for qup: the provisioner ``docker`` and the commands ``qup docker ...``.

The step finds or installs an engine in the guest and sees to it that this computer, and nobody
else, reaches it by TLS. It looks first and changes only what differs, so it runs at each
``qup up``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import Command, Guest, Provisioner, hookimpl

if TYPE_CHECKING:
    from qup.api import Settings

PORT = 2376
"""The engine's port in the guest: Docker's own for TLS."""


class DockerHost:
    """``docker = true``, or a table with what the engine shall be like."""

    name = "docker"
    summary = "a Docker engine that this computer reaches by TLS and by ssh"
    default_run = "always"

    @property
    def options(self) -> type[Settings]:
        from qup_docker.options import make_options

        return make_options()

    def digest(self, options: Any, project: Path) -> str:  # noqa: ARG002  no file is involved
        return hashlib.sha256(b"qup-docker 1").hexdigest()

    def ports(self, options: Any) -> Sequence[int]:  # noqa: ARG002  it is always the same
        return [PORT]

    def run(
        self,
        options: Any,
        guest: Guest,
        project: Path,
        report: Callable[[str], None],
    ) -> None:
        from qup_docker.setup import set_up

        set_up(options, guest, project, report)


@hookimpl
def qup_provisioners() -> Sequence[Provisioner]:
    return [DockerHost()]


@hookimpl
def qup_commands() -> Sequence[Command]:
    from qup_docker.commands import app

    return [Command("docker", "Use the Docker engine in a machine.", app)]
