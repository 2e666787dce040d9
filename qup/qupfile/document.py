"""From a file's bytes to TOML with positions; what can be wrong before any key has a meaning."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qup.paths import Project
from qup.qupfile.problems import (
    Collector,
    Problem,
    QupfileErrors,
    clean,
    place_problem,
)
from qup.toml_positions import (
    MAX_DEPTH,
    KeyPath,
    NotToml,
    Place,
    Positions,
    Span,
    TooDeep,
    find_position,
    locate,
)

MAX_BYTES = 1024 * 1024

_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<col>\d+)|end of document)\)$")
_MANY_DIGITS = re.compile(r"[0-9][0-9_]{3999,}+")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Document:
    """A Qupfile that is TOML; whether its keys and values make sense is not known yet.

    Attributes:
        name: what messages call it.
        text: its text, without a byte order mark.
        data: what tomllib made of it.
        places: where the keys and values stand.
        digest: SHA-256 of its bytes.
    """

    name: str
    text: str
    data: Mapping[str, Any]
    places: Mapping[KeyPath, Place]
    digest: str

    def place(self, path: KeyPath) -> Place:
        """Where a path stands, or the nearest thing above it that stands anywhere."""
        for length in range(len(path), 0, -1):
            if found := self.places.get(path[:length]):
                return found
        start = Span(1, 1, 0, 0)
        return Place(start, start)

    def problem(
        self, path: KeyPath, message: str, *, hint: str | None = None, at_key: bool = False
    ) -> Problem:
        """Something that is wrong with the value at a path, or with the key itself."""
        place = self.place(path)
        span = place.key if at_key else place.value
        dotted = ".".join(str(part) for part in path)
        return place_problem(self.name, self.text, span, message, hint=hint, key=dotted)


def read(project: Project) -> Document:
    """Read a project's Qupfile.

    Raises:
        QupfileErrors: it can't be read, is too large, is no text, or is not TOML.
    """
    path = project.qupfile
    return parse(_read_bytes(path), name=path.name)


def parse(content: bytes, *, name: str = "Qupfile") -> Document:
    """Make a document of a file's content.

    Raises:
        QupfileErrors: it is no text, or is not TOML.
    """
    text = _decode(content, name)
    positions = _locate(text, name)
    data = _parse_toml(text, name, positions)
    document = Document(name, text, data, positions.places, hashlib.sha256(content).hexdigest())
    _check_values(document)
    return document


# -- bytes ----------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        _refuse_special(path, path.stat())
        # Whatever takes the file's place in between can't make the open wait.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            _refuse_special(path, os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise QupfileErrors([_explain_unreadable(path, exc)]) from exc
    if len(content) > MAX_BYTES:
        raise QupfileErrors([_too_large(path)])
    return content


def _refuse_special(path: Path, info: os.stat_result) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(info.st_mode):
            raise QupfileErrors([Problem(path.name, f"this is {kind}, not a file")])
    if info.st_size > MAX_BYTES:
        raise QupfileErrors([_too_large(path)])


def _too_large(path: Path) -> Problem:
    return Problem(
        path.name, "the file is larger than 1 MiB", hint="keep data in files of their own"
    )


def _explain_unreadable(path: Path, exc: OSError) -> Problem:
    if exc.errno == errno.ENOENT and path.is_symlink():
        return Problem(path.name, f"the link leads to {os.readlink(path)}, which does not exist")
    if exc.errno == errno.ENOENT:
        return Problem(path.name, "the file does not exist", hint="'qup init' writes one")
    if exc.errno == errno.EACCES:
        return Problem(path.name, "you may not read it", hint=f"check 'ls -l {path}'")
    return Problem(path.name, f"it can't be read: {exc.strerror}")


def _decode(content: bytes, name: str) -> str:
    """UTF-8, with or without a byte order mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        problem = Problem(
            name, "the text is in UTF-16", hint="save it as UTF-8", line=1, col=1, source=None
        )
        raise QupfileErrors([problem])
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        offset = len(content[: exc.start].decode())
        raise _error_at(
            content.decode(errors="replace"),
            name,
            offset,
            f"byte 0x{content[exc.start]:02x} is not UTF-8",
            hint="save the file as UTF-8",
        ) from exc
    if (offset := text.find("\0")) >= 0:
        raise _error_at(text, name, offset, "a NUL character is no text", hint="save it as UTF-8")
    return text


