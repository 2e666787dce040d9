"""Where each key and each value of a TOML text stands.

:mod:`tomllib` gives values without positions. This scanner gives positions without values: it
follows the grammar of TOML 1.0 (https://toml.io/en/v1.0.0) just closely enough to know where
things begin and end, and accepts whatever tomllib accepts. It takes time in proportion to the
text and refuses deep nesting, so it may go first over a text that nobody has looked at yet.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from dataclasses import dataclass, field

MAX_DEPTH = 32
"""Levels of tables and lists; a Qupfile needs six."""

KeyPath = tuple[str | int, ...]
"""Keys from the top down; an item of a list is its index."""

_BLANK = re.compile(r"[ \t\r]*+")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_LINE_END = re.compile(r"[ \t\r]*+(?:#[^\n]*+)?+(?:\n|\Z)")
_BASIC = re.compile(r'"(?:[^"\\\n]++|\\.)*+"')
_LITERAL = re.compile(r"'[^'\n]*+'")
_BARE = re.compile(r"[A-Za-z0-9_-]++")
_BASIC_LINES_END = re.compile(r'\\.|"{3,5}', re.DOTALL)
_LITERAL_LINES_END = re.compile(r"'{3,5}")
_SCALAR = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[^\s,\]}#]++|[^\s,\]}#=]++")


class NotToml(ValueError):
    """The text is no TOML, or is nested too deeply; ``offset`` says where."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class TooDeep(NotToml):
    """Tables and lists are nested more than :data:`MAX_DEPTH` deep."""


@dataclass(frozen=True)
class Span:
    """A piece of the text: ``text[start:end]``, from a line and a column, both counted from 1.

    Columns count characters, not bytes and not cells of a terminal.
    """

    line: int
    col: int
    start: int
    end: int


@dataclass(frozen=True)
class Place:
    """Where a key and its value stand. For an item of a list, both are the value's."""

    key: Span
    value: Span


@dataclass
class Positions:
    """What :func:`locate` found.

    Attributes:
        places: by key path. A table's value is its header, or its braces.
        repeated: keys that are given again: the path, the first place and the second.
    """

    places: dict[KeyPath, Place] = field(default_factory=dict)
    repeated: list[tuple[KeyPath, Place, Place]] = field(default_factory=list)


def locate(text: str) -> Positions:
    """Find the position of every key and value.

    Args:
        text: TOML. A byte order mark in front is not counted.

    Raises:
        NotToml: tomllib would not accept it either.
        TooDeep: it is nested more than :data:`MAX_DEPTH` deep.
    """
    scanner = _Scanner(text.removeprefix("\ufeff"))
    scanner.scan()
    return scanner.found


