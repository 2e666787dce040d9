"""The provisioner ``shell``: a script, inline or from a file, run in the guest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import ConfigError, Guest, Provisioner, ProvisionError, hookimpl

if TYPE_CHECKING:
    from qup.api import Settings


class Shell:
    """Runs a script with ``sh``, or with what its first line names."""

    name = "shell"
    summary = "a script, inline or from a file, run in the guest"

    @property
    def options(self) -> type[Settings]:
        return _options()

    def digest(self, options: Any, project: Path) -> str:
        return hashlib.sha256(_script(options, project).encode()).hexdigest()

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        script = _script(options, project)
        target = guest.run(["mktemp", "/tmp/qup-XXXXXX"]).stdout.strip()
        sudo = ["sudo", "-n"] if options.sudo else []
        interpreter = [] if script.startswith("#!") else ["sh", "-e"]
        try:
            guest.run(["sh", "-c", 'cat > "$1" && chmod 700 "$1"', "sh", target], input=script)
            result = guest.run([*sudo, *interpreter, target], check=False)
        finally:
            guest.run(["rm", "-f", target], check=False)
        for line in (result.stdout + result.stderr).splitlines():
            report(line)
        if result.code != 0:
            raise ProvisionError(f"the script ended with {result.outcome}")


@hookimpl
def qup_provisioners() -> Iterable[Provisioner]:
    return [Shell()]


def _script(options: Any, project: Path) -> str:
    if options.inline is not None:
        return str(options.inline)
    path: Path = project / options.script
    try:
        return path.read_text()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the provisioning script {path} can't be read: {exc}") from exc


@cache
def _options() -> type[Settings]:
    # pydantic takes 50 ms: it is loaded where a Qupfile is validated, not with this plugin.
    from pydantic import Field, model_validator

    from qup.api import Settings

    class ShellOptions(Settings):
        """``shell`` in ``[[machine.provision]]``"""

        inline: str | None = Field(default=None, description="The script itself.")
        script: str | None = Field(
            default=None, description="The script's path, relative to the Qupfile."
        )
        sudo: bool = Field(default=True, description="Run it as root.")

        @model_validator(mode="after")
        def _one_of_both(self) -> ShellOptions:
            if (self.inline is None) == (self.script is None):
                raise ValueError("give either 'inline' or 'script'")
            return self

    return ShellOptions
