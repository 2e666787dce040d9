"""Text of unknown origin, made fit for a terminal: it may come from a guest, a path, a server."""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])")


def printable(text: str) -> str:
    """Put a mark in the place of each character that a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def clean_line(text: str) -> str:
    """Take escape sequences (ECMA-48) and control characters out of a line."""
    return "".join(char for char in _ESCAPES.sub("", text) if char.isprintable() or char == "\t")
