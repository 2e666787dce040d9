"""The provisioner ``host``: a command on this computer, before or after a machine is up.

What it runs comes from the Qupfile, so nothing runs before the user has said ``qup trust``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import Guest, Provisioner, ProvisionError, describe_exit, follow, hookimpl

if TYPE_CHECKING:
    from qup.api import Settings


class HostStep:
    """Runs a command with ``sh -c`` in the project's folder."""

    name = "host"
    summary = "a command on this computer, in the project's folder; needs 'qup trust'"
    on_host = True

    @property
    def options(self) -> type[Settings]:
        return _options()

    def digest(self, options: Any, project: Path) -> str:  # noqa: ARG002  the options say it all
        return ""

    def risk(self, options: Any, project: Path) -> str | None:  # noqa: ARG002  it always is one
        return f"runs on this computer: {options.command}"

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        variables = {
            "QUP_MACHINE": guest.name,
            "QUP_PROJECT": str(project),
            "QUP_SSH_CONFIG": str(guest.ssh_config),
        }
        words = ["sh", "-c", options.command]
        code = follow(words, report, cwd=project, env=variables, timeout=guest.time_left).code
        if code != 0:
            raise ProvisionError(f"the command ended with {describe_exit(code)}")


@hookimpl
def qup_provisioners() -> Iterable[Provisioner]:
    return [HostStep()]


@cache
def _options() -> type[Settings]:
    # pydantic takes 50 ms: it is loaded where a Qupfile is validated, not with this plugin.
    from pydantic import Field

    from qup.api import Settings

    class HostOptions(Settings):
        """``host`` in ``[[machine.provision]]``"""

        shorthand = "command"

        command: str = Field(
            min_length=1,
            description="What sh runs. It knows QUP_MACHINE, QUP_PROJECT and QUP_SSH_CONFIG.",
        )

    return HostOptions
