"""What ``qup docker env`` prints: byte for byte what docker-machine printed, for each shell.

Where a value has characters that mean something to a shell, docker-machine printed them as they
were, so that a folder's name could run a program. Here they are escaped. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qup.api import QupError

TLS, HOST, CERTS, MACHINE = (
    "DOCKER_TLS_VERIFY",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_MACHINE_NAME",
)
VARIABLES = (TLS, HOST, CERTS, MACHINE)

PROXY_NAMES = ("no_proxy", "NO_PROXY")
"""Of those that are set, the first one counts."""


@dataclass(frozen=True)
class Shell:
    """How a shell is told.

    Attributes:
        put: sets a variable: ``{name}`` to ``{value}``.
        drop: unsets ``{name}``.
        hint: how the ``{command}`` is used.
        comment: begins a line that the shell ignores.
        escape: makes a value fit between the quotation marks of ``put``.
    """

    put: str
    drop: str
    hint: str
    comment: str
    escape: Callable[[str], str]


def _backslash(characters: str) -> Callable[[str], str]:
    table = str.maketrans({character: f"\\{character}" for character in characters})
    return lambda value: value.translate(table)


def _for_powershell(value: str) -> str:
    return re.sub(r'([`"$])', r"`\1", value)


def _for_tcsh(value: str) -> str:
    """In double quotes nothing can be escaped: what would need it leaves them for a moment."""
    marked = re.sub(r'(["$`])', "\"'\\1'\"", value)
    return marked.replace("!", r"\!").replace("\n", "\\\n")


def _for_cmd(value: str) -> str:
    if re.search(r'[%"\n]', value):
        raise QupError(
            f"cmd can't be told of {value!r}: there is no way to write such characters",
            hint="move the project to a folder with a plainer name",
        )
    return re.sub(r"([&|<>^])", r"^\1", value)


POSIX = Shell(
    put='export {name}="{value}"\n',
    drop="unset {name}\n",
    hint="eval $({command})",
    comment="#",
    escape=_backslash('\\"$`'),
)
SHELLS: Mapping[str, Shell] = {
    "bash": POSIX,
    "sh": POSIX,
    "zsh": POSIX,
    "fish": Shell(
        put='set -gx {name} "{value}";\n',
        drop="set -e {name};\n",
        hint="eval ({command})",
        comment="#",
        escape=_backslash('\\"$'),
    ),
    "powershell": Shell(
        put='$Env:{name} = "{value}"\n',
        drop="Remove-Item Env:\\\\{name}\n",
        hint="& {command} | Invoke-Expression",
        comment="#",
        escape=_for_powershell,
    ),
    "cmd": Shell(
        put="SET {name}={value}\n",
        drop="SET {name}=\n",
        hint="\t@FOR /f \"tokens=*\" %i IN ('{command}') DO @%i",
        comment="REM",
        escape=_for_cmd,
    ),
    "tcsh": Shell(
        put='setenv {name} "{value}";\n',
        drop="unsetenv {name};\n",
        hint="eval `{command}`",
        comment=":",
        escape=_for_tcsh,
    ),
    "emacs": Shell(
        put='(setenv "{name}" "{value}")\n',
        drop='(setenv "{name}" nil)\n',
        hint='(with-temp-buffer (shell-command "{command}" (current-buffer)) (eval-buffer))',
        comment=";;",
        escape=_backslash('\\"'),
    ),
}
"""Those that differ; every other shell is taken for one of bash's family."""

ALIASES = {"pwsh": "powershell", "csh": "tcsh"}


def find_shell(name: str) -> Shell:
    """The shell of a name; one that nobody knows is like bash."""
    name = name.lower().removesuffix(".exe")
    return SHELLS.get(ALIASES.get(name, name), POSIX)


def write_settings(shell: Shell, variables: Mapping[str, str]) -> str:
    """Set variables."""
    return "".join(
        shell.put.format(name=name, value=shell.escape(value)) for name, value in variables.items()
    )


def write_removal(shell: Shell, names: Sequence[str]) -> str:
    """Unset variables."""
    return "".join(shell.drop.format(name=name) for name in names)


def write_hint(shell: Shell, command: Sequence[str]) -> str:
    """How to make the shell take all this: two lines of comment."""
    line = shell.hint.format(command=" ".join(map(_quote, command)))
    # A space at the end of the first line: docker-machine's.
    return f"{shell.comment} Run this command to configure your shell: \n{shell.comment} {line}\n"


def _quote(word: str) -> str:
    """As docker-machine did for what needs it, and as a shell wants it otherwise."""
    if re.fullmatch(r"[\w@%+=:,./~\\ -]+", word):
        return f'"{word}"' if " " in word or "\\" in word else word
    return shlex.quote(word)


def add_to_no_proxy(environment: Mapping[str, str], address: str) -> tuple[str, str]:
    """The variable that says what isn't reached through a proxy, with an address added to it.

    Args:
        environment: where it is looked up.
        address: what shall be reached directly.

    Returns:
        The name that is used here, and its new value.
    """
    name = find_no_proxy(environment)
    value = environment.get(name, "")
    listed = [item.strip() for item in value.split(",")]
    if address in listed:
        return name, value
    return name, f"{value},{address}" if value else address


def find_no_proxy(environment: Mapping[str, str]) -> str:
    """The name of that variable: in lower case if that is set."""
    return next((name for name in PROXY_NAMES if environment.get(name)), PROXY_NAMES[-1])
