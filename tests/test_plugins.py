"""Plugins are loaded one by one, kept apart, and named in every failure."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from qup import hookspecs
from qup.api import (
    AcceleratorPlan,
    Check,
    Command,
    ConfigError,
    Event,
    ExtraArguments,
    Finding,
    HostAction,
    NicPlan,
    PluginError,
    ProvisionError,
    Settings,
    Share,
    Verdict,
    hookimpl,
)
from qup.paths import Project
from qup.plugins import BUILTIN, KINDS, OTHER_HOOKS, Plugins
from qup.plugins import registry as registry_module
from qup.runner.context import Context
from qup.store import create_folders
from qup.testing import make_plan, plugins_with
from tests.conftest import ROOT

HOOKS = [name for name in vars(hookspecs) if name.startswith("qup_")]


def plugin(name: str = "qup-test", **hooks: Callable[..., Any]) -> Any:
    """A plugin with these hooks."""
    return SimpleNamespace(__name__=name, **{key: hookimpl(call) for key, call in hooks.items()})


PLAN = NicPlan({"type": "user"})
MODES = list(Plugins(installed=False).network_modes)
"""Those that are built in."""


@dataclass(frozen=True)
class Mode:
    name: str = "mine"
    summary: str = "a mode"
    options: type[Settings] = Settings
    answer: Any = PLAN

    def problems(self, options: Any, host: Any) -> Any:
        return []

    def plan(self, options: Any, nic: Any) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@dataclass(frozen=True)
class Accelerator:
    name: str = "mine"
    summary: str = "an accelerator"
    priority: Any = -1

    def usable(self, host: Any, program: str, arch: str, *, prove: bool) -> Verdict:
        return Verdict(True, "why not")

    def plan(self, arch: str) -> AcceleratorPlan:
        return AcceleratorPlan(self.name, {"accel": "tcg"}, "max")


def modes(*names: str) -> Callable[[], list[Mode]]:
    return lambda: [Mode(name) for name in names]


def nothing() -> list[Any]:
    return []


def said(plugins: Plugins) -> list[str]:
    plugins.collect_all()
    return [str(failure) for failure in plugins.failures]


# --- the hooks ----------------------------------------------------------------------------


def test_every_hook_is_known() -> None:
    assert set(HOOKS) == {kind.hook for kind in KINDS.values()} | set(OTHER_HOOKS)


def find_implementations() -> set[str]:
    """Functions marked with ``hookimpl`` in what is built in and in first-party plugins."""
    files = [*(ROOT / "qup/builtin").rglob("*.py"), *(ROOT / "plugins").glob("*/qup_*/**/*.py")]
    return {
        node.name
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(mark, ast.Name) and mark.id == "hookimpl" for mark in node.decorator_list
        )
    }


@pytest.mark.parametrize("hook", HOOKS)
def test_a_plugin_of_ours_uses_the_hook(hook: str) -> None:
    assert hook in find_implementations()


def test_the_order_in_which_hooks_are_called() -> None:
    called: list[str] = []

    def watch(hook: str) -> Any:
        def call() -> list[Any]:
            called.append(hook)
            return []

        return call

    def amend(plan: Any) -> None:
        called.append("qup_amend_plan")

    hooks = {kind.hook: watch(kind.hook) for kind in KINDS.values()}
    make_plan("", plugin(qup_amend_plan=amend, **hooks))
    assert called == [
        "qup_network_modes",  # the Qupfile's tables are checked
        "qup_box_sources",
        "qup_accelerators",
        "qup_guest_seeders",
        "qup_amend_plan",
    ]


def test_plugins_are_asked_in_order_whatever_they_wish() -> None:
    asked: list[str] = []

    def asker(name: str, **wish: bool) -> Any:
        def qup_checks() -> list[Check]:
            asked.append(name)
            return [Check(name, "A check", lambda _: [])]

        return SimpleNamespace(__name__=name, qup_checks=hookimpl(**wish)(qup_checks))

    plugins = plugins_with(asker("one", trylast=True), asker("two"), asker("three", tryfirst=True))
    names = list(plugins.checks)
    assert asked == ["one", "two", "three"]
    assert names[0] == "python"  # of what is built in
    assert names[-3:] == ["one", "two", "three"]


def test_what_is_built_in_is_a_plugin() -> None:
    plugins = Plugins(installed=False)
    plugins.collect_all()
    assert tuple(plugins.plugins) == BUILTIN
    assert plugins.failures == []
    assert all(item.builtin and item.brings for item in plugins.plugins.values())
    assert plugins.provider("accelerator", "kvm") == "qup.builtin.accelerators"
    assert plugins.provider("accelerator", "warp") is None


def test_each_is_asked_once() -> None:
    calls: list[int] = []
    plugins = plugins_with(plugin(qup_network_modes=lambda: calls.append(1) or [Mode()]))
    for _ in range(3):
        plugins.collect_all()
        assert "mine" in plugins.network_modes
    assert calls == [1]


# --- names --------------------------------------------------------------------------------


def test_two_that_bring_the_same() -> None:
    one = plugin("qup-one", qup_network_modes=modes("lan", "one"))
    two = plugin("qup-two", qup_network_modes=modes("lan", "two"))
    three = plugin("qup-three", qup_network_modes=modes("lan"))
    plugins = plugins_with(one, two, three)
    assert list(plugins.network_modes) == [*MODES, "one", "two"]
    words = "network mode 'lan' is brought by qup-one and by qup-two and by qup-three"
    assert said(plugins) == [
        f"plugin {name} failed in qup_network_modes: {words}"
        for name in ("qup-one", "qup-two", "qup-three")
    ]
    reason = plugins.explain_missing("network mode", "lan")
    assert reason == f"{words}; uninstall all but one"
    assert plugins.explain_missing("network mode", "other") is None
    assert plugins.plugins["qup-one"].brings == ["network mode one"]


def test_one_that_brings_the_same_twice() -> None:
    plugins = plugins_with(plugin(qup_network_modes=modes("lan", "lan")))
    assert "lan" not in plugins.network_modes
    assert said(plugins) == [
        (
            "plugin qup-test failed in qup_network_modes: network mode 'lan' is brought by qup-test"
            " twice"
        )
    ]


def test_a_built_in_keeps_its_name() -> None:
    late = SimpleNamespace(
        __name__="qup-late", qup_network_modes=hookimpl(trylast=True)(modes("user", "mine"))
    )
    plugins = plugins_with(late)
    assert plugins.provider("network mode", "user") == "qup.builtin.network_user"
    assert "mine" in plugins.network_modes
    assert said(plugins) == [
        "plugin qup-late failed in qup_network_modes: network mode 'user' is built in"
    ]


def test_reserved_words() -> None:
    plugins = plugins_with(
        plugin(
            qup_accelerators=lambda: [Accelerator("auto")],
            qup_commands=lambda: [Command("up", "Up.", print), Command("hi", "Hi.", print)],
        )
    )
    plugins.reserve("command", ["up"])
    assert list(plugins.commands) == ["hi"]
    assert said(plugins) == [
        "plugin qup-test failed in qup_commands: command 'up': the word is qup's own",
        "plugin qup-test failed in qup_accelerators: accelerator 'auto': the word is qup's own",
    ]


def test_two_plugins_of_one_name() -> None:
    plugins = plugins_with(
        plugin("same", qup_network_modes=modes("one")),
        plugin("same", qup_network_modes=modes("two")),
    )
    assert list(plugins.network_modes) == [*MODES, "one", "two"]
    assert list(plugins.plugins)[-2:] == ["same", "same:2"]


# --- folder types -------------------------------------------------------------------------


NFS = Share("nfs4", source="server:/x")


@dataclass
class FolderKind:
    name: str = "mine"
    summary: str = "a way"
    priority: int = 50
    answer: Any = NFS

    def problems(self, host: Any, program: str) -> list[Any]:
        return []

    def share(self, folder: Any) -> Any:
        return self.answer


class Both(FolderKind):
    def send(self, guest: Any, parcel: Any) -> None: ...


FOLDER = '[[machine.folders]]\nhost = "."\nguest = "/srv/app"\n'


def folder_type(item: FolderKind) -> Any:
    return plugin("qup-way", qup_folder_types=lambda: [item])


def test_a_folder_type_is_looked_at_by_its_priority() -> None:
    (folder,) = make_plan(FOLDER, folder_type(FolderKind(priority=500))).folders
    assert "not mine: box tiny has no driver for it; not virtiofs: " in folder.reason
    (folder,) = make_plan(FOLDER, folder_type(FolderKind(priority=-1))).folders
    assert "mine" not in folder.reason
    text = FOLDER + 'type = "mine"\n'
    (folder,) = make_plan(text, folder_type(FolderKind(priority=-1))).folders
    assert (folder.type, folder.source, folder.mounted) == ("mine", "server:/x", True)
    with pytest.raises(ConfigError) as caught:
        make_plan(text + "delete = true\n", folder_type(FolderKind()))
    assert "'delete' is for folders that are copied, and 'mine' mounts" in str(caught.value.details)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (FolderKind("copy"), "folder type 'copy': the word is qup's own"),
        (Both(), "folder type 'mine' has no share or send, and only one of them"),
        (Mode(), "folder type 'mine' has no share or send, and only one of them, no priority"),
        (FolderKind("tar"), "folder type 'tar' is built in"),
    ],
)
def test_what_is_no_folder_type(item: Any, words: str) -> None:
    (line,) = said(plugins_with(folder_type(item)))
    assert words in line


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "it returned None, which is not Share"),
        (Share(""), "kind is empty"),
        (Share("nfs"), "neither a backend nor a source"),
        (Share("x", backend={"fsdriver": "local"}), "device no 'driver'"),
    ],
)
def test_a_share_that_can_not_be_mounted_names_its_plugin(answer: Any, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        make_plan(FOLDER, folder_type(FolderKind(priority=500, answer=answer)))
    assert "folder type mine of plugin qup-way failed in share" in caught.value.message
    assert words in caught.value.message


# --- what is taken, and what isn't --------------------------------------------------------


class Awkward:
    """Everything about it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("hands off")

    def __repr__(self) -> str:
        raise RuntimeError("don't look")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "TypeError: it returned None, which is not a list"),
        ("lan", "TypeError: it returned 'lan', which is not a list"),
        (Mode(), "which is not a list"),
        ([Mode("Upper")], "network mode 'Upper': a name has lower case"),
        ([Mode("")], "network mode ''"),
        ([Mode("a" * 41)], "a name has lower case"),
        ([Mode("lan\n")], "a name has lower case"),
        ([Mode(name=7)], "network mode 7: a name"),  # type: ignore[arg-type]
        ([object()], "is no network mode: it has no name"),
        ([SimpleNamespace(name="x")], "network mode 'x' has no problems, no plan, no summary, no"),
        ([Mode(options=dict)], "network mode 'mine' has no options, or of the wrong type"),  # type: ignore[arg-type]
        ([Awkward()], "RuntimeError: "),
    ],
)
def test_nonsense_is_not_taken(answer: Any, words: str) -> None:
    plugins = plugins_with(plugin("qup-odd", qup_network_modes=lambda: answer), plugin(
        "qup-good", qup_network_modes=modes("good")))  # fmt: skip
    assert list(plugins.network_modes) == [*MODES, "good"]
    (line,) = said(plugins)
    assert line.startswith("plugin qup-odd failed in qup_network_modes: ")
    assert words in line
    assert "\n" not in line


