"""Where values come from: the tables of the Qupfile, the environment, the command line.

A machine's settings are layers, each over the one before: ``[machine]``, ``[machines.<name>]``,
the environment, the command line. Tables are merged key by key; anything else replaces what
was there. The options of a network mode are of no use to another one: a layer that changes
``network.mode`` drops what the Qupfile's layers said about the network. Variables and options
stay: whichever of them the mode doesn't have are left out in the end (:func:`leave_out`).
Of two keys that exclude each other (:data:`RIVALS`) the upper layer's counts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qup.model.config import NetworkSettings, Origin
from qup.model.settings import BY_KEY, NO, SETTINGS, YES, Kind, parse_switch
from qup.model.units import shorten
from qup.qupfile.document import Document, walk
from qup.qupfile.problems import Collector, Problem, clean
from qup.toml_positions import KeyPath

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DOTTED_KEY = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){0,5}", re.ASCII)


DEFAULT_MODE: str = NetworkSettings.model_fields["mode"].default

RIVALS = (("user-data", "userdata"),)
"""Keys of a machine that say the same in two ways."""


@dataclass(frozen=True)
class Layer:
    """Some settings of a machine, and where they stand.

    Attributes:
        name: ``Qupfile``, ``environment`` or ``command line``.
        data: the settings, as ``[machine]`` has them.
        base: in the Qupfile, the path of the table.
        labels: elsewhere, the variable or the option by dotted key.
    """

    name: str
    data: Mapping[str, Any]
    base: KeyPath = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def label(self, path: KeyPath) -> str:
        """The variable or the option that gave a path, or something in it or around it."""
        dotted = ".".join(str(part) for part in path)
        for key, label in self.labels.items():
            if f"{dotted}.".startswith(f"{key}.") or f"{key}.".startswith(f"{dotted}."):
                return label
        return next(iter(self.labels.values()), "")

    def origin(self, path: KeyPath, document: Document) -> Origin:
        """Where the value at a path came from."""
        if self.labels:
            return Origin(self.name, self.label(path))
        span = document.place((*self.base, *path)).key
        return Origin(self.name, f"{document.name}:{span.line}:{span.col}")

    def problem(
        self,
        document: Document,
        path: KeyPath,
        message: str,
        *,
        hint: str | None = None,
        at_key: bool = False,
    ) -> Problem:
        """Something wrong at a path of this layer."""
        if self.labels:
            dotted = ".".join(str(part) for part in path)
            return Problem(f"{self.name} {self.label(path)}", message, hint, key=dotted)
        return document.problem((*self.base, *path), message, hint=hint, at_key=at_key)

    def reaches(self, path: KeyPath) -> int:
        """How many parts of a path are in this layer."""
        value: Any = self.data
        for depth, part in enumerate(path):
            known = range(len(value)) if isinstance(value, list) else value
            if not isinstance(known, dict | range) or part not in known:
                return depth
            value = value[part]
        return len(path)


def read_environment(environment: Mapping[str, str], problems: Collector) -> Layer:
    """The variables that are set and not empty, as a layer; problems go to the collector."""
    data: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for setting in SETTINGS:
        for variable in setting.variables:
            if text := environment.get(variable):
                value = convert(setting.key, text)
                if setting.kind is Kind.SWITCH and isinstance(value, str):
                    message = f"{clean(shorten(text))} is neither yes nor no"
                    hint = f"write {', '.join(YES[:4])}; or {', '.join(NO[:4])}"
                    where = f"environment {variable}"
                    problems.add(Problem(where, message, hint, key=setting.key))
                else:
                    _put(data, setting.key, value)
                    labels[setting.key] = variable
                break
    return Layer("environment", data, labels=labels)


def read_overrides(
    overrides: Mapping[str, object], assignments: Sequence[str], problems: Collector
) -> Layer:
    """What the command line gives, as a layer.

    Args:
        overrides: values by dotted key, from the options of :data:`SETTINGS`. None is nothing.
        assignments: the words of ``--set``, each ``KEY=VALUE``.
        problems: takes what is wrong with the words.
    """
    data: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for key, value in overrides.items():
        if value is not None:
            _put(data, key, convert(key, value) if isinstance(value, str) else value)
            labels[key] = BY_KEY[key].flag if key in BY_KEY else "--set"
    for word in assignments:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not _DOTTED_KEY.fullmatch(key):
            message = f"{clean(word[:80])!r} is not KEY=VALUE"
            hint = "for instance --set memory=2G or --set qemu.cpu=max"
            problems.add(Problem("command line --set", message, hint))
        elif not _put(data, key, parse_value(text)):
            message = f"{key!r} gets into the way of another --set"
            problems.add(Problem("command line --set", message, key=key))
        else:
            labels.pop(key, None)
            labels[key] = f"--set {key}"
    return Layer("command line", data, labels=labels)


def parse_value(text: str) -> Any:
    """A value of TOML, or the text as it is when it is none."""
    if len(text) > 64 * 1024 or text.count("[") + text.count("{") + text.count(".") > 1000:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if parsed.keys() != {"value"}:
        return text
    for _, item in walk(parsed):
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            return text
    return parsed["value"]


def convert(key: str, text: str) -> object:
    """The text of a variable or an option as what its setting is; else the text itself."""
    match BY_KEY[key].kind if key in BY_KEY else Kind.TEXT:
        case Kind.NUMBER if _INTEGER.fullmatch(text.strip()):
            return int(text)
        case Kind.SWITCH if (value := parse_switch(text)) is not None:
            return value
        case Kind.FILE if text:
            return str(Path(text).absolute())  # relative to the user, not to the Qupfile
        case _:
            return text


def _put(data: dict[str, Any], key: str, value: object) -> bool:
    """Put a value at a dotted key; False if something that is no table is in the way."""
    *tables, last = key.split(".")
    for table in tables:
        inner: object = data.setdefault(table, {})
        if not isinstance(inner, dict):
            return False
        data = inner
    data[last] = value
    return True


# -- one over the other ---------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The layers of one machine, from the bottom up, and what they make together."""

    document: Document
    layers: tuple[Layer, ...]
    merged: dict[str, Any]

    def find(self, path: KeyPath) -> Layer | None:
        """The layer that a value is from: the topmost of those that reach furthest."""
        reach, found = 0, None
        for layer in self.layers:
            depth = layer.reaches(path)
            if depth and depth >= reach:
                reach, found = depth, layer
        return found

    def origin(self, path: KeyPath) -> Origin:
        """Where a value came from."""
        layer = self.find(path)
        if layer is None or layer.reaches(path) < len(path):
            return Origin("default")
        return layer.origin(path, self.document)

    def problem(
        self, path: KeyPath, message: str, *, hint: str | None = None, at_key: bool = False
    ) -> Problem:
        """Something that is wrong with a value, at the place where it was given."""
        layer = self.find(path) or self.layers[0]
        return layer.problem(self.document, path, message, hint=hint, at_key=at_key)


