"""Variables in user data: ``{{ hostname }}`` and a few more, for Qupfiles that ask for them.

Nothing is computed: a name stands for a text, and anything else between the braces is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qup.model.units import KIB

JINJA = "## template: jinja"
"""The first line of user data that cloud-init makes from a template ("Jinja templates" in its
documentation)."""
MAX_USER_DATA = 512 * KIB
VARIABLES = {
    "machine": "the machine's name",
    "hostname": "the guest's name",
    "user": "the account that qup logs in as",
    "project": "the name of the Qupfile's folder",
    "box": "the box, as the Qupfile names it",
    "arch": "the guest's processor, such as x86_64",
}
"""What can stand between the braces, and what it stands for."""

_EXPRESSION = re.compile(r"\{\{(?:\s*(?:(?P<name>[\w-]+)|(?P<quote>\"\{\{\"|'\{\{'))\s*\}\})?")
"""Braces that open; with a name, or with braces in quotes, which stand for themselves."""
LITERAL = '{{ "{{" }}'


class Fault(NamedTuple):
    """Braces that mean nothing.

    Attributes:
        line: where they are in the text, from 1.
        message: what is wrong.
        hint: what to write.
    """

    line: int
    message: str
    hint: str


def find_fault(text: str) -> Fault | None:
    """The first braces of a text that mean nothing."""
    for match in _EXPRESSION.finditer(text):
        name = match["name"]
        if name in VARIABLES or match["quote"]:
            continue
        line = text.count("\n", 0, match.start()) + 1
        known = ", ".join(VARIABLES)
        if name is None:
            shown = text[match.start() :].split("\n", 1)[0][:40]
            return Fault(line, f"{shown!r} is no variable", f"for braces as they are: {LITERAL}")
        close = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.6)
        guess = f"did you mean {close[0]!r}? " if close else ""
        hint = f"{guess}there are {known}; for braces as they are: {LITERAL}"
        return Fault(line, f"there is no variable {name!r}", hint)
    return None


def find_faults(value: Any, path: Sequence[str | int] = ()) -> Iterator[tuple[list[Any], Fault]]:
    """The faults of all texts in a table, each with the keys that lead to it."""
    if isinstance(value, str):
        if fault := find_fault(value):
            yield [*path], fault
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from find_faults(item, [*path, key])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from find_faults(item, [*path, index])


def fill(value: Any, variables: Mapping[str, str]) -> Any:
    """A text, or a table with all its texts, with the variables' values in their places.

    Args:
        value: something without faults (:func:`find_faults`).
        variables: a value for each of :data:`VARIABLES`.
    """
    if isinstance(value, str):
        return _EXPRESSION.sub(lambda match: variables.get(match["name"], "{{"), value)
    if isinstance(value, Mapping):
        return {key: fill(item, variables) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, variables) for item in value]
    return value