def test_a_bool_is_no_priority() -> None:
    plugins = plugins_with(plugin(qup_accelerators=lambda: [Accelerator(priority=True)]))
    assert "mine" not in plugins.accelerators
    reason = plugins.explain_missing("accelerator", "mine")
    assert reason is not None
    assert "has no priority" in reason


def raiser(exc: BaseException) -> Callable[..., Any]:
    def call() -> Any:
        raise exc

    return call


@pytest.mark.parametrize("exc", [ValueError("two\nlines"), SystemExit(3), RecursionError()])
def test_a_registration_that_raises(exc: BaseException) -> None:
    plugins = plugins_with(
        plugin("qup-bad", qup_network_modes=raiser(exc)),
        plugin("qup-good", qup_network_modes=modes("good")),
    )
    assert list(plugins.network_modes) == [*MODES, "good"]
    (line,) = said(plugins)
    assert line.startswith(f"plugin qup-bad failed in qup_network_modes: {type(exc).__name__}")
    assert "\n" not in line
    assert "Traceback" in plugins.failures[0].log
    assert plugins.explain_missing("network mode", "other") == line
    assert plugins.explain_missing("provisioner", "other") is None


def test_a_generator_that_breaks_off_brings_nothing() -> None:
    def halfway() -> Iterator[Mode]:
        yield Mode()
        raise OSError("no more")

    plugins = plugins_with(plugin(qup_network_modes=halfway))
    assert list(plugins.network_modes) == [*MODES]