def stack_layers(document: Document, layers: Sequence[Layer]) -> Stack:
    """Merge the layers of a machine."""
    kept: list[Layer] = []
    merged: dict[str, Any] = {}
    for layer in layers:
        if _changes_mode(merged, layer.data):
            kept = [below if below.labels else _without(below, ("network",)) for below in kept]
        for rivals in RIVALS:
            if set(rivals) & set(layer.data):
                kept = [_without(below, rivals) for below in kept]
        kept.append(layer)
        merged = {}
        for one in kept:
            merged = _merge(merged, one.data)
    return Stack(document, tuple(kept), merged)


def leave_out(layer: Layer, known: Container[str]) -> tuple[Layer, frozenset[str]]:
    """A layer without the network settings that the machine's network mode doesn't have.

    Only settings with a variable or an option of their own are left out: whoever writes
    ``--set network.x`` means it.

    Args:
        layer: the environment or the command line.
        known: the options of the mode.

    Returns:
        What is left, and the dotted keys that were left out.
    """
    out = frozenset(
        key
        for key, label in layer.labels.items()
        if key in BY_KEY
        and BY_KEY[key].is_network_option
        and not label.startswith("--set")
        and key.removeprefix("network.") not in known
    )
    if not out:
        return layer, out
    data = dict(layer.data)
    network = {
        key: value for key, value in data.pop("network").items() if f"network.{key}" not in out
    }
    if network:
        data["network"] = network
    labels = {key: label for key, label in layer.labels.items() if key not in out}
    return replace(layer, data=data, labels=labels), out


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def _mode(data: Mapping[str, Any]) -> object:
    network = data.get("network")
    return network.get("mode") if isinstance(network, dict) else None


def _changes_mode(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    wanted = _mode(above)
    return wanted is not None and wanted != (_mode(below) or DEFAULT_MODE)


def _without(layer: Layer, keys: Container[str]) -> Layer:
    data = {key: value for key, value in layer.data.items() if key not in keys}
    return replace(layer, data=data)
