"""Writing Markdown: tables, and docstrings in the form that the sources have."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
_ITEM = re.compile(r"^(?P<name>[\w., ]+?): +(?P<text>.*)$")
_ROLE = re.compile(r":(?:class|mod|func|data|meth|attr):`~?(?P<name>[^`]+)`")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars in cells are kept from ending them."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def code(text: str) -> str:
    """Text set as code; nothing for nothing."""
    return f"`{text}`" if text else ""


def plain(text: str) -> str:
    """The markup of docstrings in Markdown's: roles and double backticks become code."""
    return _ROLE.sub(r"`\g<name>`", text).replace("``", "`")


def docstring(text: str | None) -> str:
    """A docstring in Google's form as Markdown: sections become lists."""
    lines: list[str] = []
    section = indented = False
    for line in inspect.cleandoc(text or "").splitlines():
        if match := _SECTION.match(line):
            section = True
            lines += [f"**{match[1]}**", ""]
        elif line and not line.startswith(" "):
            section = False
            lines.append(plain(line))
        elif section and line.strip():
            indented = line.startswith("        ")
            lines.append(_list_item(line.strip(), indented=indented))
        else:
            lines.append(plain(line))
    return "\n".join(lines).rstrip()


def _list_item(text: str, *, indented: bool) -> str:
    if indented:
        return f"  {plain(text)}"
    if match := _ITEM.match(text):
        return f"- `{match['name']}`: {plain(match['text'])}"
    return f"- {plain(text)}"


def first_sentence(text: str) -> str:
    """A docstring's first sentence, in one line."""
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    found = re.match(r"(.+?[.!?])(?=\s|$)", paragraph)
    return found[1] if found else paragraph
