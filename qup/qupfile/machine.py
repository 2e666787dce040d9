"""One machine of a Qupfile: its layers held against the models of settings, modes and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qup.errors import PluginError
from qup.model.config import (
    MachineConfig,
    MachineSettings,
    NetworkUse,
    ProvisionerUse,
    StepSettings,
)
from qup.model.display import NONE
from qup.model.fields import has_defaults
from qup.model.folders import AUTO
from qup.model.units import shorten
from qup.qupfile import explain
from qup.qupfile.layers import (
    DEFAULT_MODE,
    RIVALS,
    Stack,
)
from qup.qupfile.problems import Collector, join_words
from qup.qupfile.registry import Registry
from qup.qupfile.tables import known_keys
from qup.toml_positions import KeyPath

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails


@dataclass(frozen=True)
class Draft:
    """The parts of a machine; None where something was wrong."""

    settings: BaseModel | None
    network: BaseModel | None
    provision: list[ProvisionerUse | None]
    networks: list[NetworkUse | None]

    @property
    def nics(self) -> list[tuple[KeyPath, BaseModel]]:
        """The NICs that nothing is wrong with: the path and the options of each."""
        found: list[tuple[KeyPath, BaseModel]] = [
            (("networks", index), use.options)
            for index, use in enumerate(self.networks)
            if use is not None
        ]
        return found if self.network is None else [(("network",), self.network), *found]

    @property
    def display(self) -> str:
        """Where its picture goes; ``none`` where something was wrong with that."""
        settings = self.settings
        return settings.qemu.shown_at if isinstance(settings, MachineSettings) else NONE

    def finish(self, name: str) -> MachineConfig:
        """The machine, once it is known that nothing was wrong."""
        assert isinstance(self.settings, MachineSettings)
        assert self.network is not None
        uses = tuple(use for use in self.provision if use is not None)
        networks = tuple(use for use in self.networks if use is not None)
        return MachineConfig(name, self.settings, self.network, uses, networks)


@dataclass(frozen=True)
class MachineReader:
    """One machine's layers, and what they are held against."""

    stack: Stack
    registry: Registry
    problems: Collector

    def check_alone(self) -> None:
        """Look at one table by itself, so that nothing wrong hides below another layer.

        What is missing may come from another layer, and what isn't there (a network mode of a
        plugin that isn't installed) may be replaced by one.
        """
        self.validate(MachineSettings, self.stack.merged, (), "the settings")
        for one, other in RIVALS:
            if {one, other} <= self.stack.merged.keys():
                self.refuse((other,), f"either {one!r} or {other!r}: not both", at_key=True)
        network = self.stack.merged.get("network")
        is_base = self.stack.layers[0].base == ("machine",)
        if isinstance(network, dict) and (is_base or "mode" in network):
            name = network.get("mode", DEFAULT_MODE)
            if isinstance(name, str) and name in self.registry.network_modes:
                self.network_options(network, partial=True)
        for index, table in enumerate(self.tables("networks")):
            if table.get("mode", DEFAULT_MODE) in list(self.registry.network_modes):
                self.network_options(table, ("networks", index), partial=True)

    def tables(self, key: str) -> list[dict[str, Any]]:
        """The entries of a list of tables; what is none of that is refused elsewhere."""
        value = self.stack.merged.get(key)
        entries = value if isinstance(value, list) else []
        return [entry if isinstance(entry, dict) else {} for entry in entries]

    def build(self) -> Draft:
        """Check each part by itself: what is wrong with one hides nothing in another."""
        merged = self.stack.merged
        settings = self.validate(MachineSettings, merged, (), "the settings")
        qemu, network, steps = (merged.get(key) for key in ("qemu", "network", "provision"))
        cards = merged.get("networks")
        if isinstance(qemu, dict) and isinstance(qemu.get("accelerator"), str):
            self.check_accelerator(qemu["accelerator"])
        if isinstance(seeder := merged.get("seeder"), str):
            self.check_seeder(seeder)
        for index, entry in enumerate(self.tables("folders")):
            self.check_folder(entry, ("folders", index))
        options = self.network_options(network) if isinstance(network, dict | None) else None
        uses = [
            self.provisioner(entry, index)
            for index, entry in enumerate(steps if isinstance(steps, list) else ())
            if isinstance(entry, dict)
        ]
        networks = [
            self.network_use(entry, index)
            for index, entry in enumerate(cards if isinstance(cards, list) else ())
            if isinstance(entry, dict)
        ]
        return Draft(settings, options, uses, networks)

    def refuse(
        self, path: KeyPath, message: str, hint: str | None = None, *, at_key: bool = False
    ) -> None:
        self.problems.add(self.stack.problem(path, message, hint=hint, at_key=at_key))

    def check_accelerator(self, name: str) -> None:
        known = self.registry.accelerators
        if name != "auto" and name not in known:
            self.missing("accelerator", name, ("auto", *known), ("qemu", "accelerator"))

    def check_seeder(self, name: str) -> None:
        known = self.registry.guest_seeders
        if name not in known:
            self.missing("guest seeder", name, tuple(known), ("seeder",))

    def check_folder(self, entry: Mapping[str, Any], path: KeyPath) -> None:
        name = entry.get("type", AUTO)
        if not isinstance(name, str) or name == AUTO:
            return
        known = self.registry.folder_types
        if name not in known:
            self.missing("folder type", name, (AUTO, *known), (*path, "type"))
        elif hasattr(known[name], "share"):
            for key in ("exclude", "delete"):
                if entry.get(key):
                    text = f"{key!r} is for folders that are copied, and {name!r} mounts"
                    self.refuse((*path, key), text, at_key=True)

    def missing(self, kind: str, name: str, known: Sequence[str], path: KeyPath) -> None:
        """Something that a plugin would have to bring isn't there."""
        hint = explain.hint_for_word(name, known)
        close = explain.did_you_mean(name, known)
        if reason := self.registry.explain_missing(kind, name):
            hint = f"{hint}; or: {reason}" if close is not None else reason
        self.refuse(path, f"unknown {kind} {shorten(name)}", hint, at_key=kind == "provisioner")

    def network_use(self, entry: Mapping[str, Any], index: int) -> NetworkUse | None:
        options = self.network_options(entry, ("networks", index))
        return None if options is None else NetworkUse(entry.get("mode", DEFAULT_MODE), options)

    def network_options(
        self,
        table: Mapping[str, Any] | None,
        path: KeyPath = ("network",),
        *,
        partial: bool = False,
    ) -> BaseModel | None:
        table = table or {}
        name = table.get("mode", DEFAULT_MODE)
        if not isinstance(name, str):
            return None
        mode = self.registry.network_modes.get(name)
        if mode is None:
            known = list(self.registry.network_modes)
            self.missing("network mode", name, known, (*path, "mode"))
            return None
        extra = {key: value for key, value in table.items() if key != "mode"}
        owner = f"network mode {name!r}"
        return self.validate(mode.options, extra, path, owner, partial=partial)

    def provisioner(self, entry: Mapping[str, Any], index: int) -> ProvisionerUse | None:
        path: KeyPath = ("provision", index)
        common = {key: value for key, value in entry.items() if key in STEP_KEYS}
        own = {key: value for key, value in entry.items() if key not in STEP_KEYS}
        if len(own) != 1:
            names = ", ".join(self.registry.provisioners)
            got = ", ".join(shorten(key) for key in list(own)[:5]) or "none"
            hint = f"one step is [[machine.provision]] with one of: {names}"
            self.refuse(path, f"a step has one provisioner; got {got}", hint)
            return None
        ((name, value),) = own.items()
        step = self.validate(StepSettings, common, path, "the settings")
        found = self.registry.provisioners.get(name)
        if found is None:
            self.missing("provisioner", name, list(self.registry.provisioners), (*path, name))
            return None
        shorthand = found.options.shorthand
        if isinstance(value, str) and shorthand:
            value = {shorthand: value}
        if value is True and has_defaults(found.options):
            value = {}
        if not isinstance(value, dict):
            wanted = "a table or text" if shorthand else "a table"
            said = "'true' stands for an empty table" if value is False else None
            message = f"expected {wanted}, got {explain.describe(value)}"
            self.refuse((*path, name), message, said)
            return None
        options = self.validate(found.options, value, (*path, name), f"provisioner {name!r}")
        if options is None or not isinstance(step, StepSettings):
            return None
        on_host, needs = getattr(found, "on_host", False), getattr(found, "needs_guest", False)
        if step.on == "before-up" and (needs or not on_host):
            does = "works on" if needs else "runs in"
            self.refuse((*path, "on"), f"{name!r} {does} the guest, which is not up before 'up'")
        return ProvisionerUse(name, options, step)

    def validate(
        self,
        model: type[BaseModel],
        data: Mapping[str, Any],
        base: KeyPath,
        owner: str,
        *,
        partial: bool = False,
    ) -> BaseModel | None:
        """Check a table against a model, and note what is wrong.

        Args:
            model: what the table has to fit.
            data: the table.
            base: the table's path.
            owner: whose model it is, for the error if it breaks.
            partial: let pass what only a whole table can have wrong.
        """
        from pydantic import ValidationError

        try:
            return model.model_validate(dict(data), by_alias=True, by_name=False)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
            if partial:
                errors = [error for error in errors if error["loc"] and error["type"] != "missing"]
            self.explain(model, errors, base)
            return None
        except Exception as exc:
            raise PluginError(f"{owner} broke while it checked its options: {exc!r}") from exc

    def explain(
        self, model: type[BaseModel], errors: Sequence[ErrorDetails], base: KeyPath
    ) -> None:
        grouped: dict[tuple[KeyPath, bool], list[tuple[str, str | None]]] = {}
        for error in errors:
            path = self.real_path((*base, *error["loc"]), error)
            unknown = error["type"] == "extra_forbidden"
            hint = self.hint(model, path, base) if unknown else None
            entry = (explain.explain_error(error), hint)
            grouped.setdefault((path, unknown), []).append(entry)
        for (path, unknown), entries in grouped.items():
            hint = next((hint for _, hint in entries if hint), None)
            for message in explain.merge_messages([message for message, _ in entries]):
                self.refuse(path, message, hint, at_key=unknown)

    def real_path(self, path: KeyPath, error: ErrorDetails) -> KeyPath:
        """The path without what pydantic adds to it, such as the branch of a union."""
        if error["type"] == "missing":
            return path[:-1]
        layer = self.stack.find(path)
        return path[: layer.reaches(path)] if layer else path

    def hint(self, model: type[BaseModel], path: KeyPath, base: KeyPath) -> str:
        """What an unknown key should have been."""
        table: Any = model
        for part in path[len(base) : -1]:
            table = _field_type(table, part)
        fields = getattr(table, "model_fields", {})
        known = [field.alias or name for name, field in fields.items()]
        where = ".".join(str(part) for part in path[:-1])
        if path[0] in ("network", "networks") and len(path) > 1:
            where = "network"
            known.append("mode")
            if said := self.hint_for_option(str(path[-1]), model):
                return said
        key = str(path[-1])
        elsewhere = {} if path[0] == "provision" else known_keys()
        return explain.hint_for_key(key, where, known, elsewhere)

    def hint_for_option(self, key: str, model: type[BaseModel]) -> str | None:
        """What to say of an option that belongs to other network modes."""
        having, own = [], ""
        for name, mode in self.registry.network_modes.items():
            if mode.options is model:
                own = name
            elif key in (field.alias or it for it, field in mode.options.model_fields.items()):
                having.append(name)
        if not having:
            return None
        said = f"{key!r} is an option of network mode {join_words([*map(repr, having)], 'or')}"
        if key in ("forward", "ports"):
            said += f"; mode {own!r} opens no ports of this computer"
        return said


STEP_KEYS = frozenset(StepSettings.model_fields)
"""Keys of a provisioning step that don't name its provisioner."""


def _field_type(model: Any, alias: object) -> Any:
    for name, field in getattr(model, "model_fields", {}).items():
        if alias in (name, field.alias):
            return field.annotation
    return None
