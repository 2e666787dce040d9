"""Loading plugins, keeping them apart, and asking them for what they bring.

One broken plugin stops nothing that doesn't need it: its failure is kept, shown by
``qup plugins list``, and named when a Qupfile asks for something that may have come from it.

Hooks are called one plugin at a time, never through pluggy's own relay, so that each exception
has an owner.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pluggy

from qup import hookspecs
from qup.api import (
    Accelerator,
    BoxSource,
    Check,
    Command,
    ExtraArguments,
    FolderType,
    GuestSeeder,
    NetworkMode,
    Provisioner,
)
from qup.errors import PluginError
from qup.model.events import Event
from qup.plugins.contract import (
    BROKEN_BY_PLUGIN,
    KINDS,
    OTHER_HOOKS,
    RESERVED,
    Answer,
    Fenced,
    Refusal,
    advise,
    check_item,
    describe_exception,
    find_place,
)
from qup.plugins.sources import BUILTIN, ENTRY_POINT_GROUP, find_distributions

if TYPE_CHECKING:
    from qup.api import Host, MachineConfig, Plan

SUSPECTS = 2
"""Broken plugins whose failures fit into a hint; of more there are only the names."""


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
    """Plugins, and what they registered.

    Attributes:
        plugins: by name, in the order in which they are asked: built-in ones, then those of
            this Python environment by name.
        failures: what went wrong so far.
    """

    def __init__(self, *, installed: bool = True) -> None:
        """Load what is built in and, unless a test wants to do without, what is installed."""
        self.plugins: dict[str, Plugin] = {}
        self.failures: list[Failure] = []
        self._reasons: dict[tuple[str, str], str] = {}
        self._explained: set[Failure] = set()
        self._providers: dict[tuple[str, str], str] = {}
        self._reserved = dict(RESERVED)
        self._tables: dict[str, dict[str, Any]] = {}
        self._manager = pluggy.PluginManager("qup")
        self._manager.add_hookspecs(hookspecs)
        for module in BUILTIN:
            self._register(importlib.import_module(module), Plugin(module, "", builtin=True))
        if installed:
            self._load_installed()

    # --- loading -----------------------------------------------------------------------

    def _load_installed(self) -> None:
        for distribution in find_distributions():
            name, version = distribution.name, distribution.version
            try:
                found = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
                points = sorted(found, key=lambda point: point.name)
            except BROKEN_BY_PLUGIN as exc:
                self.plugins[name] = Plugin(name, version, builtin=False)
                self._fail(name, "import", exc)
                continue
            for point in points:
                label = name if len(points) == 1 else f"{name}:{point.name}"
                self._load(label, version, point.load)

    def _load(self, name: str, version: str, load: Callable[[], object]) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                plugin = load()
        except BROKEN_BY_PLUGIN as exc:
            self.plugins[name] = Plugin(name, version, builtin=False)
            self._fail(name, "import", exc)
        else:
            self.add(plugin, name, version)

    def add(self, plugin: object, name: str, version: str = "") -> None:
        """Take in a plugin as if it were installed.

        Args:
            plugin: a module or another object with hook implementations.
            name: its distribution's name.
            version: its distribution's version.
        """
        self._register(plugin, Plugin(name, version, builtin=False))

    def _register(self, plugin: object, entry: Plugin) -> None:
        name = entry.name
        self.plugins[name] = entry
        try:
            if plugin is None:
                raise Refusal("its entry point leads to None")
            if any(plugin is known for _, known in self._manager.list_name_plugin()):
                raise Refusal("its entry point leads to what is loaded already")
            try:
                self._manager.register(plugin, name=name)
            except pluggy.PluginValidationError as exc:
                # Its first line names the plugin and the hook, as the others do.
                raise Refusal("; ".join(str(exc).splitlines()[1:]) or str(exc)) from exc
            self._check_hooks(plugin, name)
        except BROKEN_BY_PLUGIN as exc:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._fail(name, "import", exc)

    def _check_hooks(self, plugin: object, name: str) -> None:
        """Refuse what pluggy accepts and we can't use."""
        callers = {hook.name: hook for hook in self._manager.get_hookcallers(plugin) or ()}
        hooks = [*(kind.hook for kind in KINDS.values()), *OTHER_HOOKS]
        for hook in callers.values():
            for impl in hook.get_hookimpls():
                if impl.plugin_name != name:
                    continue
                if impl.hookwrapper or impl.wrapper:
                    raise Refusal(f"{hook.name} can't be wrapped")
                if not hook.has_spec() and not impl.optionalhook:
                    close = difflib.get_close_matches(hook.name, hooks, n=1)
                    also = f"; is it {close[0]}?" if close else ""
                    raise Refusal(f"qup has no hook {hook.name}{also}")
        unmarked = [hook for hook in hooks if hook not in callers and hasattr(plugin, hook)]
        if unmarked:
            raise Refusal(f"{', '.join(unmarked)}: not marked with @hookimpl")
        if not callers:
            raise Refusal("it implements no hook of qup's")

    def _fail(self, plugin: str, where: str, exc: BaseException) -> Failure:
        reason = str(exc) if isinstance(exc, Refusal) else describe_exception(exc)
        log = "".join(traceback.format_exception(exc))
        failure = Failure(plugin, where, reason, log)
        if failure not in self.failures:
            self.failures.append(failure)
        return failure

    # --- registrations -----------------------------------------------------------------

    def reserve(self, kind: str, names: Iterable[str]) -> None:
        """Keep plugins from registering names of a kind; call it before they are asked."""
        self._reserved[kind] = self._reserved.get(kind, frozenset()) | set(names)

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Who implements a hook, in our order: no ``tryfirst`` gets before what is built in."""
        order = list(self.plugins)
        found: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return sorted(found, key=lambda impl: order.index(impl.plugin_name))

    def _table(self, kind: str) -> dict[str, Any]:
        """What was registered of a kind, by name; asked for once."""
        if kind not in self._tables:
            self._tables[kind] = self._collect(kind)
        return self._tables[kind]

    def _collect(self, kind: str) -> dict[str, Any]:
        hook = KINDS[kind].hook
        claims: dict[str, list[tuple[Plugin, Any]]] = {}
        for impl in self._implementations(hook):
            plugin = self.plugins[impl.plugin_name]
            for item in self._ask(plugin.name, hook, impl.function):
                try:
                    check_item(kind, item, self._reserved.get(kind, frozenset()))
                    claims.setdefault(item.name, []).append((plugin, item))
                except BROKEN_BY_PLUGIN as exc:
                    self._refuse(kind, item, plugin.name, exc)
        table: dict[str, Any] = {}
        for name, claim in claims.items():
            if self._settle(kind, name, [plugin for plugin, _ in claim]):
                plugin, item = claim[0]
                plugin.brings.append(f"{kind} {name}")
                self._providers[kind, name] = plugin.name
                fenced = KINDS[kind].methods and not plugin.builtin
                table[name] = Fenced(item, kind, plugin.name) if fenced else item
        return table

    def _refuse(self, kind: str, item: Any, plugin: str, exc: BaseException) -> None:
        """Note that something was not taken; if it has a name, that is why the name is missing."""
        failure = self._fail(plugin, KINDS[kind].hook, exc)
        self._explained.add(failure)
        with contextlib.suppress(*BROKEN_BY_PLUGIN):
            self._reasons.setdefault((kind, str(item.name)), str(failure))

    def _settle(self, kind: str, name: str, plugins: Sequence[Plugin]) -> bool:
        """Whether the first of several plugins gets a name: if it is built in, or the only one."""
        hook = KINDS[kind].hook
        names = list(dict.fromkeys(plugin.name for plugin in plugins))
        if plugins[0].builtin:
            losers, words = names[1:], f"{kind} {name!r} is built in"
        elif len(plugins) == 1:
            return True
        else:
            twice = " twice" if len(names) == 1 else ""
            losers, words = names, f"{kind} {name!r} is brought by {' and by '.join(names)}{twice}"
            self._reasons[kind, name] = f"{words}; uninstall all but one" if not twice else words
        self._explained |= {self._fail(loser, hook, Refusal(words)) for loser in losers}
        return plugins[0].builtin

    def _ask(self, plugin: str, hook: str, function: Callable[[], object]) -> tuple[Any, ...]:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer: tuple[Any, ...] = Answer((object,), many=True).take(function())
        except BROKEN_BY_PLUGIN as exc:
            self._fail(plugin, hook, exc)
            return ()
        return answer

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
    def guest_seeders(self) -> Mapping[str, GuestSeeder]:
        return self._table("guest seeder")

    @cached_property
    def folder_types(self) -> Mapping[str, FolderType]:
        return self._table("folder type")

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
        for hook, what in OTHER_HOOKS.items():
            for impl in self._implementations(hook):
                brings = self.plugins[impl.plugin_name].brings
                if what not in brings:
                    brings.append(what)

    def provider(self, kind: str, name: str) -> str | None:
        """The plugin that brought something, by its name."""
        self._table(kind)
        return self._providers.get((kind, name))

    def explain_missing(self, kind: str, name: str) -> str | None:
        """Why something that isn't there may be missing: a clash, or plugins that failed."""
        self._table(kind)
        if reason := self._reasons.get((kind, name)):
            return reason
        hooks = ("import", KINDS[kind].hook)
        suspects = [
            failure
            for failure in self.failures
            if failure.where in hooks and failure not in self._explained
        ]
        if len(suspects) <= SUSPECTS:
            return "; ".join(map(str, suspects)) or None
        names = ", ".join(dict.fromkeys(failure.plugin for failure in suspects))
        return f"it may come from a broken plugin: {names}; 'qup plugins list' says more"

    # --- contributions and observations ------------------------------------------------

    def amend(self, config: MachineConfig, host: Host, plan: Plan) -> tuple[ExtraArguments, ...]:
        """Ask every plugin for words to add to a plan.

        Raises:
            PluginError: a plugin raised, or answered with something else.
        """
        extra: list[ExtraArguments] = []
        given: dict[str, Any] = {"config": config, "host": host, "plan": plan}
        for impl in self._implementations("qup_amend_plan"):
            try:
                answer = impl.function(*(given[name] for name in impl.argnames))
                words = _take_words(answer)
            except BROKEN_BY_PLUGIN as exc:
                failure = self._fail(impl.plugin_name, "qup_amend_plan", exc)
                raise PluginError(
                    str(failure), details=find_place(exc), hint=advise(impl.plugin_name)
                ) from exc
            if words:
                extra.append(ExtraArguments(words, f"plugin {impl.plugin_name}"))
        return tuple(extra)

    def notify(self, event: Event) -> tuple[Failure, ...]:
        """Tell every plugin what happened.

        Returns:
            What went wrong and had not gone wrong before: something for a log, no more.
        """
        known = len(self.failures)
        for impl in self._implementations("qup_event"):
            try:
                impl.function(*(event for _ in impl.argnames))
            except BROKEN_BY_PLUGIN as exc:
                self._fail(impl.plugin_name, "qup_event", exc)
        return tuple(self.failures[known:])


def _take_words(answer: object) -> tuple[str, ...]:
    """The words of a contribution to a plan; None contributes nothing.

    Raises:
        TypeError: it is no contribution.
    """
    taken = Answer((ExtraArguments, type(None))).take(answer)
    if taken is None:
        return ()
    words: tuple[str, ...] = Answer((str,), many=True).take(taken.words)
    return words
