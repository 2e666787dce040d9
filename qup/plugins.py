"""Loading plugins, keeping them apart, and asking them for what they bring.

One broken plugin stops nothing that doesn't need it: its failure is kept, shown by
``qup plugins list``, and named when a Qupfile asks for something that may have come from it.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pluggy

from qup import hookspecs
from qup.api import Accelerator, BoxSource, Check, Command, NetworkMode, Provisioner
from qup.errors import PluginError
from qup.model.config import MachineConfig
from qup.model.events import Event
from qup.model.plan import ExtraArguments, Plan

ENTRY_POINT_GROUP = "qup"

BUILTIN = (
    "qup.builtin.network_user",
    "qup.builtin.accelerators",
    "qup.builtin.box_tiny",
    "qup.builtin.box_image",
    "qup.builtin.shell",
    "qup.builtin.checks",
)
"""Plugins that are always there. They come in by the same hooks as anybody's."""

KINDS = {
    "network mode": "qup_network_modes",
    "accelerator": "qup_accelerators",
    "box source": "qup_box_sources",
    "provisioner": "qup_provisioners",
    "command": "qup_commands",
    "check": "qup_checks",
}
"""What can be registered, and by which hook."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)


@dataclass(frozen=True)
class Failure:
    """What went wrong with a plugin: ``where`` is ``import`` or a hook's name."""

    plugin: str
    where: str
    error: str
    log: str

    def __str__(self) -> str:
        place = "could not be loaded" if self.where == "import" else f"failed in {self.where}"
        return f"plugin {self.plugin} {place}: {self.error}"


@dataclass
class Plugin:
    """A plugin as ``qup plugins list`` shows it."""

    name: str
    version: str
    builtin: bool
    brings: list[str] = field(default_factory=list)


class Plugins:
    """All plugins of this Python environment, and what they registered."""

    def __init__(self) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.failures: list[Failure] = []
        self._conflicts: dict[tuple[str, str], str] = {}
        self._manager = pluggy.PluginManager("qup")
        self._manager.add_hookspecs(hookspecs)
        self._tables: dict[str, dict[str, Any]] = {}
        for module in BUILTIN:
            self._register(importlib.import_module(module), module, "", builtin=True)
        self._load_entry_points()

    def _load_entry_points(self) -> None:
        from importlib.metadata import entry_points  # slow, and only needed here

        for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
            name = entry.dist.name if entry.dist is not None else entry.name
            version = entry.dist.version if entry.dist is not None else ""
            try:
                plugin = entry.load()
            except (Exception, SystemExit) as exc:
                self.plugins[name] = Plugin(name, version, builtin=False)
                self._fail(name, "import", exc)
            else:
                self._register(plugin, name, version, builtin=False)

    def _register(self, plugin: object, name: str, version: str, *, builtin: bool) -> None:
        self.plugins[name] = Plugin(name, version, builtin)
        try:
            self._manager.register(plugin, name=name)
            for hook in self._manager.get_hookcallers(plugin) or ():
                _refuse_wrappers(hook, name)
            self._manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as exc:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._fail(name, "import", exc)

    def _fail(self, plugin: str, where: str, exc: BaseException) -> None:
        reason = f"{type(exc).__name__}: {exc}".splitlines()[0]
        log = "".join(traceback.format_exception(exc))
        self.failures.append(Failure(plugin, where, reason, log))

    def _table(self, kind: str) -> dict[str, Any]:
        """What was registered of a kind, by name; asked for once."""
        if kind not in self._tables:
            self._tables[kind] = self._collect(kind)
        return self._tables[kind]

    def _collect(self, kind: str) -> dict[str, Any]:
        hook = KINDS[kind]
        table: dict[str, Any] = {}
        provider: dict[str, str] = {}
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            plugin = self.plugins[impl.plugin_name]
            for item in self._ask(plugin.name, hook, impl.function):
                name = getattr(item, "name", None)
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    self._fail(plugin.name, hook, ValueError(f"{name!r} is not a {kind}'s name"))
                elif name in provider:
                    self._clash(kind, name, provider[name], plugin.name, table)
                else:
                    provider[name] = plugin.name
                    table[name] = item
                    plugin.brings.append(f"{kind} {name}")
        return table

    def _ask(self, plugin: str, hook: str, function: Callable[[], Iterable[Any]]) -> list[Any]:
        try:
            return list(function())
        except (Exception, SystemExit) as exc:
            self._fail(plugin, hook, exc)
            return []

    def _clash(self, kind: str, name: str, first: str, second: str, table: dict[str, Any]) -> None:
        """A built-in keeps its name; of two others neither gets it."""
        words = f"{kind} {name!r} is brought by {first} and by {second}"
        if self.plugins[first].builtin:
            self._fail(second, KINDS[kind], ValueError(f"{kind} {name!r} is built in"))
        else:
            self._conflicts[kind, name] = words
            self._fail(second, KINDS[kind], ValueError(words))
            table.pop(name, None)

    @cached_property
    def network_modes(self) -> Mapping[str, NetworkMode]:
        return self._table("network mode")

    @cached_property
    def accelerators(self) -> Mapping[str, Accelerator]:
        return self._table("accelerator")

    @cached_property
    def box_sources(self) -> Mapping[str, BoxSource]:
        return self._table("box source")

    @cached_property
    def provisioners(self) -> Mapping[str, Provisioner]:
        return self._table("provisioner")

    @cached_property
    def commands(self) -> Mapping[str, Command]:
        return self._table("command")

    @cached_property
    def checks(self) -> Mapping[str, Check]:
        return self._table("check")

    def collect_all(self) -> None:
        """Ask for everything, so that lists and failures are complete."""
        for kind in KINDS:
            self._table(kind)

    def explain_missing(self, kind: str, name: str) -> str | None:
        """Why something that isn't there may be missing: a clash, or plugins that failed."""
        if conflict := self._conflicts.get((kind, name)):
            return f"{conflict}; uninstall one of them"
        relevant = [item for item in self.failures if item.where in ("import", KINDS[kind])]
        if relevant:
            return "; ".join(str(failure) for failure in relevant)
        return None

    def amend(self, config: MachineConfig, host: Any, plan: Plan) -> tuple[ExtraArguments, ...]:
        """Ask every plugin for words to add to a plan.

        Raises:
            PluginError: a plugin raised, or answered with something else.
        """
        extra: list[ExtraArguments] = []
        for impl in self._manager.hook.qup_amend_plan.get_hookimpls():
            arguments: dict[str, Any] = {"config": config, "host": host, "plan": plan}
            try:
                answer: Any = impl.function(*(arguments[name] for name in impl.argnames))
                if answer is not None:
                    words = tuple(str(word) for word in answer.words)
                    extra.append(ExtraArguments(words, f"plugin {impl.plugin_name}"))
            except Exception as exc:
                self._fail(impl.plugin_name, "qup_amend_plan", exc)
                raise PluginError(
                    str(self.failures[-1]), hint=f"uninstall it: pip uninstall {impl.plugin_name}"
                ) from exc
        return tuple(extra)

    def notify(self, event: Event) -> None:
        """Tell every plugin what happened; what they raise is only noted."""
        for impl in self._manager.hook.qup_event.get_hookimpls():
            try:
                impl.function(*(event for _ in impl.argnames))
            except Exception as exc:
                self._fail(impl.plugin_name, "qup_event", exc)


def _refuse_wrappers(hook: pluggy.HookCaller, plugin: str) -> None:
    for impl in hook.get_hookimpls():
        if impl.plugin_name == plugin and (impl.hookwrapper or impl.wrapper):
            raise ValueError(f"{hook.name} can't be wrapped")