def test_ctrl_c_is_the_users() -> None:
    plugins = plugins_with(plugin(qup_network_modes=raiser(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        plugins.collect_all()


def test_what_a_plugin_prints_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    plugins_with(plugin(qup_checks=lambda: print("hello") or [])).collect_all()
    assert capsys.readouterr() == ("", "hello\n")


def test_many_suspects_are_listed_by_name() -> None:
    bad = [plugin(f"qup-{n}", qup_network_modes=raiser(OSError())) for n in ("a", "b", "c")]
    reason = plugins_with(*bad).explain_missing("network mode", "other")
    assert reason == (
        "it may come from a broken plugin: qup-a, qup-b, qup-c; 'qup plugins list' says more"
    )


# --- loading ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "its entry point leads to None"),
        (SimpleNamespace(), "it implements no hook of qup's"),
        (SimpleNamespace(qup_checks=list), "qup_checks: not marked with @hookimpl"),
        (plugin(qup_chekcs=nothing), "qup has no hook qup_chekcs; is it qup_checks?"),
        (plugin(qup_checks=lambda konfig: []), "Argument(s) {'konfig'} are declared"),
        (
            SimpleNamespace(qup_checks=hookimpl(wrapper=True)(lambda: (yield))),
            "qup_checks can't be wrapped",
        ),
    ],
    ids=["none", "empty", "unmarked", "misspelt", "argument", "wrapper"],
)
def test_a_plugin_that_does_not_fit(module: Any, words: str) -> None:
    plugins = Plugins(installed=False)
    plugins.add(module, "qup-odd", "1.0")
    plugins.add(plugin(qup_network_modes=modes("good")), "qup-good", "1.0")
    assert "good" in plugins.network_modes
    (line,) = said(plugins)
    assert line.startswith("plugin qup-odd could not be loaded: ")
    assert words in line
    assert "\n" not in line
    assert plugins.plugins["qup-odd"].version == "1.0"


def test_a_hook_of_a_newer_qup() -> None:
    @hookimpl(optionalhook=True)
    def qup_of_tomorrow() -> None: ...

    module = SimpleNamespace(qup_of_tomorrow=qup_of_tomorrow, qup_checks=hookimpl(nothing))
    assert said(plugins_with(module)) == []


class FakePoint(SimpleNamespace):
    def load(self) -> Any:
        if isinstance(self.target, BaseException):
            raise self.target
        return self.target


class FakeDistribution(SimpleNamespace):
    """As importlib.metadata has it; its entry points may be an error."""

    @property
    def entry_points(self) -> Any:
        if isinstance(self.points, BaseException):
            raise self.points
        points = [FakePoint(name=name, target=target) for name, target in self.points.items()]
        return SimpleNamespace(select=lambda group: points)


def installed(monkeypatch: pytest.MonkeyPatch, **points: Any) -> Plugins:
    found = [FakeDistribution(name=key, version="1", points=item) for key, item in points.items()]
    monkeypatch.setattr(registry_module, "find_distributions", lambda: found)
    return Plugins()


def test_distributions_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = installed(
        monkeypatch,
        damaged=UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        exits={"x": SystemExit(2)},
        explodes={"x": ImportError("no such thing")},
        good={"x": plugin(qup_network_modes=modes("good"))},
        pair={
            "b": plugin(qup_network_modes=modes("pair-b")),
            "a": plugin(qup_network_modes=modes("pair-a")),
        },
    )
    assert list(plugins.network_modes) == [*MODES, "good", "pair-a", "pair-b"]
    assert list(plugins.plugins)[len(BUILTIN) :] == [
        "damaged", "exits", "explodes", "good", "pair:a", "pair:b"
    ]  # fmt: skip
    assert [failure.plugin for failure in plugins.failures] == ["damaged", "exits", "explodes"]
    assert {failure.where for failure in plugins.failures} == {"import"}


def test_the_same_module_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    module = plugin(qup_network_modes=modes("mine"))
    plugins = installed(monkeypatch, pair={"a": module, "b": module})
    assert "mine" in plugins.network_modes
    assert said(plugins) == [
        "plugin pair:b could not be loaded: its entry point leads to what is loaded already"
    ]


def test_damaged_metadata_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"Metadata-Version: 2.1\nVersion: 1\nName: "
    for name, meta, text in [
        ("garbled", head + b"garbled", b"[qup]\n\xff\xfe"),
        ("nameless", None, b"[qup]\nx = os\n"),
        ("other", head + b"other", b"[console_scripts]\nx = os\n"),
        ("zebra", head + b"zebra", b"[qup]\nx = os\n"),
        ("ant", head + b"ant", b"[qup]\nx = os\n"),
    ]:
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        if meta is not None:
            (info / "METADATA").write_bytes(meta)
        (info / "entry_points.txt").write_bytes(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "nowhere"), *sys.path[:1]])
    names = [item.name for item in registry_module.find_distributions()]
    assert [name for name in names if name in ("ant", "garbled", "other", "zebra")] == [
        "ant", "zebra"
    ]  # fmt: skip


