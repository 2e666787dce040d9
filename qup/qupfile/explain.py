"""In plain words: what a key should have been called, and what a value should have been."""

from __future__ import annotations

import datetime as dt
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qup.model.units import shorten
from qup.qupfile.problems import join_words

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SYNONYMS = {
    "accel": "qemu.accelerator",
    "base": "box",
    "core": "cpus",
    "cores": "cpus",
    "cpu": "cpus",
    "cpu-count": "cpus",
    "default": "primary",
    "disk-size": "disk",
    "disksize": "disk",
    "distro": "box",
    "enabled": "autostart",
    "forwarded-port": "network.forward",
    "forwarded-ports": "network.forward",
    "forwards": "network.forward",
    "host-name": "hostname",
    "image": "box",
    "interfaces": "networks",
    "local-ports": "network.ports",
    "localports": "network.ports",
    "machine-type": "qemu.machine",
    "mem": "memory",
    "memory-mb": "memory",
    "memory-size": "memory",
    "name": "hostname",
    "net": "network",
    "nic": "network",
    "nics": "networks",
    "os": "box",
    "port": "network.forward",
    "port-forward": "network.forward",
    "port-forwards": "network.forward",
    "port-range": "network.ports",
    "ports": "network.forward",
    "processors": "cpus",
    "provisioner": "provision",
    "provisioners": "provision",
    "provisioning": "provision",
    "qemu-args": "qemu.args",
    "ram": "memory",
    "restrict": "network.isolate",
    "run": "provision",
    "script": "provision",
    "shell": "provision",
    "size": "disk",
    "smp": "cpus",
    "storage": "disk",
    "timeout": "boot-timeout",
    "user-data-file": "userdata",
    "username": "ssh.user",
    "vcpus": "cpus",
}
"""What other tools and older Qupfiles call a setting, and its dotted key here."""


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word that is closest, if one is close."""
    return _closest(word.lower(), tuple(known))


@lru_cache(maxsize=1024)
def _closest(word: str, known: tuple[str, ...]) -> str | None:
    close = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.65)
    return close[0] if close else None


def hint_for_word(word: str, known: Iterable[str]) -> str:
    """A hint for a value that is none of some words."""
    words = sorted(known)
    close = did_you_mean(word, words)
    if close:
        return f"did you mean {close!r}?"
    return f"there is {join_words(words, 'and')}" if words else "there is none"


def hint_for_key(key: str, table: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """A hint for a key that its table doesn't have.

    Args:
        key: the key.
        table: the dotted name of its table inside of the machine; empty for the machine's own.
        known: the keys that the table has.
        elsewhere: keys of all tables, and the dotted key of each: where else it may belong.
            Empty for tables that have nothing to do with a machine's.
    """
    words = sorted(known)
    spelled = key.lower().replace("_", "-")
    dotted = f"{table}.{spelled}" if table else spelled
    if spelled in words:
        return f"write {spelled!r}"
    if elsewhere and (meant := SYNONYMS.get(spelled, elsewhere.get(spelled))):
        home, _, last = meant.rpartition(".")
        place = f"[machine.{home}]" if home else "[machine]"
        if last == spelled and meant != dotted:
            return f"{last!r} belongs in {place}"
        if home != table:
            return f"did you mean {last!r} in {place}?"
        if last not in words:
            return f"{last!r} is for another mode; known here: {', '.join(words)}"
        also = " (the CPU's model is 'cpu' in [machine.qemu])" if spelled == "cpu" else ""
        return f"did you mean {last!r}?{also}"
    if close := did_you_mean(spelled, words):
        return f"did you mean {close!r}?"
    if close := did_you_mean(spelled, elsewhere):
        return hint_for_key(close, table, (), elsewhere)
    return f"known here: {', '.join(words)}" if words else "this table has no such keys"


# -- values ---------------------------------------------------------------------------------


def describe(value: object) -> str:
    """A value of TOML in a few words: ``text "2"``, ``a list``, ``the number 3``."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            short = isinstance(value, int) or not math.isfinite(value) or abs(value) < 1e15
            return f"the number {value}" if short else "a large number"
        case str():
            text = shorten(value)[1:-1].replace('"', '\\"')
            return f'text "{text}"' if value else "empty text"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case dt.datetime() | dt.date():
            return "a date"
        case dt.time():
            return "a time"
    return "nothing" if value is None else "something else"