def _error_at(
    text: str, name: str, offset: int, message: str, hint: str | None = None
) -> QupfileErrors:
    line, col = find_position(text, offset)
    span = Span(line, col, offset, offset + 1)
    return QupfileErrors([place_problem(name, text, span, message, hint=hint)])


# -- TOML -----------------------------------------------------------------------------------


def _locate(text: str, name: str) -> Positions:
    """Positions; none if tomllib is going to refuse the text, which then says why."""
    try:
        return locate(text)
    except TooDeep as exc:
        raise _error_at(
            text, name, exc.offset, f"this is nested more than {MAX_DEPTH} levels deep"
        ) from exc
    except NotToml:
        return Positions()


def _parse_toml(text: str, name: str, positions: Positions) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as exc:
        raise _explain_toml(text, name, positions, str(exc)) from exc
    except RecursionError as exc:
        raise QupfileErrors([Problem(name, "this is nested too deeply")]) from exc


def _explain_toml(text: str, name: str, positions: Positions, said: str) -> QupfileErrors:
    if positions.repeated and said.startswith(("Cannot", "Duplicate")):
        return QupfileErrors([_repeated(text, name, *entry) for entry in positions.repeated[:20]])
    if match := _AT.search(said):
        offset = len(text.rstrip())
        if match["line"]:
            offset = _offset(text, int(match["line"]), int(match["col"]))
        message, hint = _plain_syntax(said[: match.start()], text[offset : offset + 1])
        return _error_at(text, name, offset, message, hint)
    if match := _MANY_DIGITS.search(text):
        return _error_at(text, name, match.start(), "this number has too many digits")
    return QupfileErrors([Problem(name, f"not valid TOML: {clean(said)}")])


def _repeated(text: str, name: str, path: KeyPath, first: Place, second: Place) -> Problem:
    dotted = ".".join(str(part) for part in path)
    message = f"'{clean(dotted)}' is given twice; line {first.key.line} has it already"
    return place_problem(name, text, second.key, message, key=dotted)


def _plain_syntax(said: str, found: str) -> tuple[str, str | None]:
    """What tomllib said, and a hint for the slips that are common."""
    message = f"not valid TOML: {said[:1].lower()}{said[1:]}"
    unclosed = ("Illegal character", "Unterminated", 'Expected "\'"')
    if found in ("", "\n") and said.startswith(unclosed):
        return "not valid TOML: the closing quote is missing", 'text of several lines: """…"""'
    if said == "Invalid value" and (found.isalpha() or found in "/~."):
        return message, 'put text in quotes: "…"'
    if said.startswith("Expected newline or end of document") and (found.isalnum() or found == "."):
        return message, 'put text in quotes: "…"; one key in each line'
    if said.startswith("Expected '=' after a key") and found == ":":
        return message, "write 'key = value'"
    return message, None


def _offset(text: str, line: int, col: int) -> int:
    """The offset of a position as tomllib counts: after CRLF became LF."""
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    return min(start + col - 1, len(text))


def _check_values(document: Document) -> None:
    """Refuse what no key can take: numbers beyond TOML's 64 bits, NUL in text."""
    problems = Collector()
    for path, value in walk(document.data):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            problems.add(document.problem(path, "this number does not fit into 64 bits"))
        elif isinstance(value, str) and "\0" in value:
            problems.add(document.problem(path, "text can't contain a NUL character"))
    for path in document.places:
        if any("\0" in part for part in path if isinstance(part, str)):
            message = "a key can't contain a NUL character"
            problems.add(document.problem(path, message, at_key=True))
    problems.check()


def walk(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Every value that is no table and no list, with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*path, index))
    else:
        yield path, value
