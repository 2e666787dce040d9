"""Every setting, three ways: command line over environment over Qupfile.

One table for all of them. **Whoever adds a row to ``SETTINGS`` adds one here**: a test fails
until it is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qup.cli.main import run
from qup.cli.settings import translate_words
from qup.errors import UsageError
from qup.model.settings import BY_KEY, NO, SETTINGS, YES, Kind, Setting, parse_switch

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True)
class Row:
    """A setting's values.

    Attributes:
        key: the setting.
        given: the value in the Qupfile (as TOML), in the environment, and on the command line.
        read: what each of the three is read as, as ``plan --explain --json`` shows it.
        besides: what else the Qupfile has to say, such as the network mode.
    """

    key: str
    given: tuple[str, str, str]
    read: tuple[object, object, object]
    besides: str = ""


TAP, BRIDGE = 'network.mode = "tap"', 'network.mode = "bridge"'

TABLE = [
    Row("box", ('"one"', "two", "./three.img"), ("one", "two", "./three.img")),
    Row("cpus", ("1", "2", "3"), (1, 2, 3)),
    Row("memory", ('"1G"', "512", "768M"), (GIB, 512 * MIB, 768 * MIB)),
    Row("disk", ('"3G"', "20000", "4G"), (3 * GIB, 20000 * MIB, 4 * GIB)),
    Row("hostname", ('"one"', "two", "three"), ("one", "two", "three")),
    Row("boot-timeout", ('"1m"', "90", "2m"), (60, 90, 120)),
    Row("templates", ("true", "no", "yes"), (True, False, True)),
    Row("userdata", ('"one"', "/two", "/three"), ("one", "/two", "/three")),
    Row("seeder", ('"nocloud"', "none", "config-2"), ("nocloud", "none", "config-2")),
    Row("ssh.user", ('"one"', "two", "three"), ("one", "two", "three")),
    Row("network.mode", ('"user"', "tap", "bridge"), ("user", "tap", "bridge")),
    Row("network.interface", ('"one"', "two", "three"), ("one", "two", "three"), TAP),
    Row(
        "network.address",
        ('"192.0.2.1"', "192.0.2.2", "192.0.2.3"),
        ("192.0.2.1", "192.0.2.2", "192.0.2.3"),
        TAP,
    ),
    Row("network.bridge", ('"one"', "two", "three"), ("one", "two", "three"), BRIDGE),
    Row(
        "network.ports",
        ('"1-2"', "40000-40009", "40010-40019"),
        ("1-2", "40000-40009", "40010-40019"),
    ),
    Row(
        "qemu.program",
        ('"qemu-system-x86_64"', "/one/two", "qemu-system-i386"),
        ("qemu-system-x86_64", "/one/two", "qemu-system-i386"),
    ),
    Row("qemu.accelerator", ('"kvm"', "auto", "tcg"), ("kvm", "auto", "tcg")),
    Row("qemu.machine", ('"pc"', "q35", "pc"), ("pc", "q35", "pc")),
    Row("qemu.firmware", ('"bios"', "uefi", "bios"), ("bios", "uefi", "bios")),
    Row("qemu.virtio-drives", ("true", "no", "true"), (True, False, True)),
    Row("qemu.cache", ('"none"', "unsafe", "directsync"), ("none", "unsafe", "directsync")),
    Row("qemu.io", ('"threads"', "io_uring", "default"), ("threads", "io_uring", "default")),
    Row("qemu.cpu", ('"max"', "qemu64", "max,-svm"), ("max", "qemu64", "max,-svm")),
    Row("qemu.display", ("true", "vnc", "vnc=:1"), ("auto", "vnc", "vnc=127.0.0.1:1")),
    Row("qemu.nographic", ("false", "1", "no"), (False, True, False)),
]

ROWS = {row.key: row for row in TABLE}


@pytest.fixture
def explain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """What ``qup plan --explain`` says about the keys of machine ``default``."""

    def call(qupfile: str, env: dict[str, str], *words: str) -> dict[str, Any]:
        (tmp_path / "Qupfile").write_text(qupfile)
        monkeypatch.chdir(tmp_path)
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            code = run(["plan", "--explain", "--json", *words])
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
        found: dict[str, Any] = json.loads(said.out)["machines"]["default"]
        return found

    return call


def write_qupfile(row: Row) -> str:
    return f"[machine]\n{row.key} = {row.given[0]}\n{row.besides}\n"


def words_for(setting: Setting, option: str, text: str) -> list[str]:
    """The words that give a setting a value by one of its options, old or new."""
    if setting.kind is not Kind.SWITCH:
        return [option, text]
    if parse_switch(text):
        return [option]
    return [f"{option}=false" if option == setting.old else f"--no-{option[2:]}"]


def test_no_setting_is_missing_in_the_table() -> None:
    missing = [item.key for item in SETTINGS if item.key not in ROWS]
    assert not missing, f"add to TABLE in {Path(__file__).name}: {', '.join(missing)}"
    assert set(ROWS) == set(BY_KEY)


def test_no_name_is_taken_twice() -> None:
    for names in (
        [name for item in SETTINGS for name in item.variables],
        [name for item in SETTINGS for name in item.options],
        [name for item in SETTINGS for name in (item.old, item.old_switch[0]) if name],
    ):
        assert len(names) == len(set(names))
    assert all(item.old.startswith(("--qemu-", "")) for item in SETTINGS)


@pytest.mark.parametrize("key", ROWS)
def test_command_line_beats_environment_beats_qupfile(
    key: str, explain: Callable[..., dict[str, Any]]
) -> None:
    row, setting = ROWS[key], BY_KEY[key]
    text = write_qupfile(row)
    _, env, cli = row.given
    found = explain(text, {})[key]
    assert (found["value"], found["layer"]) == (row.read[0], "Qupfile")
    for variable in setting.variables:
        found = explain(text, {variable: env})[key]
        assert found == {"value": row.read[1], "layer": "environment", "where": variable}
        without = explain("[machine]\n" + row.besides, {variable: env})[key]
        assert without == found
    every = dict.fromkeys(setting.variables, env)
    assert explain(text, every)[key]["where"] == setting.env
    for option in filter(None, (*setting.options, setting.old)):
        found = explain(text, every, *words_for(setting, option, cli))[key]
        assert found == {"value": row.read[2], "layer": "command line", "where": setting.flag}
    empty = dict.fromkeys(setting.variables, "")
    assert explain(text, empty)[key]["layer"] == "Qupfile"


# -- switches -------------------------------------------------------------------------------

SWITCH = Setting(
    "primary", "QUP_X", "--x", "", "", kind=Kind.SWITCH, old="--qemu-x", flags=("--x-x",)
)
CHOICE = Setting("box", "QUP_C", "--c", "", "", old="--qemu-c-type", old_switch=("--qemu-c", "any"))


@pytest.fixture
def odd_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (SWITCH, CHOICE)
    monkeypatch.setattr("qup.qupfile.layers.SETTINGS", rows)
    monkeypatch.setattr("qup.qupfile.layers.BY_KEY", {row.key: row for row in rows})
    monkeypatch.setattr("qup.cli.settings.SETTINGS", rows)
    monkeypatch.setattr("qup.cli.settings._OLD", {row.old: row for row in rows})


@pytest.mark.parametrize("word", [*YES, "YES", " On "])
def test_words_that_turn_a_switch_on(word: str) -> None:
    assert parse_switch(word) is True


@pytest.mark.parametrize("word", [*NO, "No", "OFF "])
def test_words_that_turn_a_switch_off(word: str) -> None:
    assert parse_switch(word) is False


@pytest.mark.usefixtures("odd_settings")
def test_a_switch_from_the_environment() -> None:
    from qup.qupfile.layers import read_environment
    from qup.qupfile.problems import Collector, QupfileErrors

    assert read_environment({"QUP_X": "no"}, Collector()).data == {"primary": False}
    problems = Collector()
    assert read_environment({"QUP_X": "maybe"}, problems).data == {}
    with pytest.raises(QupfileErrors) as caught:
        problems.check()
    (found,) = caught.value.problems
    assert found.where == "environment QUP_X"
    assert found.message == "'maybe' is neither yes nor no"
    assert found.hint == "write 1, true, yes, on; or 0, false, no, off"


@pytest.mark.usefixtures("odd_settings")
@pytest.mark.parametrize(
    ("words", "new"),
    [
        ("--qemu-x web", "--x web"),
        ("--qemu-x=true", "--x"),
        ("--qemu-x=0 a", "--no-x a"),
        ("--qemu-c-type=a", "--c=a"),
        ("--qemu-c-type a", "--c a"),
        ("web --qemu-c", "web --c=any"),
        ("--qemu-c=false", ""),
        ("--qemu-c --qemu-c=no", ""),
        ("--qemu-c-type a --qemu-c", "--c a"),
        ("--qemu-c --c=a", "--c=a"),
        ("--qemux --qemu", "--qemux --qemu"),
        ("a -- --qemu-x", "a -- --qemu-x"),
    ],
)
def test_old_spellings(words: str, new: str) -> None:
    assert translate_words(words.split(), {}) == new.split()


@pytest.mark.usefixtures("odd_settings")
def test_an_old_switch_leaves_the_value_to_a_variable() -> None:
    assert translate_words(["--qemu-c"], {"QUP_C": "sdl"}) == []


@pytest.mark.usefixtures("odd_settings")
def test_a_switch_with_an_odd_word() -> None:
    with pytest.raises(UsageError, match=r"--qemu-x: 'maybe' is neither yes nor no"):
        translate_words(["--qemu-x=maybe"], {})


# -- help -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["up", "reload", "plan", "validate"])
def test_help_shows_every_option_but_no_old_spelling(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--qemu-" not in shown
    for setting in SETTINGS:
        for option in setting.options:
            assert option in shown