EXPECTED = {
    "arguments_type": "a table",
    "bool": "true or false",
    "bytes": "text",
    "callable_type": "something else",
    "complex": "a number",
    "dataclass": "a table",
    "date": "a date such as 2026-12-31",
    "datetime": "a date and time such as 2026-12-31T23:59:00",
    "decimal": "a number",
    "deque_type": "a list",
    "dict_type": "a table",
    "float": "a number",
    "fraction": "a number",
    "frozen_dict_type": "a table",
    "frozen_set_type": "a list",
    "int": "a whole number",
    "iterable_type": "a list",
    "list_type": "a list",
    "mapping_type": "a table",
    "model": "a table",
    "named_tuple_type": "a list",
    "set_type": "a list",
    "string_type": "text in quotes",
    "time": "a time such as 23:59:00",
    "time_delta": "a duration",
    "tuple_type": "a list",
    "url": "a URL",
    "uuid": "a UUID",
}
"""What was expected, by the type of a pydantic error, or by how the type begins."""


def explain_error(error: ErrorDetails) -> str:
    """One sentence for an error of pydantic, in the user's words."""
    kind, value = error["type"], error["input"]
    context: Mapping[str, Any] = error.get("ctx") or {}
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error") or "this value does not work")
    if kind in _KEYS:
        return _KEYS[kind].format(shorten(str(error["loc"][-1])))
    if kind in _SENTENCES:
        words = {"value": shorten(value), "got": describe(value), **context}
        return _SENTENCES[kind].format_map(_Words(words))
    if wanted := _expected(kind):
        return f"expected {wanted}, got {describe(value)}"
    return f"{describe(value)} does not work here"


class _Words(dict[str, object]):
    """A word that an error doesn't have is left out."""

    def __missing__(self, key: str) -> str:
        return "…"


_KEYS = {
    "extra_forbidden": "unknown key {}",
    "missing": "{} is missing",
    "missing_argument": "{} is missing",
    "unexpected_keyword_argument": "unknown key {}",
}

_SENTENCES = {
    "enum": "expected {expected}, got {got}",
    "finite_number": "expected a finite number, got {got}",
    "greater_than": "{value} is too small: it must be more than {gt}",
    "greater_than_equal": "{value} is too small: the least is {ge}",
    "less_than": "{value} is too large: it must be less than {lt}",
    "less_than_equal": "{value} is too large: the most is {le}",
    "literal_error": "expected {expected}, got {got}",
    "multiple_of": "{value} is not a multiple of {multiple_of}",
    "string_pattern_mismatch": "{value} does not match {pattern}",
    "string_too_long": "this text is too long: the most is {max_length} characters",
    "string_too_short": "this text is too short: the least is {min_length} characters",
    "string_unicode": "this text is not valid Unicode",
    "too_long": "this has too many items: the most is {max_length}",
    "too_short": "this has too few items: the least is {min_length}",
    "union_tag_invalid": "expected one of {expected_tags}, got {got}",
}
"""Sentences that need more than a type: ``value`` and ``got`` are the value, in two ways."""


def _expected(kind: str) -> str | None:
    """What was expected, by an error's type or the longest beginning of it."""
    parts = kind.split("_")
    beginnings = ("_".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((EXPECTED[part] for part in beginnings if part in EXPECTED), None)


_EXPECTED_GOT = re.compile(r"expected (?P<wanted>.+), got (?P<got>.+)")


def merge_messages(messages: Sequence[str]) -> list[str]:
    """One message of those that a choice of several types makes of one value."""
    found = [match for match in map(_EXPECTED_GOT.fullmatch, messages) if match]
    if len(messages) > 1 and len(found) == len(messages):
        wanted = dict.fromkeys(match["wanted"] for match in found)
        return [f"expected {join_words(list(wanted), 'or')}, got {found[0]['got']}"]
    return list(dict.fromkeys(messages))
