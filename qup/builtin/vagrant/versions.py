"""Versions and constraints as RubyGems orders them, which is what Vagrant's catalogs mean."""

from __future__ import annotations

import re

VERSION = re.compile(r"[0-9]+(?:\.[0-9a-zA-Z]+)*(?:-[0-9a-zA-Z.-]+)?")
TERM = re.compile(rf"(=|!=|>=|<=|~>|>|<)?\s*({VERSION.pattern})")
LENGTH = 16
"""Parts of a version that count."""

Key = tuple[tuple[int, int | str], ...]


def make_key(version: str) -> Key:
    """What orders versions: letters come before numbers, so 2.0.rc1 comes before 2.0.

    Raises:
        ValueError: it is no version.
    """
    if not VERSION.fullmatch(version):
        raise ValueError(f"{version[:60]!r} is not a version, such as 1.2.3")
    parts = re.findall(r"[0-9]+|[a-zA-Z]+", version.replace("-", ".pre."))
    key = [(1, int(part)) if part.isdigit() else (0, part) for part in parts[:LENGTH]]
    return (*key, *[(1, 0)] * (LENGTH - len(key)))


def is_preliminary(version: str) -> bool:
    """Whether a version is one before the release: it has a letter."""
    return any(char.isalpha() for char in version)


def fits(version: str, constraint: str) -> bool:
    """Whether a version is one that a constraint means.

    A preliminary version fits only where the constraint names one.

    Args:
        version: such as ``1.2.3``.
        constraint: terms with commas between, such as ``>= 1.2, < 2``; empty for any.

    Raises:
        ValueError: one of them can't be read.
    """
    own, preliminary = make_key(version), is_preliminary(version)
    named = False
    for term in filter(None, (part.strip() for part in constraint.split(","))):
        match = TERM.fullmatch(term)
        if match is None:
            raise ValueError(f"{term[:60]!r} is not a constraint, such as '>= 1.2' or '~> 1.2'")
        named = named or is_preliminary(match[2])
        if not _holds(own, match[1] or "=", match[2]):
            return False
    return named or not preliminary


def _holds(own: Key, operator: str, text: str) -> bool:
    other = make_key(text)
    match operator:
        case "=":
            return own == other
        case "!=":
            return own != other
        case ">":
            return own > other
        case "<":
            return own < other
        case ">=":
            return own >= other
        case "<=":
            return own <= other
    return other <= own < _next(text)


def _next(text: str) -> Key:
    """What ``~>`` stays below: the last part is left off, and the one before it is one more."""
    parts = [int(part) for part in re.findall(r"[0-9]+", text.partition("-")[0])]
    head = parts[:-1] or parts
    return make_key(".".join(map(str, [*head[:-1], head[-1] + 1])))
