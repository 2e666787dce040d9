"""``qup inspect -f``: the part of Go's templates that people use with docker-machine.

Understood are ``{{.}}``, ``{{.key.key}}``, ``{{json .key}}`` and ``{{prettyjson .key}}``, with
a number for a list's element. Keys are those of ``qup inspect``; case does not matter where no
key is spelled just so. Text and numbers are printed as they are, nothing for null, and JSON
for tables and lists.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from qup.errors import UsageError
from qup.model.text import printable

FUNCTIONS = ("json", "prettyjson")

_ACTION = re.compile(
    r"\s*(?:(?P<function>[a-z]\w*)\s+)?(?P<path>\.|(?:\.[A-Za-z0-9_-]+)+)\s*", re.ASCII
)
_EXAMPLE = "write {{.key}}, {{json .key}} or {{prettyjson .key}}; 'qup inspect' shows the keys"


class Piece(NamedTuple):
    """A part of a template: plain text, or a value to be filled in.

    Attributes:
        text: the text, or the action as it was written.
        at: where it begins in the template, in characters from 1.
        keys: the way to the value; None for plain text.
        function: what is done with the value; empty for nothing.
    """

    text: str
    at: int
    keys: tuple[str, ...] | None = None
    function: str = ""

    def fill(self, data: Any) -> str:
        """What is printed for it.

        Raises:
            UsageError: the data has no such key.
        """
        if self.keys is None:
            return self.text
        value = self._find(data)
        match self.function:
            case "json":
                return json.dumps(value)
            case "prettyjson":
                return json.dumps(value, indent=4)
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(value)

    def _find(self, value: Any) -> Any:
        for key in self.keys or ():
            if value is None:
                return None  # there is nothing to know about, such as the port of a stopped guest
            inner: dict[str, Any] = {}
            if isinstance(value, dict):
                inner = value
            elif isinstance(value, list):
                inner = {str(number): item for number, item in enumerate(value)}
            value = inner[self._spell(key, list(inner))]
        return value

    def _spell(self, key: str, names: list[str]) -> str:
        """The name that a key means.

        Raises:
            UsageError: none, or more than one.
        """
        if key in names:
            return key
        alike = [name for name in names if name.lower() == key.lower()]
        if len(alike) == 1:
            return alike[0]
        raise UsageError(
            f"the template is wrong at character {self.at}: {printable(self.text)}: there is no"
            f" {printable(key)!r}",
            hint=f"here is {', '.join(names[:20])}" if names else "this value has no keys",
        )


def parse_template(template: str) -> list[Piece]:
    """Take a template apart.

    Raises:
        UsageError: it is none; the message names the place.
    """
    pieces: list[Piece] = []
    at = 0
    while at < len(template):
        start = template.find("{{", at)
        if start < 0:
            pieces.append(Piece(template[at:], at + 1))
            break
        if start > at:
            pieces.append(Piece(template[at:start], at + 1))
        stop = template.find("}}", start)
        if stop < 0:
            raise _refuse(template[start:], start, "has no end: '}}' is missing")
        pieces.append(_read_action(template[start : stop + 2], start))
        at = stop + 2
    return pieces


def _read_action(text: str, start: int) -> Piece:
    match = _ACTION.fullmatch(text[2:-2])
    if match is None:
        raise _refuse(text, start, "is nothing that qup understands")
    function = match["function"] or ""
    if function and function not in FUNCTIONS:
        raise _refuse(text, start, f"has an unknown function {function!r}")
    keys = tuple(filter(None, match["path"].split(".")))
    return Piece(text, start + 1, keys, function)


def _refuse(text: str, start: int, why: str) -> UsageError:
    return UsageError(
        f"the template is wrong at character {start + 1}: {printable(text[:60])} {why}",
        hint=_EXAMPLE,
    )