@pytest.mark.parametrize("words", [("status",), ("down",), ("ssh-config",), ("list",)])
def test_commands_that_need_no_plugins_load_none(
    words: tuple[str, ...], project: Callable[..., Path]
) -> None:
    project("[machine]\n")
    code = (
        "import sys; from qup.cli.main import run; run(sys.argv[1:]);"
        "sys.exit('qup.plugins' in sys.modules or 'pluggy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], env=path(), check=False)
    assert done.returncode == 0


def test_plugins_come_without_pydantic_and_pytest() -> None:
    code = (
        "import sys; from qup.plugins import Plugins; Plugins(installed=False).commands;"
        "sys.exit('pydantic' in sys.modules or 'pytest' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=path(), check=False).returncode == 0


def path() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_only_the_kit_imports_pytest() -> None:
    found = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "qup").rglob("*.py")
        if "import pytest" in file.read_text()
    }
    assert found == {"qup/testing.py"}


# --- at work ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ValueError("boom\nboom"), "ValueError: boom boom"),
        (SystemExit(3), "SystemExit: 3"),
        (None, "TypeError: it returned None, which is not NicPlan"),
        (NicPlan({}), "TypeError: netdev has no 'type'"),
        (NicPlan({"type": 1}), "TypeError: netdev has no 'type'"),  # type: ignore[dict-item]
        (NicPlan({"type": "user"}, forwards=("8080:80",)), "TypeError: forwards has"),  # type: ignore[arg-type]
        (
            NicPlan({"type": "user"}, actions=(HostAction("touch x", "rm x"),)),  # type: ignore[arg-type]
            "TypeError: actions has",
        ),
        (NicPlan({"type": "user"}, actions=(HostAction(("a",), ()),)), "TypeError: actions has"),
    ],
)
def test_a_method_that_fails_is_named(answer: Any, words: str) -> None:
    odd = plugin("qup-odd", qup_network_modes=lambda: [Mode(answer=answer)])
    with pytest.raises(PluginError) as caught:
        make_plan('[machine.network]\nmode = "mine"', odd)
    message = caught.value.message
    assert message.startswith("network mode mine of plugin qup-odd failed in plan: ")
    assert words in message
    assert "\n" not in message
    assert "pip uninstall qup-odd" in str(caught.value.hint)
    if isinstance(answer, BaseException):
        assert str(caught.value.details).startswith(f"{__file__}, line ")


