"""``[machine.env]``: variables for what runs in a guest."""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
NOT_OURS = frozenset({"_", "BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
"""What shells keep to themselves: setting one ends the script that does."""

MAX_BYTES = 96 * 1024
"""All variables together: the kernel takes 128 KiB for one (``MAX_ARG_STRLEN``, ``execve(2)``)."""

PLACE = "/etc/profile.d/qup.sh"
"""The script in the guest that sets them; login shells read what is in this folder."""

_HEAD = "# Made by qup from [machine.env] of the Qupfile; 'qup up' writes it anew.\n"


def check_environment(table: Mapping[str, str | int]) -> dict[str, str]:
    """The variables as text.

    Raises:
        ValueError: a name or a value can't be a variable's.
    """
    for name in table:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a variable")
        if name in NOT_OURS:
            raise ValueError(f"{name} is the shell's own variable, which nobody else may set")
    variables = {name: str(value) for name, value in table.items()}
    if len(render_environment(variables).encode()) > MAX_BYTES:
        raise ValueError(f"the variables have more than {MAX_BYTES // 1024} KiB together")
    return variables


def render_environment(variables: Mapping[str, str | int]) -> str:
    """A script for any POSIX shell that sets them; empty if there are none."""
    lines = [f"export {name}={_quote(str(value))}\n" for name, value in variables.items()]
    return "".join([_HEAD, *lines]) if lines else ""


def _quote(value: str) -> str:
    """As ``shlex.quote``, always with quotes."""
    return "'" + value.replace("'", "'\\''") + "'"