def find_position(text: str, offset: int) -> tuple[int, int]:
    """The line and the column, from 1, of an offset."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found = Positions()
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.explicit: set[KeyPath] = set()
        self.items: dict[KeyPath, int] = {}

    def scan(self) -> None:
        """Go over the text, statement by statement."""
        base: KeyPath = ()
        while True:
            self.skip(_BLANK_LINES)
            if self.at == len(self.text):
                return
            if self.text[self.at] == "[":
                base = self.header()
            else:
                self.pair(base)
            if not self.skip(_LINE_END):
                raise NotToml("expected the end of the line", self.at)

    # -- pieces of text ---------------------------------------------------------------------

    def skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.at)
        if match is None:
            return False
        self.at = match.end()
        return True

    def take(self, word: str) -> bool:
        if self.text.startswith(word, self.at):
            self.at += len(word)
            return True
        return False

    def expect(self, word: str) -> None:
        if not self.take(word):
            raise NotToml(f"expected {word!r}", self.at)

    def span(self, start: int) -> Span:
        """From ``start`` to where the scanner is."""
        line = bisect.bisect_right(self.lines, start)
        return Span(line, start - self.lines[line - 1] + 1, start, self.at)

    # -- statements -------------------------------------------------------------------------

    def header(self) -> KeyPath:
        """``[a.b]`` or ``[[a.b]]``; returns the path that the next pairs are in."""
        start = self.at
        listed = self.take("[[")
        if not listed:
            self.expect("[")
        keys = self.dotted_key()
        self.expect("]]" if listed else "]")
        whole = self.span(start)
        path: KeyPath = ()
        for name, span in keys[:-1]:
            path = self.inside((*path, name))
            self.note_implicit(path, span)
        name, span = keys[-1]
        path = (*path, name)
        if listed:
            self.note_implicit(path, span)
            index = self.items.get(path, -1) + 1
            self.items[path] = index
            path = (*path, index)
        self.note(path, Place(span, whole))
        return path

    def inside(self, path: KeyPath) -> KeyPath:
        """A list of tables stands for its last item."""
        return (*path, self.items[path]) if path in self.items else path

    def pair(self, base: KeyPath) -> None:
        """``a.b = value``"""
        keys = self.dotted_key()
        self.expect("=")
        self.skip(_BLANK)
        path = base
        for name, span in keys:
            path = (*path, name)
            self.note_implicit(path, span)
        self.value(path, keys[-1][1])

    def dotted_key(self) -> list[tuple[str, Span]]:
        keys: list[tuple[str, Span]] = []
        while True:
            self.skip(_BLANK)
            keys.append(self.key())
            if len(keys) > MAX_DEPTH:
                raise TooDeep("too many dots", self.at)
            self.skip(_BLANK)
            if not self.take("."):
                return keys

    def key(self) -> tuple[str, Span]:
        start = self.at
        for pattern in (_BARE, _BASIC, _LITERAL):
            if self.skip(pattern):
                word = self.text[start : self.at]
                return _unquote(word, start), self.span(start)
        raise NotToml("expected a key", self.at)

    # -- values -----------------------------------------------------------------------------

    def value(self, path: KeyPath, key: Span | None) -> None:
        if len(path) > MAX_DEPTH:
            raise TooDeep("nested too deeply", self.at)
        start = self.at
        if self.take('"""'):
            self.lines_of_text(_BASIC_LINES_END)
        elif self.take("'''"):
            self.lines_of_text(_LITERAL_LINES_END)
        elif self.take("["):
            self.array(path)
        elif self.take("{"):
            self.inline_table(path)
        elif not any(map(self.skip, (_BASIC, _LITERAL, _SCALAR))):
            raise NotToml("expected a value", self.at)
        whole = self.span(start)
        self.note(path, Place(key or whole, whole))

    def lines_of_text(self, end: re.Pattern[str]) -> None:
        while match := end.search(self.text, self.at):
            self.at = match.end()
            if not match[0].startswith("\\"):
                return
        raise NotToml("expected the end of the text", len(self.text))

    def array(self, path: KeyPath) -> None:
        index = 0
        self.skip(_BLANK_LINES)
        while not self.take("]"):
            self.value((*path, index), None)
            index += 1
            self.skip(_BLANK_LINES)
            if not self.take(","):
                self.expect("]")
                return
            self.skip(_BLANK_LINES)

    def inline_table(self, path: KeyPath) -> None:
        self.skip(_BLANK_LINES)
        while not self.take("}"):
            self.pair(path)
            self.skip(_BLANK_LINES)
            if not self.take(","):
                self.expect("}")
                return
            self.skip(_BLANK_LINES)

    # -- what was found ---------------------------------------------------------------------

    def note_implicit(self, path: KeyPath, key: Span) -> None:
        """A table that exists because something in it does."""
        self.found.places.setdefault(path, Place(key, key))

    def note(self, path: KeyPath, place: Place) -> None:
        if path in self.explicit:
            self.found.repeated.append((path, self.found.places[path], place))
            return
        if len(path) > MAX_DEPTH:
            raise TooDeep("nested too deeply", place.key.start)
        self.explicit.add(path)
        self.found.places[path] = place


def _unquote(word: str, offset: int) -> str:
    if word[0] not in "\"'":
        return word
    try:
        return str(tomllib.loads(f"k={word}")["k"])
    except ValueError as exc:
        raise NotToml(str(exc), offset) from exc
