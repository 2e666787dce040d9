"""The command line's reference, from the command line itself."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typer.main import get_command  # noqa: TID251  what the command line is made of

from qup.cli.commands import COMMANDS
from qup.cli.main import app
from scripts.docs.markdown import code, first_sentence, table

SETTINGS_PANEL = "Settings"
COMPLETION = ("--install-completion", "--show-completion")
AT_ONCE = (*COMPLETION, "--version", "--help", "-h")
"""Options of the program itself that do their work while the words are still being read."""


@dataclass(frozen=True)
class Found:
    """A command, with its name as it is typed and the context that describes it."""

    name: str
    command: Any
    context: Any

    @property
    def children(self) -> list[str]:
        commands: dict[str, Any] = getattr(self.command, "commands", {})
        return list(commands)


def root() -> Found:
    """The program itself."""
    command: Any = get_command(app)
    return Found("qup", command, command.context_class(command, info_name="qup"))


def find_commands() -> Iterator[Found]:
    """Qup's own commands (not plugins'), in the order of ``--help``, each with its children."""
    top = root()
    for name, entry in COMMANDS.items():
        if not entry.hidden:
            yield from _walk(top, name, top.command.get_command(top.context, name))


def _walk(parent: Found, name: str, command: Any) -> Iterator[Found]:
    context = command.context_class(command, parent=parent.context, info_name=name)
    found = Found(f"{parent.name} {name}", command, context)
    yield found
    for child in found.children:
        yield from _walk(found, child, command.get_command(context, child))


def write_table() -> str:
    """A line for each command."""
    rows = []
    for found in find_commands():
        if found.children:
            continue
        rows.append([code(found.name), first_sentence(found.command.help or "")])
    return table(["Command", "What it does"], rows)


def write_reference() -> str:
    """A section for each command."""
    parts = [_describe_root()]
    parts += [_describe(found) for found in find_commands()]
    return "\n\n".join(parts)


def _describe_root() -> str:
    found = root()
    rows = [
        _row(found, item) for item in _options(found) if not {*item.opts} & {*COMPLETION, "--help"}
    ]
    return "## Before the command\n\n" + table(["Option", "What it does"], rows)


def _describe(found: Found) -> str:
    parts = [f"## {found.name}", f"```text\n{_usage(found)}\n```", _help(found)]
    if aliases := _aliases(found.name.removeprefix("qup ")):
        parts.append(f"Another name for it: {', '.join(code(f'qup {item}') for item in aliases)}.")
    options = [item for item in _options(found) if "--help" not in item.opts]
    rows = [_row(found, item) for item in options if not _is_setting(item)]
    if rows:
        parts.append(table(["Option", "What it does"], rows))
    if any(map(_is_setting, options)):
        parts.append("Takes every [setting](#settings) as an option.")
    if found.children:
        names = [f"[`{found.name} {child}`](#qup-{found.name[4:]}-{child})"
                 for child in found.children]  # fmt: skip
        parts.append("Commands: " + ", ".join(names))
    return "\n\n".join(filter(None, parts))


def _aliases(name: str) -> list[str]:
    wanted = COMMANDS.get(name)
    return [
        other
        for other, entry in COMMANDS.items()
        if wanted and entry.hidden and entry[:2] == wanted[:2]
    ]


def _usage(found: Found) -> str:
    pieces = [
        re.sub(r"^\{(\w+)\}$", r"\1", piece)
        for piece in found.command.collect_usage_pieces(found.context)
    ]
    return " ".join([found.name, *pieces])


def _help(found: Found) -> str:
    return inspect.cleandoc(found.command.help or "")


def _options(found: Found) -> list[Any]:
    return [
        item
        for item in found.command.get_params(found.context)
        if item.param_type_name == "option" and not getattr(item, "hidden", False)
    ]


def _is_setting(item: Any) -> bool:
    return getattr(item, "rich_help_panel", None) == SETTINGS_PANEL


def _row(found: Found, item: Any) -> list[str]:
    names = ", ".join(code(name) for name in item.opts)
    if not item.is_flag:
        names += f" {code(_value_name(found, item))}"
    text = item.help or ""
    default = item.default
    if default not in (None, False, "", ()) and not item.is_flag:
        text += f" Default: {code(str(getattr(default, 'value', default)))}."
    return [names, text]


def _value_name(found: Found, item: Any) -> str:
    """What stands for the value: ``DIR``, ``<float>``, ``[serial|qemu]``."""
    name: str = item.make_metavar(found.context)
    return name


def check_words(words: str) -> str | None:
    """What is wrong with a command line as it would be typed, or None; nothing is run."""
    parts = shlex.split(words)
    while parts and "=" in parts[0]:  # variables before the command
        parts.pop(0)
    if parts[:1] != ["qup"] or parts[1:2] in ([word] for word in AT_ONCE):
        return None
    command: Any = get_command(app)
    name, args, parent = "qup", parts[1:], None
    try:
        while hasattr(command, "resolve_command"):
            parent = command.make_context(name, args, parent=parent)
            rest = [*parent._protected_args, *parent.args]  # noqa: SLF001  as its own invoke()
            if not rest:
                return "NoCommand"
            name, command, args = command.resolve_command(parent, rest)
        command.make_context(name, args, parent=parent)
    except SystemExit:
        return None
    except Exception as exc:  # the command line's own kinds of exception are private to it
        problem = f"{type(exc).__name__}: {getattr(exc, 'message', exc)}"
        return None if type(exc).__name__ == "Exit" else problem
    return None