def test_an_error_of_ours_passes_the_fence() -> None:
    odd = plugin(qup_network_modes=lambda: [Mode(answer=ProvisionError("as it is"))])
    with pytest.raises(ProvisionError, match="as it is"):
        make_plan('[machine.network]\nmode = "mine"', odd)


def test_the_fence_lets_attributes_through() -> None:
    plugins = plugins_with(plugin(qup_network_modes=lambda: [Mode()]))
    mode = plugins.network_modes["mine"]
    assert (mode.name, mode.summary, mode.options) == ("mine", "a mode", Settings)
    assert "qup-test" in repr(mode)
    assert mode.problems(None, None) == ()  # type: ignore[arg-type]


def test_a_check_that_raises_names_its_plugin() -> None:
    def look(host: Any) -> list[Finding]:
        raise OSError("it is dark")

    plugins = plugins_with(plugin("qup-odd", qup_checks=lambda: [Check("dark", "Light", look)]))
    with pytest.raises(PluginError, match="check dark of plugin qup-odd failed in run: OSError"):
        plugins.checks["dark"].run(None)  # type: ignore[arg-type]


# --- contributions ------------------------------------------------------------------------


def test_contributions_carry_their_plugins_name() -> None:
    def one(config: Any) -> ExtraArguments:
        return ExtraArguments(("-name", config.name), "somebody else")

    plan = make_plan(
        '[machine.qemu]\nargs = ["-S"]',
        plugin("qup-one", qup_amend_plan=one),
        plugin("qup-none", qup_amend_plan=lambda: None),
        plugin("qup-two", qup_amend_plan=lambda plan: ExtraArguments((plan.cpu,), "")),
    )
    assert [(item.words, item.origin) for item in plan.extra] == [
        (("-S",), "qemu.args"),
        (("-name", "default"), "plugin qup-one"),
        (("max,-la57",), "plugin qup-two"),
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("-S", "it returned '-S', which is not ExtraArguments or None"),
        (ExtraArguments("-S", ""), "which is not a list of str"),  # type: ignore[arg-type]
        (ExtraArguments((1,), ""), "which is not a list of str"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_contribution_stops_the_plan(answer: Any, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        make_plan("", plugin("qup-odd", qup_amend_plan=lambda: answer))
    assert caught.value.message.startswith("plugin qup-odd failed in qup_amend_plan: TypeError")
    assert words in caught.value.message


# --- observations -------------------------------------------------------------------------


def test_observers_are_told_and_can_do_no_harm() -> None:
    heard: list[str] = []
    plugins = plugins_with(
        plugin("qup-bad", qup_event=lambda event: {}[event.machine]),
        plugin("qup-exits", qup_event=lambda: sys.exit(3)),
        plugin("qup-good", qup_event=lambda event: heard.append(event.machine)),
    )
    first = plugins.notify(Event("web"))
    assert [failure.plugin for failure in first] == ["qup-bad", "qup-exits"]
    assert str(first[0]) == "plugin qup-bad failed in qup_event: KeyError: 'web'"
    assert plugins.notify(Event("web")) == ()  # once is enough for a log
    assert heard == ["web", "web"]


def test_an_observer_that_raises_is_logged(sandbox: Any) -> None:
    project = Project(sandbox.root)
    folder = create_folders(project, "web")
    context = Context(project)
    vars(context)["plugins"] = plugins_with(
        plugin("qup-bad", qup_event=lambda event: {}[event.machine])
    )
    context.emit(Event("web"))
    assert "plugin qup-bad failed in qup_event: KeyError: 'web'" in folder.log("qup").read_text()


def test_a_needed_plugin_that_is_broken_is_named_in_the_qupfiles_error() -> None:
    bad = plugin("qup-bad", qup_network_modes=raiser(OSError("no network")))
    with pytest.raises(ConfigError) as caught:
        make_plan('[machine.network]\nmode = "bad"', bad)
    assert "plugin qup-bad failed in qup_network_modes: OSError" in str(caught.value.details)


def test_pluggys_own_relay_is_never_used() -> None:
    """Its order and its handling of exceptions aren't ours; see ``Plugins._implementations``."""
    source = (ROOT / "qup/plugins/registry.py").read_text()
    assert "_manager.hook." not in source
    assert pluggy.__version__ >= "1.6"
