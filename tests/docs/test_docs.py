"""The documentation agrees with the program."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sys
import tomllib
import types
from pathlib import Path

import pytest

from qup import hookspecs, paths
from qup.cli.commands import COMMANDS
from qup.model.config import Config
from qup.model.runstate import RUN_STATES
from qup.plugins import Plugins
from qup.qupfile import load, parse
from qup.runner import observe
from qup.testing import check_plugin, plugins_with
from scripts.docs import api, cli
from scripts.docs.pages import (
    ROOT,
    Code,
    anchors,
    find_code,
    find_links,
    find_pages,
    find_words,
    generated_blocks,
    render,
)

PAGES = find_pages()
CODE = [block for page in PAGES for block in find_code(page)]
REFERENCE = ROOT / "docs" / "reference"


def name_of(item: Path | Code) -> str:
    return str(item.relative_to(ROOT)) if isinstance(item, Path) else str(item)


def read(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def first_cells(text: str) -> list[str]:
    """What is set as code in the first column of a page's tables."""
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row)]


# --- pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_generated_blocks_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert render(text) == text, "'make docs' writes it anew"


def test_blocks_are_whole() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- generated: ") == len(generated_blocks(text)), page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in find_links(page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(place), f"{target}: no such heading"


def test_every_page_can_be_reached() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in find_links(index)}
    pages = {page for page in PAGES if page.is_relative_to(index.parent)} - {index}
    assert pages <= linked


# --- commands -------------------------------------------------------------------------------


