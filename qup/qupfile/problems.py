"""What is wrong with a configuration, and where: as data, and as text for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from qup.errors import ConfigError
from qup.toml_positions import Span

MAX_PROBLEMS = 100
"""More than a person can use; a file with more than that is something else's."""

_WIDTH = 100
"""Cells of a source line that are shown; a longer one is cut around the caret."""
_TAB = 4
_MESSAGE_LIMIT = 400


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: where it is: ``Qupfile``, ``environment QUP_MEMORY`` or ``command line --memory``.
        message: what is wrong.
        hint: what to write instead.
        line: in the file, from 1; None outside of a file.
        col: in characters, from 1.
        source: the line as it stands in the file.
        width: how many characters from ``col`` on are meant.
        key: the dotted key, such as ``machine.qemu.cpu``.
    """

    file: str
    message: str
    hint: str | None = None
    line: int | None = None
    col: int | None = None
    source: str | None = None
    width: int = 1
    key: str | None = None

    @property
    def where(self) -> str:
        """``Qupfile:3:1``, as editors and terminals understand it."""
        return self.file if self.line is None else f"{self.file}:{self.line}:{self.col}"

    def to_dict(self) -> dict[str, object]:
        """The problem as ``--json`` prints it."""
        return asdict(self)

    def render(self) -> str:
        """The place and the message, the source line with a caret, and the hint."""
        lines = [f"{self.where}: {clean(self.message)}"]
        if self.line is not None and self.col is not None and self.source is not None:
            number = str(self.line)
            shown, caret = show_source(self.source, self.col, self.width)
            lines.append(f"  {number} | {shown}".rstrip())
            lines.append(f"  {' ' * len(number)} | {caret}")
        if self.hint:
            lines.append(f"  hint: {clean(self.hint)}")
        return "\n".join(lines)


class QupfileErrors(ConfigError):
    """Everything that is wrong with a configuration, at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        shown = "\n\n".join(problem.render() for problem in self.problems)
        super().__init__(summarize(self.problems), details=shown)

    def to_dict(self) -> dict[str, object]:
        """The error as ``--json`` prints it, with the list of problems."""
        return {**super().to_dict(), "problems": [item.to_dict() for item in self.problems]}


class Collector:
    """Gathers problems, each once, and stops when there are too many."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Problem] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, problem: Problem) -> None:
        """Note a problem.

        Raises:
            QupfileErrors: it is one too many.
        """
        self._found.setdefault((problem.where, problem.message), problem)
        if len(self._found) >= MAX_PROBLEMS:
            self.check()

    def check(self) -> None:
        """Raise what was found, if anything was, in the order of the file.

        Raises:
            QupfileErrors: something was found.
        """
        if self._found:
            raise QupfileErrors(sorted(self._found.values(), key=_order))


def _order(problem: Problem) -> tuple[int, int]:
    return (problem.line or 0, problem.col or 0)


def summarize(problems: Sequence[Problem]) -> str:
    """``3 problems in Qupfile and the environment``"""
    files = dict.fromkeys(_name_source(problem.file) for problem in problems)
    count = len(problems)
    number = f"{count}{' or more' if count >= MAX_PROBLEMS else ''}"
    return f"{number} problem{'' if count == 1 else 's'} in {join_words(list(files), 'and')}"


def _name_source(file: str) -> str:
    for layer in ("environment", "command line"):
        if file.startswith(f"{layer} "):
            return f"the {layer}"
    return file


def join_words(words: Sequence[str], conjunction: str) -> str:
    """``a, b or c``"""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def place_problem(
    file: str,
    text: str,
    span: Span,
    message: str,
    *,
    hint: str | None = None,
    key: str | None = None,
) -> Problem:
    """A problem at a piece of a text."""
    start = span.start - (span.col - 1)
    stop = text.find("\n", start)
    source = (text[start:] if stop < 0 else text[start:stop]).removesuffix("\r")
    width = max(1, min(span.end, start + len(source)) - span.start)
    return Problem(file, message, hint, span.line, span.col, source, width, key)


# -- text that somebody else wrote, for a terminal ------------------------------------------


def clean(text: str) -> str:
    """Text without control characters, escapes, or marks that turn its direction."""
    shown = "".join(_show_character(character) for character in text[: _MESSAGE_LIMIT * 4])
    if len(shown) > _MESSAGE_LIMIT:
        half = _MESSAGE_LIMIT // 2
        shown = f"{shown[:half]} … {shown[-half:]}"
    return shown


def _show_character(character: str) -> str:
    """As it is if it is printable; spaces that look like others and marks are not."""
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _cells(text: str) -> int:
    """How many cells of a terminal a text takes (Unicode Standard Annex 11)."""
    return sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _expand(text: str) -> str:
    return "".join(" " * _TAB if char == "\t" else _show_character(char) for char in text)


def show_source(source: str, col: int, width: int) -> tuple[str, str]:
    """A source line and the line with carets below it.

    Args:
        source: the line.
        col: where the carets begin, in characters from 1.
        width: how many characters they are under.
    """
    reach = _WIDTH * 2
    before = _expand(source[max(0, col - 1 - reach) : col - 1])
    meant = _expand(source[col - 1 : col - 1 + min(width, reach)])
    after = _expand(source[col - 1 + width : col - 1 + width + reach])
    meant = _cut_end(meant, _WIDTH // 2, cut=width > reach)
    before = _cut_start(before, _WIDTH * 2 // 3 - _cells(meant) // 2, cut=col - 1 > reach)
    after = _cut_end(after, max(8, _WIDTH - _cells(before) - _cells(meant)))
    return before + meant + after, " " * _cells(before) + "^" * max(1, _cells(meant))


def _cut_end(text: str, limit: int, *, cut: bool = False) -> str:
    kept = "".join(_fit(text, limit))
    return f"{kept}…" if cut or len(kept) < len(text) else text


def _cut_start(text: str, limit: int, *, cut: bool = False) -> str:
    kept = "".join(_fit(reversed(text), limit))[::-1]
    return f"…{kept}" if cut or len(kept) < len(text) else text


def _fit(text: Iterable[str], limit: int) -> Iterable[str]:
    for character in text:
        limit -= _cell(character)
        if limit < 0:
            return
        yield character
