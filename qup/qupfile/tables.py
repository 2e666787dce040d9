"""The tables of a Qupfile, the names of its machines, and the keys that it can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from qup.model.config import MachineSettings
from qup.model.fields import MACHINE_NAME
from qup.model.units import shorten
from qup.qupfile import explain
from qup.qupfile.document import Document
from qup.qupfile.layers import Layer
from qup.qupfile.problems import Collector
from qup.toml_positions import KeyPath

if TYPE_CHECKING:
    from pydantic import BaseModel

DEFAULT_MACHINE = "default"
"""The machine's name when the Qupfile names none."""

MAX_MACHINES = 1000


def read_tables(document: Document, problems: Collector) -> tuple[Layer, dict[str, Layer]]:
    """``[machine]``, and the tables of ``[machines]`` by name; problems go to the collector."""
    for key in document.data.keys() - {"machine", "machines"}:
        hint = _hint_for_top(key, document.data[key])
        problems.add(
            document.problem((key,), f"unknown key {shorten(key)}", hint=hint, at_key=True)
        )
    base = _read_table(document, ("machine",), problems, "write [machine]")
    named = document.data.get("machines", {})
    if not isinstance(named, dict):
        hint = "write [machines.NAME] for each machine"
        _refuse_non_table(document, ("machines",), named, problems, hint)
        named = {}
    if len(named) > MAX_MACHINES:
        message = f"{len(named)} machines are too many: the most is {MAX_MACHINES}"
        problems.add(document.problem(("machines",), message, at_key=True))
        problems.check()
    tables = {
        name: _read_table(document, ("machines", name), problems, f"write [machines.{name}]")
        for name in named
        if _check_name(document, name, named[name], problems)
    }
    if not named:
        tables[DEFAULT_MACHINE] = Layer("Qupfile", {}, ("machine",))
    return base, tables


def _read_table(document: Document, path: KeyPath, problems: Collector, hint: str) -> Layer:
    value: Any = document.data
    for part in path:
        value = value.get(part, {})
    if isinstance(value, dict):
        return Layer("Qupfile", value, path)
    _refuse_non_table(document, path, value, problems, hint)
    return Layer("Qupfile", {}, path)


def _refuse_non_table(
    document: Document, path: KeyPath, value: object, problems: Collector, hint: str
) -> None:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        hint += ", with single brackets"
    message = f"expected a table, got {explain.describe(value)}"
    problems.add(document.problem(path, message, hint=hint))


def _check_name(document: Document, name: str, value: object, problems: Collector) -> bool:
    if MACHINE_NAME.fullmatch(name):
        return True
    message = f"{shorten(name)} is not a machine's name"
    hint = "1 to 63 lower case letters, digits and hyphens, not a reserved word such as 'con'"
    spelled = name.strip().lower().replace("_", "-").replace(" ", "-")
    if not isinstance(value, dict) and name in known_keys():
        hint = f"{name!r} belongs in [machine] or [machines.NAME]"
    elif MACHINE_NAME.fullmatch(spelled):
        hint = f"did you mean {spelled!r}?"
    problems.add(document.problem(("machines", name), message, hint=hint, at_key=True))
    return False


def _hint_for_top(key: str, value: object) -> str:
    spelled = key.lower().replace("_", "-")
    if spelled in ("machines", "machine", "vm", "vms", "domain", "guest", "guests"):
        return "did you mean 'machines'?" if spelled.endswith("s") else "did you mean 'machine'?"
    meant = explain.SYNONYMS.get(spelled) or known_keys().get(spelled)
    if meant:
        table, _, last = meant.rpartition(".")
        return f"{last!r} belongs in [{'.'.join(filter(None, ('machine', table)))}]"
    if close := explain.did_you_mean(spelled, ("machine", "machines")):
        return f"did you mean {close!r}?"
    if isinstance(value, dict) and MACHINE_NAME.fullmatch(key):
        return f"a machine's table is [machines.{key}]"
    if close := explain.did_you_mean(spelled, known_keys()):
        return _hint_for_top(close, value)
    return "known here: machine, machines"


@cache
def known_keys() -> Mapping[str, str]:
    """The keys of all tables, and the dotted key of each; the outer ones go first."""
    known: dict[str, str] = {}
    for path in walk_model(MachineSettings):
        known.setdefault(path[-1], ".".join(path))
    known["forward"] = "network.forward"
    return dict(sorted(known.items(), key=lambda item: item[1].count(".")))


def walk_model(model: type[BaseModel], base: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        path = (*base, field.alias or name)
        yield path
        table: Any = field.annotation
        if hasattr(table, "model_fields"):
            yield from walk_model(table, path)
