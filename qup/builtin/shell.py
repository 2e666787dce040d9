"""The provisioners ``shell`` and ``script``: a script, inline or from a file, run in the guest."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import (
    ConfigError,
    Guest,
    Provisioner,
    ProvisionError,
    QupError,
    TooLong,
    describe_exit,
    hookimpl,
    is_outside,
)

if TYPE_CHECKING:
    from qup.api import Settings

PROGRAMS = (b"#!", b"\x7fELF")
"""How a file begins that the kernel itself can run."""

_START = 'echo $$ >"$1" && shift && exec "$@"'
_IN_FOLDER = 'cd "$1" && shift && exec "$@"'
_WITH_VARIABLES = '[ ! -r "$1" ] || . "$1"; shift; exec "$@"'
_KILL_TREE = """
kill_tree() {
    for status in $(grep -l "^PPid:[[:space:]]*$1\\$" /proc/[0-9]*/status 2>/dev/null); do
        status=${status#/proc/}
        kill_tree "${status%/status}"
    done
    kill -9 "$1" 2>/dev/null
}
kill_tree "$(cat "$1")"
"""


class Shell:
    """Runs a script with ``sh -e``, or with what its first line names."""

    name = "shell"
    summary = "a script, inline or from a file, run in the guest"
    by_content = True

    @property
    def options(self) -> type[Settings]:
        return _shell_options()

    def digest(self, options: Any, project: Path) -> str:
        return hashlib.sha256(_read(options, project)).hexdigest()

    def risk(self, options: Any, project: Path) -> str | None:
        """A stranger's Qupfile could hand any file of this computer to a guest."""
        path = _path(options)
        if path is None or not is_outside(path, project):
            return None
        return f"takes {path} into the guest, which is outside of the project"

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        target = guest.run(["mktemp", "/tmp/qup-XXXXXX"]).stdout.strip()
        script = _read(options, project)
        try:
            _put(guest, script, target)
            _run(guest, options, script, target, report)
        finally:
            with contextlib.suppress(QupError):  # what is to be told is why the step failed
                guest.run([*_sudo(options), "rm", "-f", target, f"{target}.pid"], check=False)


class Script(Shell):
    """A script from a file: ``script = "setup.sh"``."""

    name = "script"
    summary = "a script from a file of the project, run in the guest"

    @property
    def options(self) -> type[Settings]:
        return _script_options()


@hookimpl
def qup_provisioners() -> Iterable[Provisioner]:
    return [Shell(), Script()]


def _sudo(options: Any) -> list[str]:
    return ["sudo", "-n"] if options.sudo else []


def _path(options: Any) -> str | None:
    """The script's path, unless it is inline."""
    path: str | None = options.path if hasattr(options, "path") else options.script
    return path


def _read(options: Any, project: Path) -> bytes:
    """The script, with the line ends that a Linux guest wants."""
    named = _path(options)
    if named is None:
        return str(options.inline).encode()
    path = project / named
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"the provisioning script {path} can't be read: {exc.strerror}",
            hint="its path is relative to the Qupfile",
        ) from exc
    if b"\0" not in data:
        return data.replace(b"\r\n", b"\n")
    if not data.startswith(PROGRAMS):
        raise ConfigError(
            f"the provisioning script {path} is not a script: it is not text, and its first line"
            " names no program",
            hint="a file that is only to be there is 'file = { source = ..., destination = ... }'",
        )
    return data


def _put(guest: Guest, script: bytes, target: str) -> None:
    with tempfile.NamedTemporaryFile(prefix="qup-") as file:
        file.write(script)
        file.flush()
        guest.put(Path(file.name), target, mode=0o700)


def _run(
    guest: Guest, options: Any, script: bytes, target: str, report: Callable[[str], None]
) -> None:
    as_whom = _sudo(options)
    if options.user:
        as_whom = ["sudo", "-n", "-u", options.user]
        guest.run(["sudo", "-n", "chown", options.user, target])
    words = [] if script.startswith(PROGRAMS) else ["sh", "-e"]
    words += [target, *options.args]
    if options.env:
        words = ["env", *(f"{name}={value}" for name, value in options.env.items()), *words]
    if guest.environment:
        words = ["sh", "-c", _WITH_VARIABLES, "sh", guest.environment, *words]
    if options.directory:
        words = ["sh", "-c", _IN_FOLDER, "sh", options.directory, *words]
    try:
        code = guest.stream(["sh", "-c", _START, "sh", f"{target}.pid", *as_whom, *words], report)
    except TooLong:
        with contextlib.suppress(QupError):
            guest.run([*_sudo(options), "sh", "-c", _KILL_TREE, "sh", f"{target}.pid"], check=False)
        raise
    if code != 0:
        raise ProvisionError(
            _find_missing(guest, script) or f"the script ended with {describe_exit(code)}"
        )


def _find_missing(guest: Guest, script: bytes) -> str | None:
    """Whether it is the program of a script's first line that isn't there: the kernel says of
    the script that it isn't.
    """
    match = re.match(rb"#! *([^ \n]+)", script)
    if match is None:
        return None
    program = match[1].decode(errors="replace")
    try:
        if guest.run(["test", "-x", program], check=False).code == 0:
            return None
    except QupError:  # what is to be told is why the step failed
        return None
    return f"the guest has no {program}, which the script's first line names"


@cache
def _common_options() -> type[Settings]:
    # pydantic takes 50 ms: it is loaded where a Qupfile is validated, not with this plugin.
    from typing import Annotated

    from pydantic import AfterValidator, Field

    from qup.api import Settings, UserName

    def check(env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not name.isidentifier() or not name.isascii():
                raise ValueError(f"{name!r} is not the name of a variable")
        return env

    class CommonOptions(Settings):
        """What both have."""

        args: tuple[str, ...] = Field(default=(), description="Words that the script is given.")
        env: Annotated[dict[str, str], AfterValidator(check)] = Field(
            default={}, description="Variables of its environment."
        )
        sudo: bool = Field(default=True, description="Run it as root.")
        user: UserName | None = Field(
            default=None, description="Run it as this user of the guest, by sudo."
        )
        directory: str | None = Field(
            default=None, min_length=1, description="The folder of the guest to run it in."
        )

    return CommonOptions


@cache
def _script_options() -> type[Settings]:
    from pydantic import Field

    base: Any = _common_options()

    class ScriptOptions(base):  # type: ignore[misc]
        """``script`` in ``[[machine.provision]]``"""

        shorthand = "path"

        path: str = Field(min_length=1, description="The script's path, from the Qupfile.")

    options: type[Settings] = ScriptOptions
    return options


@cache
def _shell_options() -> type[Settings]:
    from pydantic import Field, model_validator

    base: Any = _common_options()

    class ShellOptions(base):  # type: ignore[misc]
        """``shell`` in ``[[machine.provision]]``"""

        shorthand = "inline"

        inline: str | None = Field(default=None, description="The script itself.")
        script: str | None = Field(default=None, description="The script's path, from the Qupfile.")

        @model_validator(mode="after")
        def _one_of_both(self) -> ShellOptions:
            if (self.inline is None) == (self.script is None):
                raise ValueError("give either 'inline' or 'script'")
            return self

    options: type[Settings] = ShellOptions
    return options