def simple_commands(line: str) -> list[str]:
    """The commands of a line of shell, without pipes, lists and redirections."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    words.whitespace_split = True
    words.commenters = ""
    commands: list[list[str]] = [[]]
    skip = False
    for word in words:
        if set(word) <= set("|&;"):
            commands.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        else:
            commands[-1].append(word)
    return [shlex.join(command) for command in commands]


def typed(block: Code) -> list[str]:
    return [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("block", [b for b in CODE if b.language == "console"], ids=name_of)
def test_commands_can_be_typed(block: Code) -> None:
    lines = typed(block)
    assert lines, "a console block shows what is typed after '$ '"
    for line in lines:
        for command in simple_commands(line):
            assert cli.check_words(command) is None, command


@pytest.mark.parametrize("block", [b for b in CODE if b.language == "sh"], ids=name_of)
def test_scripts_can_be_run(block: Code) -> None:
    for line in block.text.splitlines():
        for command in simple_commands(line.partition(" #")[0]):
            assert cli.check_words(command) is None, command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page: Path) -> None:
    for text in find_words(page):
        if not re.match(r"(QUP_\w+=\S+ )?qup ", text) or "COMMAND" in text or "<Tab>" in text:
            continue
        for command in simple_commands(text):
            problem = cli.check_words(command)
            # A sentence may name a command without what it needs.
            named = ("MissingParameter", "NoArgsIsHelp", "NoCommand")
            assert problem is None or problem.startswith(named), f"{text}: {problem}"


def test_a_wrong_command_would_be_found() -> None:
    assert cli.check_words("qup uq")
    assert cli.check_words("qup up --nosuch")
    assert cli.check_words("qup logs --log nosuch")
    assert cli.check_words("qup port add 8080:80 --machine web") is None


def test_the_reference_has_every_command() -> None:
    text = read("cli.md")
    for name in COMMANDS:
        assert f"`qup {name}`" in text or f"\n## qup {name}\n" in text


# --- Qupfiles -------------------------------------------------------------------------------


def first_party() -> list[types.ModuleType]:
    """Our own plugins, installed or not."""
    folders = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return [importlib.import_module(folder.name.replace("-", "_")) for folder in folders]


def load_text(text: str, registry: Plugins) -> Config:
    return load(parse(text.encode()), registry=registry)


@pytest.mark.parametrize("block", [b for b in CODE if b.language == "toml"], ids=name_of)
def test_qupfiles_are_valid(block: Code) -> None:
    data = tomllib.loads(block.text)
    if "project" in data:  # a plugin's pyproject.toml
        assert set(data["project"]["entry-points"]) == {"qup"}
        return
    assert data.keys() <= {"machine", "machines"}
    assert load_text(block.text, plugins_with(*first_party())).machines


# --- plugins --------------------------------------------------------------------------------


PLUGINS = [
    block
    for block in find_code(ROOT / "docs" / "how-to" / "write-a-plugin.md")
    if block.language == "python"
]


def run_code(block: Code, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(block.text, name_of(block), "exec"), vars(module))
    return module


@pytest.mark.parametrize("block", PLUGINS[:-1], ids=name_of)
def test_examples_of_plugins_keep_to_the_hooks(block: Code) -> None:
    check_plugin(run_code(block, "qup_example"))


def test_examples_cover_every_hook() -> None:
    text = "\n".join(block.text for block in PLUGINS)
    for hook in api.find_hooks():
        assert f"def {hook.__name__}(" in text


def test_the_example_of_a_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qup_example", run_code(PLUGINS[-2], "qup_example"))
    tests = run_code(PLUGINS[-1], "test_example")
    for name, function in list(vars(tests).items()):
        if name.startswith("test_"):
            function()


def test_the_example_of_a_network_mode_plans() -> None:
    registry = plugins_with(run_code(PLUGINS[0], "qup_example"))
    text = '[machine.network]\nmode = "ready-tap"\ndevice = "tap7"\naddress = "192.0.2.2"'
    options = load_text(text, registry).machines["default"].network
    mode = registry.network_modes["ready-tap"]
    assert mode.plan(options, None).ssh_address == "192.0.2.2"  # type: ignore[arg-type]
    assert "tap7" in mode.problems(options, None)[0].message  # type: ignore[arg-type]


# --- what exists is described ---------------------------------------------------------------


def test_hooks() -> None:
    headings = anchors(REFERENCE / "hooks.md")
    hooks = [name for name in vars(hookspecs) if name.startswith("qup_")]
    assert len(hooks) == len(api.find_hooks()) >= 8
    assert {*hooks} <= headings
    assert {item.__name__.lower() for item in api.find_classes()} <= headings


def test_status_words() -> None:
    constants = {
        value
        for name, value in vars(observe).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    words = constants | {state.word for state in RUN_STATES.values()}
    table, _, generated = read("status.md").partition("## QEMU's run states")
    assert words == {*first_cells(table)}
    assert {*RUN_STATES} == {*first_cells(generated)}


def test_environment_variables() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "qup").rglob("*.py")
        if path.name != "testing.py"
    )
    used = {*re.findall(r"\bQUP_[A-Z0-9_]+[A-Z]\b", source)}
    documented = {word for word in first_cells(read("environment.md")) if word.startswith("QUP_")}
    assert documented == used


def test_files() -> None:
    documented = {*first_cells(read("files.md"))}
    machine = paths.Project(Path("P")).machine("NAME")
    known = {paths.QUPFILE, f"{paths.STATE_FOLDER}/"}
    known |= names_in(machine) - {"ssh", "logs", "."}
    known |= {f"ssh/{name}" for name in names_in(paths.SshFolder(machine.ssh))}
    known |= names_in(paths.RuntimeFolder(Path("R")))
    known |= {paths.trust_file().name}
    assert known <= documented
    for folder in (paths.boxes_root(), paths.index_root(), paths.undo_root()):
        assert any(word.startswith(f"{folder.name}/") for word in documented)


def names_in(folder: paths.MachineFolder | paths.SshFolder | paths.RuntimeFolder) -> set[str]:
    """The paths that it has properties for; one outside of it is the project's."""
    found: list[Path] = [
        getattr(folder, name) for name, _ in inspect.getmembers(type(folder), is_path_property)
    ]
    return {
        str(path.relative_to(folder.root if path.is_relative_to(folder.root) else "P"))
        for path in found
    }


def is_path_property(item: object) -> bool:
    return (
        isinstance(item, property)
        and item.fget is not None
        and inspect.signature(item.fget).return_annotation == "Path"
    )


# --- pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["up.svg", "licence.svg"])
def test_pictures_ask_nobody(name: str) -> None:
    text = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    foreign = re.sub(r'xmlns="[^"]+"', "", text)
    assert "//" not in foreign
    assert "@font-face" not in text


def test_the_picture_shows_a_real_run() -> None:
    text = (ROOT / "docs" / "images" / "up.svg").read_text(encoding="utf-8")
    text = text.replace("&#160;", " ")
    for words in ("qup up", "waiting for ssh", "running", "GNU/Linux", "qup destroy -y"):
        assert words in text
    assert "/home" not in text
    assert "/tmp" not in text
