"""The reference of hooks and of what plugins give and get, from docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

from qup import api, hookspecs
from qup.errors import QupError
from scripts.docs.markdown import docstring

SPEC_MARK = "qup_spec"
"""What ``pluggy.HookspecMarker("qup")`` leaves on a function."""


def find_hooks() -> list[Any]:
    """The hook specifications, in the order of the module."""
    return [item for item in vars(hookspecs).values() if hasattr(item, SPEC_MARK)]


def write_hooks() -> str:
    """A section for each hook."""
    return "\n\n".join(
        f"### {hook.__name__}\n\n```python\n{_signature(hook)}\n```\n\n{docstring(hook.__doc__)}"
        for hook in find_hooks()
    )


def find_classes() -> list[type]:
    """The classes of ``qup.api`` that aren't errors, in the order of its ``__all__``."""
    items = [getattr(api, name) for name in api.__all__]
    return [item for item in items if inspect.isclass(item) and not issubclass(item, QupError)]


def write_api() -> str:
    """A section for each class that plugins meet."""
    functions = [getattr(api, name) for name in api.__all__]
    parts = [_describe(item) for item in find_classes()]
    parts += [_describe_function(item) for item in functions if inspect.isfunction(item)]
    return "\n\n".join(sorted(parts))


def _describe(item: type) -> str:
    parts = [f"### {item.__name__}", docstring(item.__doc__)]
    if dataclasses.is_dataclass(item):
        fields = ", ".join(_field(field) for field in dataclasses.fields(item))
        parts.insert(1, f"```python\n{item.__name__}({fields})\n```")
    parts += list(_members(item))
    return "\n\n".join(filter(None, parts))


def _field(field: dataclasses.Field[Any]) -> str:
    text = f"{field.name}: {field.type}"
    if field.default is not dataclasses.MISSING:
        return f"{text} = {field.default!r}"
    return f"{text} = ..." if field.default_factory is not dataclasses.MISSING else text


def _members(item: type) -> Iterator[str]:
    """Properties and methods that have something to say."""
    for name, member in vars(item).items():
        if name.startswith("_") or name in ("model_config", "to_dict", "digest") * _is_data(item):
            continue
        if isinstance(member, property) and member.__doc__:
            returns = inspect.signature(member.fget).return_annotation if member.fget else "Any"
            yield f"`{name}: {returns}`\n\n{_indent(docstring(member.__doc__))}"
        elif inspect.isfunction(member) and member.__doc__:
            text = _indent(docstring(member.__doc__))
            yield f"`{_short(_signature(member))}`\n\n{text}"


def _is_data(item: type) -> bool:
    return dataclasses.is_dataclass(item)


def _describe_function(function: Any) -> str:
    parts = [f"### {function.__name__}()", f"```python\n{_signature(function)}\n```"]
    return "\n\n".join([*parts, docstring(function.__doc__)])


def _signature(function: Any) -> str:
    text = f"def {function.__name__}{inspect.signature(function)}"
    return text.replace("'", "").replace("mode: int = 420", "mode: int = 0o644")


def _short(signature: str) -> str:
    return re.sub(r"\bself, |\bself\b", "", signature.removeprefix("def "))


def _indent(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
