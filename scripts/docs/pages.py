"""Pages, their generated blocks, and what is in them: code, links, headings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.docs import api, cli, qupfile, seed, tables

ROOT = Path(__file__).resolve().parent.parent.parent

_BLOCK = re.compile(
    r"^<!-- generated: (?P<name>[\w./:-]+) -->\n(?P<text>.*?)^<!-- end of (?P=name) -->$",
    re.MULTILINE | re.DOTALL,
)
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<text>.+?) *$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`(?P<text>[^`\n]+)`(?!`)")

GENERATORS: Mapping[str, Callable[[], str]] = {
    "commands": cli.write_table,
    "cli": cli.write_reference,
    "qupfile": qupfile.write_reference,
    "variables": qupfile.write_variables,
    "hooks": api.write_hooks,
    "api": api.write_api,
    "exit-codes": tables.write_exit_codes,
    "events": tables.write_events,
    "run-states": tables.write_run_states,
    "seed-options": seed.write_seed_options,
}
"""What a block's name stands for.

``file:PATH`` stands for a file, and ``part:PATH:WORDS`` for the part of it whose heading
(``# --- words and more ---``) begins with these words, joined by hyphens.
"""

_PART = re.compile(r"^# --- (?P<heading>[^\n]+?) -+\n", re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """A fenced block of a page.

    Attributes:
        page: where it is.
        line: the line of its fence.
        language: the first word after the fence.
        text: what is between the fences, without their indentation.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def find_pages() -> list[Path]:
    """The README, the documentation, and the READMEs of examples."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return sorted([*found, *(ROOT / "examples").glob("*/README.md")])


def render(text: str) -> str:
    """A page with its generated blocks as they should be.

    Raises:
        KeyError: a block has a name that nothing generates.
    """
    return _BLOCK.sub(_fill, text)


def _fill(match: re.Match[str]) -> str:
    name = match["name"]
    if name.startswith(("file:", "part:")):
        _, path, *words = name.split(":")
        text = _quote_file(ROOT / path, *words)
    else:
        text = GENERATORS[name]()
    return f"<!-- generated: {name} -->\n\n{text.strip()}\n\n<!-- end of {name} -->"


def _quote_file(path: Path, words: str = "") -> str:
    language = {".py": "python", ".toml": "toml", ".sh": "sh"}.get(path.suffix, "text")
    text = path.read_text(encoding="utf-8")
    text = _find_part(text, words.replace("-", " ")) if words else text
    return f"```{language}\n{text.strip()}\n```"


def _find_part(text: str, words: str) -> str:
    """The part under a heading, up to the next one.

    Raises:
        KeyError: there is none.
    """
    headings = [*_PART.finditer(text)]
    for match, following in zip(headings, [*headings[1:], None], strict=True):
        if match["heading"].startswith(words):
            return text[match.end() : following.start() if following else len(text)]
    raise KeyError(words)


def generated_blocks(text: str) -> list[str]:
    """The names of a page's generated blocks."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def find_code(page: Path) -> Iterator[Code]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        yield Code(page, line, (match["info"].split() or [""])[0], body)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def find_links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    text = _INLINE.sub("", prose(page))
    return [match["target"] for match in _LINK.finditer(text)]


def find_words(page: Path) -> list[str]:
    """What a page sets as code inside of its sentences."""
    return [match["text"] for match in _INLINE.finditer(prose(page))]


def anchors(page: Path) -> set[str]:
    """What a link can name after ``#``, by the rules of the usual renderers."""
    found: set[str] = set()
    for match in _HEADING.finditer(prose(page)):
        text = re.sub(r"[^\w\- ]", "", match["text"].lower()).replace(" ", "-")
        number, name = 0, text
        while name in found:
            number += 1
            name = f"{text}-{number}"
        found.add(name)
    return found
