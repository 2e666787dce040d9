from __future__ import annotations

import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import core_schema

from qup import qupfile
from qup.errors import ConfigError, PluginError
from qup.model.config import Config, MachineConfig, Origin
from qup.model.settings import SETTINGS
from qup.paths import Project
from qup.qupfile import Problem, QupfileErrors, explain
from qup.qupfile.layers import parse_value
from qup.qupfile.problems import MAX_PROBLEMS, clean, show_source
from tests.qupfile_registry import FakeRegistry

REGISTRY = FakeRegistry()


def load(text: str | bytes, **given: Any) -> Config:
    content = text.encode() if isinstance(text, str) else text
    document = qupfile.parse(content)
    return qupfile.load(document, registry=given.pop("registry", REGISTRY), **given)


def problems(text: str | bytes, **given: Any) -> tuple[Problem, ...]:
    with pytest.raises(QupfileErrors) as caught:
        load(text, **given)
    assert caught.value.exit_code == 4
    json.dumps(caught.value.to_dict())
    assert_plain(caught.value)
    return caught.value.problems


def assert_plain(error: QupfileErrors) -> None:
    """No control character, no word of pydantic's, no word of Python's."""
    shown = f"{error.message}\n{error.details}\n{error.hint}"
    assert all(char == "\n" or char.isprintable() for char in shown)
    said = "\n".join(f"{item.message} {item.hint}" for item in error.problems)
    for jargon in ("Input should", "Extra inputs", "pydantic", "Traceback", "dict", "tuple"):
        assert jargon not in said


def lines(text: str | bytes, **given: Any) -> list[str]:
    """``line:col message`` of each problem."""
    return [f"{item.line}:{item.col} {item.message}" for item in problems(text, **given)]


def untrusted(config: Config) -> list[qupfile.Untrusted]:
    return qupfile.untrusted(config, REGISTRY.provisioners, Path("/project"))


def one(text: str | bytes, **given: Any) -> Problem:
    (found,) = problems(text, **given)
    return found


def machine(text: str, **given: Any) -> MachineConfig:
    (found,) = load(text, **given).machines.values()
    return found


# -- what is fine ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing\n", "\ufeff", "\ufeff# x\r\n", "[machine]"]
)
def test_an_empty_file_is_one_machine_with_all_defaults(text: str) -> None:
    config = load(text)
    assert list(config.machines) == ["default"]
    found = config.machines["default"]
    assert found.settings.memory == 1024**3
    assert found.settings.cpus == 1
    assert found.hostname == "default"
    assert set(map(str, config.origins["default"].values())) == {str(Origin("default"))}


def test_a_byte_order_mark_and_crlf_shift_no_position() -> None:
    text = '[machine]\r\ncpus = "2"\r\n'
    assert lines("\ufeff" + text) == lines(text) == ['2:8 expected a whole number, got text "2"']
    assert one(text).source == 'cpus = "2"'


def test_layers_go_over_each_other() -> None:
    text = """
[machine]
cpus = 2
memory = "2G"
disk = "10G"
boot-timeout = 60
[machine.qemu]
cpu = "max"
[machines.web]
memory = "3G"
disk = "11G"
boot-timeout = 61
[machines.db]
"""
    config = load(
        text,
        environment={"QUP_DISK_SIZE": "12G", "QUP_BOOT_TIMEOUT": "62", "QUP_BOX": "", "QUP_X": "?"},
        overrides={"boot-timeout": "63", "hostname": None},
        assignments=["qemu.machine=pc"],
    )
    web, db = config.machines["web"].settings, config.machines["db"].settings
    assert (web.cpus, web.memory, web.disk) == (2, 3 * 1024**3, 12 * 1024**3)
    assert (web.boot_timeout, web.qemu.cpu, web.qemu.machine) == (63, "max", "pc")
    assert (db.cpus, db.memory, db.box) == (2, 2 * 1024**3, "tiny")
    origins = config.origins["web"]
    assert origins["cpus"] == Origin("Qupfile", "Qupfile:3:1")
    assert origins["qemu.cpu"] == Origin("Qupfile", "Qupfile:8:1")
    assert origins["memory"] == Origin("Qupfile", "Qupfile:10:1")
    assert origins["disk"] == Origin("environment", "QUP_DISK_SIZE")
    assert origins["boot-timeout"] == Origin("command line", "--boot-timeout")
    assert origins["qemu.machine"] == Origin("command line", "--set qemu.machine")
    assert origins["box"] == origins["network.forward"] == Origin("default")
    assert config.origins["db"]["memory"] == Origin("Qupfile", "Qupfile:4:1")


def test_every_leaf_has_an_origin() -> None:
    origins = load("[machine]\nprovision = [{shell = 'true'}]").origins["default"]
    assert set(origins) >= {
        "box", "cpus", "memory", "disk", "hostname", "boot-timeout", "autostart", "primary",
        "user-data", "ssh.user", "network.mode", "network.forward", "network.isolate",
        "qemu.program", "qemu.accelerator", "qemu.machine", "qemu.cpu", "qemu.args", "provision",
    }  # fmt: skip
    assert origins["provision"] == Origin("Qupfile", "Qupfile:2:1")
    assert not {"ssh", "network", "qemu"} & set(origins)


def test_a_shell_step_is_text_or_a_table() -> None:
    found = machine("[[machine.provision]]\nshell = 'id'\n[[machine.provision]]\nshell.script='x'")
    assert [use.name for use in found.provision] == ["shell", "shell"]
    assert found.provision[0].options.inline == "id"  # type: ignore[attr-defined]
    assert found.provision[1].options.script == "x"  # type: ignore[attr-defined]


def test_a_machine_with_another_mode_inherits_no_options_of_the_first() -> None:
    text = """
[machine.network]
forward = ["8080:80"]
[machines.a]
[machines.b.network]
mode = "tap"
tap = "tap0"
"""
    config = load(text)
    assert [str(item) for item in config.machines["a"].network.forward] == [  # type: ignore[attr-defined]
        "127.0.0.1:8080:80"
    ]
    assert config.machines["b"].network.tap == "tap0"  # type: ignore[attr-defined]
    assert config.origins["b"]["network.mode"] == Origin("Qupfile", "Qupfile:6:1")
    same = '[machine.network]\nmode = "tap"\ntap = "t"\n[machines.a.network]\nmode = "tap"'
    assert load(same).machines["a"].network.tap == "t"  # type: ignore[attr-defined]


def test_what_a_plugin_that_is_missing_would_need_can_be_overridden() -> None:
    text = '[machine.network]\nmode = "vde"\nswitch = 1\n'
    assert machine(text, environment={"QUP_NETWORK": "user"}).settings.network.mode == "user"


def test_user_data_of_an_upper_layer_replaces_the_file_of_a_lower_one() -> None:
    text = "[machine]\nuserdata = 'a.yml'\n[machines.a]\n[machines.b]\nuser-data = '#!x'\n"
    config = load(text)
    assert config.machines["a"].settings.userdata == "a.yml"
    assert config.machines["b"].settings.userdata is None
    assert config.machines["b"].settings.user_data == "#!x"
    config = load(text, environment={"QUP_USERDATA": "/c"})
    assert [item.settings.userdata for item in config.machines.values()] == ["/c", "/c"]
    assert config.origins["b"]["user-data"] == Origin("default")
    assert config.origins["b"]["userdata"] == Origin("environment", "QUP_USERDATA")


def test_user_data_twice_in_one_table() -> None:
    found = one("[machine]\nuserdata = 'a.yml'\nuser-data = '#!x'\n")
    assert found.message == "either 'user-data' or 'userdata': not both"
    assert found.line == 2


def test_one_digest_for_one_content() -> None:
    assert load("").digest == load("").digest != load("#").digest


# -- files (B1, B37) --------------------------------------------------------------------------


def read(tmp_path: Path) -> qupfile.Document:
    return qupfile.read(Project(tmp_path))


def read_problem(tmp_path: Path) -> Problem:
    with pytest.raises(QupfileErrors) as caught:
        read(tmp_path)
    (found,) = caught.value.problems
    return found


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("[machine]\ncpus = 2\n")
    (tmp_path / "Qupfile").symlink_to("elsewhere")
    document = read(tmp_path)
    assert document.name == "Qupfile"
    assert document.data == {"machine": {"cpus": 2}}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Qupfile"
    assert read_problem(tmp_path).message == "the file does not exist"
    path.mkdir()
    assert read_problem(tmp_path).message == "this is a folder, not a file"
    path.rmdir()
    os.mkfifo(path)
    assert read_problem(tmp_path).message == "this is a named pipe, not a file"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read_problem(tmp_path).message == "this is a device, not a file"
    path.unlink()
    path.symlink_to("nowhere")
    assert read_problem(tmp_path).message == "the link leads to nowhere, which does not exist"
    path.unlink()
    path.symlink_to("Qupfile")
    assert "can't be read" in read_problem(tmp_path).message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "Qupfile").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert read_problem(tmp_path).message == "you may not read it"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "Qupfile"
    with path.open("wb") as file:
        file.truncate(100 * 1024**3)
    assert stat.S_ISREG(path.stat().st_mode)
    assert read_problem(tmp_path).message == "the file is larger than 1 MiB"
    path.write_text("#" * qupfile.MAX_BYTES)
    assert read(tmp_path).data == {}


@pytest.mark.parametrize(
    ("content", "line", "col", "message"),
    [
        ("[machine]\n".encode("utf-16"), 1, 1, "the text is in UTF-16"),
        ("[machine]\n".encode("utf-16-le"), 1, 2, "a NUL character is no text"),
        (b"[machine]\nbox = 'x\0'", 2, 9, "a NUL character is no text"),
        ("é = 'é".encode() + b"\xff'", 1, 7, "byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbf\n#\xe9", 2, 2, "byte 0xe9 is not UTF-8"),
        (b"# \xed\xa0\x80", 1, 3, "byte 0xed is not UTF-8"),
        (b"[machine]\nmemory = 2G\n", 2, 11, "not valid TOML: expected newline or end of document"),
        (b"[machine]\nbox = tiny\n", 2, 7, "not valid TOML: invalid value"),
        (b"[machine]\nbox = 'x\n", 2, 9, "not valid TOML: the closing quote is missing"),
        (b"[machine\n", 1, 9, "not valid TOML: expected ']'"),
        (b"[machine]\r\n\r\nbox: 3\r\n", 3, 4, "not valid TOML: expected '='"),
        (b"a = 3\nb = \x1b[31m", 2, 5, "not valid TOML: invalid value"),
        (b"a = " + b"[" * 100_000, 1, 37, "this is nested more than 32 levels deep"),
        (b"a." * 100_000 + b"a = 1", 1, 66, "this is nested more than 32 levels deep"),
        (b"[machine]\ncpus = " + b"9" * 5000, 2, 8, "this number has too many digits"),
        (b"[machine]\ncpus = 9223372036854775808", 2, 8, "this number does not fit into 64 bits"),
        (b"[machine]\ncpus = 0x" + b"f" * 9000, 2, 8, "this number does not fit into 64 bits"),
        (b'[machine]\nbox = "a\\u0000b"', 2, 7, "text can't contain a NUL character"),
        (b'[machine]\n"a\\u0000b" = 1', 2, 1, "a key can't contain a NUL character"),
    ],
    ids=lambda value: None if isinstance(value, bytes | int) else value,
)
def test_text_that_is_no_qupfile(content: bytes, line: int, col: int, message: str) -> None:
    found = one(content)
    assert (found.line, found.col) == (line, col)
    assert found.message.startswith(message)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[machine]\ncpus = 1\ncpus = 2", "3:1 'machine.cpus' is given twice; line 2 has it"),
        ("[machines.a]\n[machines.b]\n[machines.a]", "3:11 'machines.a' is given twice; line 1"),
        ("[machine]\n[machine]", "2:2 'machine' is given twice; line 1 has it already"),
        ("[machine]\nssh.user='a'\nssh = {}", "3:"),
        ("[machine]\nqemu = {cpu='a', cpu='b'}", "2:18 'machine.qemu.cpu' is given twice"),
    ],
)
def test_keys_given_twice_b3(text: str, found: str) -> None:
    assert lines(text)[0].startswith(found)


# -- names (B3, B5) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "-rf", "--help", " x", "x ", "x\n", "🙂", "é", "a" * 64, "con", "lpt1",
     "localhost", "\u202etxt", "A", "a_b", "a.b", "x-", "a,b", "%s", "$(id)", "\x1b[31m",
     "a\u0661"],
)  # fmt: skip
def test_odd_machine_names_are_refused_at_their_place(name: str) -> None:
    found = one(f"[machine]\ncpus = 1\n[machines.{json.dumps(name, ensure_ascii=False)}]\n")
    assert (found.line, found.col) == (3, 11)
    assert "is not a machine's name" in found.message


@pytest.mark.parametrize("name", ["a", "0", "web-1", "a" * 63, "console", "com"])
def test_plain_machine_names_are_fine(name: str) -> None:
    assert list(load(f"[machines.{name}]").machines) == [name]


def test_names_that_differ_in_case_are_refused() -> None:
    found = one("[machines.a]\n[machines.A]")
    assert (found.line, found.message) == (2, "'A' is not a machine's name")
    assert found.hint == "did you mean 'a'?"


def test_too_many_machines() -> None:
    many = "\n".join(f"[machines.m{number}]" for number in range(1001))
    assert "1001 machines are too many" in one(many).message
    enough = "\n".join(f"[machines.m{number}]" for number in range(1000))
    assert len(load(enough).machines) == 1000


# -- values (B9, B11, B35, B41, B45) -----------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("memory = 0", "2:10 0 is too small: the least is 16M"),
        ("memory = -1", "2:10 -1 is too small: the least is 16M"),
        ("memory = 1", "2:10 1 is too small: the least is 16M"),
        ('memory = "1"', "2:10 1 is too small: the least is 16M"),
        ('memory = "1e9"', "2:10 '1e9' is not a size"),
        ("memory = 1e9", '2:10 a size is text such as "512M" or "2G", or a whole number of MiB'),
        ("memory = 1e99", "2:10 a size is text"),
        ("memory = nan", "2:10 a size is text"),
        ("memory = inf", "2:10 a size is text"),
        ('memory = "0x10"', "2:10 '0x10' is not a size"),
        ('memory = "NaN"', "2:10 'NaN' is not a size"),
        ('memory = "１G"', "2:10 '１G' is not a size"),
        ('memory = "-1G"', "2:10 '-1G' is not a size"),
        ('memory = "2G\\n"', "2:10 '2G\\n' is not a size"),
        ('memory = ""', "2:10 '' is not a size"),
        ('memory = "8T"', "2:10 8T is too large: the most is 4T"),
        ("memory = 9223372036854775807", "2:10 9223372036854775807 is too large"),
        ("memory = true", "2:10 a size is text"),
        ("memory = []", "2:10 a size is text"),
        ("disk = 0", "2:8 0 is too small: the least is 1M"),
        ('disk = "8E"', "2:8 '8E' is not a size"),
        ('disk = "999999T"', "2:8 999999T is too large: the most is 64T"),
        ('cpus = "2"', '2:8 expected a whole number, got text "2"'),
        ("cpus = 2.0", "2:8 expected a whole number, got the number 2.0"),
        ("cpus = nan", "2:8 expected a whole number, got the number nan"),
        ("cpus = 1e99", "2:8 expected a whole number, got a large number"),
        ("cpus = true", "2:8 expected a whole number, got true"),
        ("cpus = 0", "2:8 0 is too small: the least is 1"),
        ("cpus = 9223372036854775807", "2:8 9223372036854775807 is too large: the most is 1024"),
        ("cpus = 1979-05-27", "2:8 expected a whole number, got a date"),
        ("cpus = 07:32:00", "2:8 expected a whole number, got a time"),
        ("cpus = {}", "2:8 expected a whole number, got a table"),
        ('autostart = "no"', '2:13 expected true or false, got text "no"'),
        ("autostart = 1", "2:13 expected true or false, got the number 1"),
        ('primary = "on"', '2:11 expected true or false, got text "on"'),
        ("box = 3", "2:7 expected text in quotes, got the number 3"),
        ('seeder = "nosuch"', "2:10 unknown guest seeder 'nosuch'"),
        ("hostname = 'a_b'", "2:12 'a_b' is not a host name"),
        ("hostname = '-a'", "2:12 '-a' is not a host name"),
        ("hostname = '" + "a." * 130 + "a'", "2:12 'a.a.a"),
        ('hostname = "a\\nb"', "2:12 'a\\nb' is not a host name"),
        ("boot-timeout = 0", "2:16 0 is out of range"),
        ("boot-timeout = nan", "2:16 nan is out of range"),
        ("boot-timeout = 'soon'", "2:16 'soon' is not a duration"),
        ("boot-timeout = '25h'", "2:16 25h is out of range"),
        ("boot-timeout = true", "2:16 a duration is text"),
        ("ssh = 'me'", "2:7 expected a table, got text \"me\""),
        ("ssh.user = '-oProxyCommand=x'", "2:12 '-oProxyCommand=x' is not a user name"),
        ("ssh.user = 'a b'", "2:12 'a b' is not a user name"),
        ("ssh.user = 'root;id'", "2:12 'root;id' is not a user name"),
        ("ssh.user = ''", "2:12 '' is not a user name"),
        ("network = []", "2:11 expected a table, got an empty list"),
        ("network.mode = 3", "2:16 expected text in quotes, got the number 3"),
        ("network.forward = '80:80'", '2:19 expected a list, got text "80:80"'),
        ("network.forward = ['x']", "2:20 'x' is not a forward"),
        ("network.forward = [[8080, 80]]", "2:20 [8080, 80] is not a forward"),
        ("network.forward = ['1:1',\n'70000:1']", "3:1 '70000:1': ports go from 1 to 65535"),
        ("network.isolate = 'yes'", '2:19 expected true or false, got text "yes"'),
        ("qemu.machine = 'q35,x=y'", "2:16 'q35,x=y' is not a plain word"),
        ("qemu.machine = 'help'", "2:16 'help' is not a plain word"),
        ("qemu.machine = 'a b'", "2:16 'a b' is not a plain word"),
        ("qemu.cpu = 'help'", "2:12 'help' is not a CPU model"),
        ("qemu.cpu = 'max,help'", "2:12 'max,help' is not a CPU model"),
        ("qemu.cpu = 'max,+x,,id=y'", "2:12 'max,+x,,id=y' is not a CPU model"),
        ("qemu.cpu = 'max, +x'", "2:12 'max, +x' is not a CPU model"),
        ("qemu.args = '-s'", '2:13 expected a list, got text "-s"'),
        ("qemu.args = ['-s', 1]", "2:20 expected text in quotes, got the number 1"),
        ("qemu.program = ''", "2:16 this text is too short"),
        ("qemu.accelerator = 'kmv'", "2:20 unknown accelerator 'kmv'"),
        ("user-data = 3", "2:13 expected text in quotes, got the number 3"),
        ("provision = 'x'", '2:13 expected a list, got text "x"'),
        ("provision = ['x']", '2:14 expected a table, got text "x"'),
        ("provision = [{}]", "2:14 a step has one provisioner; got none"),
        ("provision = [{shell='a', file={}}]", "2:14 a step has one provisioner"),
        ("provision = [{shel='a'}]", "2:15 unknown provisioner 'shel'"),
        ("provision = [{shell=3}]", "2:21 expected a table or text, got the number 3"),
        ("provision = [{file='a'}]", '2:20 expected a table, got text "a"'),
        ("provision = [{file={source='a'}}]", "2:20 'target' is missing"),
        ("provision = [{shell={run='a'}}]", "2:22 unknown key 'run'"),
    ],
)  # fmt: skip
def test_values_that_do_not_work(line: str, message: str) -> None:
    (found,) = lines(f"[machine]\n{line}\n")
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("line", "size"),
    [("16", 16), ('"1.5G"', 1536), ('"512MiB"', 512), ('"512 MB"', 512), ('"4T"', 4 * 1024**2)],
)
def test_sizes_that_work(line: str, size: int) -> None:
    assert machine(f"[machine]\nmemory = {line}").settings.memory == size * 1024**2


@pytest.mark.parametrize("cpu", ["max", "max,+x2apic,-svm", "host,migratable=off", "EPYC-v4"])
def test_cpus_that_work(cpu: str) -> None:
    assert machine(f"[machine]\nqemu.cpu = '{cpu}'").settings.qemu.cpu == cpu


def test_an_unknown_network_mode_b35() -> None:
    found = one("[machine.network]\nmode = 'usr'\nforward = 3")
    assert (found.line, found.col, found.message) == (2, 8, "unknown network mode 'usr'")
    assert found.hint == "did you mean 'user'?"
    assert one("[machine.network]\nmode = 'zzz'").hint == "there is broken, tap and user"
    broken = FakeRegistry(reason="the plugin qup-zzz failed to load")
    hint = one("[machine.network]\nmode = 'zzz'", registry=broken).hint
    assert hint == "network mode zzz: the plugin qup-zzz failed to load"


def test_options_of_a_network_mode_are_checked_by_its_model() -> None:
    text = "[machine.network]\nmode = 'tap'\n"
    assert lines(text) == ["1:1 'tap' is missing"]
    assert lines(text + "tap = '0123456789abcdef'") == [
        "3:7 this text is too long: the most is 15 characters"
    ]
    assert lines(text + "tap = 'a'\nqueue-size = true") == [
        "4:14 expected a whole number or text in quotes, got true"
    ]


def test_a_plugin_that_breaks_is_named() -> None:
    with pytest.raises(PluginError, match="network mode 'broken' broke while it checked"):
        load("[machine.network]\nmode = 'broken'\nanything = 'x'")


# -- keys and hints -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "key", "hint"),
    [
        ("[machine]\nram = 1", "2:1", "ram", "did you mean 'memory'?"),
        ("[machine]\nmemory_mb = 1", "2:1", "memory_mb", "did you mean 'memory'?"),
        ("[machine]\nmemroy = 1", "2:1", "memroy", "did you mean 'memory'?"),
        ("[machine]\nMemory = 1", "2:1", "Memory", "write 'memory'"),
        ("[machine]\ncpu = 1", "2:1", "cpu",
         "did you mean 'cpus'? (the CPU's model is 'cpu' in [machine.qemu])"),
        ("[machine]\nname = 'x'", "2:1", "name", "did you mean 'hostname'?"),
        ("[machine]\nimage = 'x'", "2:1", "image", "did you mean 'box'?"),
        ("[machine]\ntimeout = 1", "2:1", "timeout", "did you mean 'boot-timeout'?"),
        ("[machine]\nboot_timeout = 1", "2:1", "boot_timeout", "write 'boot-timeout'"),
        ("[machine]\nports = []", "2:1", "ports", "did you mean 'forward' in [machine.network]?"),
        ("[machine]\nforward = []", "2:1", "forward", "'forward' belongs in [machine.network]"),
        ("[machine]\naccelerator = 'x'", "2:1", "accelerator",
         "'accelerator' belongs in [machine.qemu]"),
        ("[machine]\nuser = 'x'", "2:1", "user", "'user' belongs in [machine.ssh]"),
        ("[machine]\nxyzzy = 'x'", "2:1", "xyzzy", "known here: after, autostart, boot-timeout"),
        ("[machine.network]\nports = []", "2:1", "ports", "did you mean 'forward'?"),
        ("[machine.network]\nforwards = []", "2:1", "forwards", "did you mean 'forward'?"),
        ("[machine.network]\nmod = 1", "2:1", "mod", "did you mean 'mode'?"),
        ("[machine.qemu]\nmemory = 1", "2:1", "memory", "'memory' belongs in [machine]"),
        ("[machine.qemu]\naccel = 1", "2:1", "accel", "did you mean 'accelerator'?"),
        ("[machine.ssh]\nusername = 'x'", "2:1", "username", "did you mean 'user'?"),
        ("[[machine.provision]]\nshell.inlin = 'x'", "2:7", "inlin", "did you mean 'inline'?"),
        ("memory = 1", "1:1", "memory", "'memory' belongs in [machine]"),
        ("[network]\nmode = 'user'", "1:2", "network", "'network' belongs in [machine]"),
        ("ram = 1", "1:1", "ram", "'memory' belongs in [machine]"),
        ("forward = []", "1:1", "forward", "'forward' belongs in [machine.network]"),
        ("[web]\nmemory = 1", "1:2", "web", "a machine's table is [machines.web]"),
        ("[machnie]\nmemory = 1", "1:2", "machnie", "did you mean 'machine'?"),
        ("[vms.web]", "1:2", "vms", "did you mean 'machines'?"),
        ("xyzzy = 1", "1:1", "xyzzy", "known here: machine, machines"),
        ('[machine]\n"\\u001b[31m" = 1', "2:1", "\\x1b[31m", "known here"),
    ],
)  # fmt: skip
def test_unknown_keys_get_a_hint(text: str, place: str, key: str, hint: str) -> None:
    found = one(text)
    assert f"{found.line}:{found.col}" == place
    assert found.message == f"unknown key '{key}'"
    assert found.hint is not None
    assert found.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("machine = 3", "1:11 expected a table, got the number 3", "write [machine]"),
        ("[[machine]]", "1:3 expected a table, got a list", "write [machine], with single bra"),
        ("machines = 'web'", '1:12 expected a table, got text "web"', "write [machines.NAME]"),
        ("[[machines]]", "1:3 expected a table, got a list", "write [machines.NAME]"),
        ("[machines]\nweb = 1", "2:7 expected a table, got the number 1", "write [machines.web]"),
        ("[machines]\nmemory = 1", "2:10 expected a table", "write [machines.memory]"),
        ("[machines]\nboot_timeout = 1", "2:1 'boot_timeout' is not a machine's name", "did you"),
    ],
)
def test_tables_of_the_wrong_shape(text: str, message: str, hint: str) -> None:
    found = one(text)
    assert f"{found.line}:{found.col} {found.message}".startswith(message)
    assert found.hint is not None
    assert found.hint.startswith(hint)


def test_all_problems_at_once_and_each_once() -> None:
    text = """\
memory = 3
[machine]
cpus = "2"
[machine.network]
mode = "user"
forward = ["x", "8080:80", 3]
[[machine.provision]]
shel = "x"
[machines.a]
memory = "?"
[machines.b]
qemu.accelerator = "x"
[machines.B]
"""
    found = lines(text, environment={"QUP_DISK": "?"}, assignments=["qemu.cpux=1", "nonsense"])
    assert [item.split(" ")[0] for item in found] == [
        "None:None", "None:None", "None:None",
        "1:1", "3:8", "6:12", "6:28", "8:1", "10:10", "12:20", "13:11",
    ]  # fmt: skip


def test_a_bad_value_below_another_layer_does_not_hide() -> None:
    text = "[machine]\nmemory = '?'\n[machine.network]\nforward = 3\n[machines.a]\nmemory = 512\n"
    environment = {"QUP_MEMORY": "512", "QUP_NETWORK": "tap"}
    found = lines(text, environment=environment, assignments=["network.tap=t"])
    assert [item.split(" ")[0] for item in found] == ["2:10", "4:11"]


def test_too_many_problems_end_the_search() -> None:
    text = "[machine]\n" + "\n".join(f"key{number} = {number}" for number in range(5_000))
    assert len(problems(text)) == MAX_PROBLEMS


# -- the environment and the command line ----------------------------------------------------


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"environment": {"QUP_MEMORY": "?"}}, "environment QUP_MEMORY", "'?' is not a size"),
        ({"environment": {"QUP_CPUS": "two"}}, "environment QUP_CPUS", 'expected a whole number'),
        ({"environment": {"QUP_CPU_COUNT": "0"}}, "environment QUP_CPU_COUNT", "0 is too small"),
        ({"environment": {"QUP_CPUS": "9" * 40}}, "environment QUP_CPUS", "expected a whole"),
        ({"environment": {"QUP_HOSTNAME": "a\udcffb"}}, "environment QUP_HOSTNAME", "'a\\udcffb'"),
        ({"environment": {"QUP_BOX": "a\udcffb"}}, "environment QUP_BOX", "this text is not valid"),
        ({"environment": {"QUP_NETWORK": "x"}}, "environment QUP_NETWORK", "unknown network mode"),
        ({"overrides": {"memory": "?"}}, "command line --memory", "'?' is not a size"),
        ({"overrides": {"qemu.cpu": "help"}}, "command line --cpu", "'help' is not a CPU model"),
        ({"assignments": ["memory"]}, "command line --set", "'memory' is not KEY=VALUE"),
        ({"assignments": ["=x"]}, "command line --set", "'=x' is not KEY=VALUE"),
        ({"assignments": ["a..b=x"]}, "command line --set", "'a..b=x' is not KEY=VALUE"),
        ({"assignments": ["memroy=1G"]}, "command line --set memroy", "unknown key 'memroy'"),
        ({"assignments": ["memory=?"]}, "command line --set memory", "'?' is not a size"),
        ({"assignments": ["network.forward=['x']"]}, "command line --set network.forward", "'x'"),
        ({"assignments": ["cpus=1", "cpus.x=1"]}, "command line --set", "'cpus.x' gets into"),
    ],
)  # fmt: skip
def test_problems_outside_of_the_file_name_their_source(
    given: dict[str, Any], where: str, message: str
) -> None:
    found = one("[machine]\n", **given)
    assert found.line is found.col is None
    assert found.where == where
    assert found.message.startswith(message)


def test_set_takes_values_of_toml() -> None:
    words = ["network.forward=['8080:80']", "cpus=3", "memory=2G", "autostart=false", "ssh.user=me"]
    found = machine("", assignments=words)
    assert found.network.forward[0].host == 8080  # type: ignore[attr-defined]
    assert (found.settings.cpus, found.settings.memory) == (3, 2 * 1024**3)
    assert (found.settings.autostart, found.settings.ssh.user) == (False, "me")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("2G", "2G"),
        ("'x'", "x"),
        ("", ""),
        ("a\nb = 2", "a\nb = 2"),
        ("1\nb = 2", "1\nb = 2"),
        ("9" * 30, "9" * 30),
        ("9" * 5000, "9" * 5000),
        ("[" * 5000, "[" * 5000),
        ("[" * 900, "[" * 900),
    ],
    ids=lambda value: str(value)[:8],
)
def test_values_of_set(text: str, value: object) -> None:
    assert parse_value(text) == value


# -- rules over machines (B13) -----------------------------------------------------------------


def forwards(first: str, second: str) -> str:
    return f"[machines.a.network]\nforward = {first}\n[machines.b.network]\nforward = {second}\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("['8080:80']", "['8080:81']"),
        ("['8080:80']", "['0.0.0.0:8080:80']"),
        ("['0.0.0.0:8080:80']", "['127.0.0.1:8080:80']"),
        ("['localhost:8080:80']", "['127.0.0.1:8080:80/tcp']"),
        ("['53:53/udp']", "['53:53/udp']"),
    ],
)
def test_a_host_port_for_two_machines_is_refused(first: str, second: str) -> None:
    found = one(forwards(first, second))
    assert (found.line, found.col) == (4, 12)
    assert "is forwarded twice: by machine 'a' and by machine 'b'" in found.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("['8080:80']", "['8081:80']"),
        ("['8080:80']", "['8080:80/udp']"),
        ("['127.0.0.1:8080:80']", "['127.0.0.2:8080:80']"),
        ("['0:80', '0:80']", "['0:80']"),
        ("['1:80', '2:80']", "[]"),
    ],
)
def test_host_ports_that_get_along(first: str, second: str) -> None:
    assert len(load(forwards(first, second)).machines) == 2


def test_a_host_port_twice_in_one_machine_is_refused() -> None:
    found = one("[machine.network]\nforward = ['1:80', '2:80',\n  '0.0.0.0:1:81']")
    assert (found.line, found.col) == (3, 3)
    assert "by '127.0.0.1:1:80' and by '0.0.0.0:1:81'" in found.message


def test_a_forward_that_two_machines_inherit_is_refused() -> None:
    found = one("[machine.network]\nforward = ['1:80']\n[machines.a]\n[machines.b]")
    assert (found.line, found.col) == (2, 12)


# -- several NICs -----------------------------------------------------------------------------


def test_more_nics_have_modes_and_options_of_their_own() -> None:
    found = machine(
        "[machine.network]\nforward = ['1:80']\n"
        "[[machine.networks]]\nmode = 'tap'\ntap = 'tap1'\n"
        "[[machine.networks]]\nforward = ['2:80']\n"
    )
    assert [use.mode for use in found.nics] == ["user", "tap", "user"]
    assert found.networks[0].options.tap == "tap1"  # type: ignore[attr-defined]
    assert found.networks[1].options.forward[0].host == 2  # type: ignore[attr-defined]


def test_the_origin_of_every_option_of_a_nic_is_known() -> None:
    origins = load("[[machine.networks]]\nmode = 'tap'\ntap = 'tap1'").origins["default"]
    assert origins["networks.0.mode"] == Origin("Qupfile", "Qupfile:2:1")
    assert origins["networks.0.tap"] == Origin("Qupfile", "Qupfile:3:1")
    assert origins["networks.0.queue-size"] == Origin("default")
    set_one = load("", assignments=["networks=[{mode='user', isolate=true}]"]).origins["default"]
    assert set_one["networks.0.isolate"] == Origin("command line", "--set networks")


def test_a_machines_list_of_nics_replaces_the_shared_one() -> None:
    text = "[[machine.networks]]\n[machines.a]\n[machines.b]\nnetworks = []\n"
    nics = {name: len(found.nics) for name, found in load(text).machines.items()}
    assert nics == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("mode = 'usr'", "2:8 unknown network mode 'usr'", "did you mean 'user'?"),
        ("mode = 'tap'", "1:1 'tap' is missing", None),
        ("mode = 'tap'\ntap = 3", "3:7 expected text in quotes, got the number 3", None),
        ("forwards = []", "2:1 unknown key 'forwards'", "did you mean 'forward'?"),
        ("restrict = true", "2:1 unknown key 'restrict'", "did you mean 'isolate'?"),
        ("memory = 3", "2:1 unknown key 'memory'", "'memory' belongs in [machine]"),
        ("mod = 'user'", "2:1 unknown key 'mod'", "did you mean 'mode'?"),
        ("forward = ['x']", "2:12 'x' is not a forward", None),
    ],
)
def test_what_is_wrong_with_a_nic_is_said_where_it_stands(
    text: str, said: str, hint: str | None
) -> None:
    found = one(f"[[machine.networks]]\n{text}\n")
    assert f"{found.line}:{found.col} {found.message}".startswith(said)
    assert found.hint == hint


@pytest.mark.parametrize("text", ["networks = 3", "networks = {}", "networks = [3]"])
def test_nics_are_a_list_of_tables(text: str) -> None:
    assert "expected a" in one(f"[machine]\n{text}\n").message


def test_nics_are_not_without_number() -> None:
    assert "too many items: the most is 7" in one("[[machine.networks]]\n" * 8).message


def test_a_host_port_for_two_nics_is_refused() -> None:
    text = "[machine.network]\nforward = ['1:80']\n[[machine.networks]]\nforward = ['1:81']\n"
    found = one(text)
    assert (found.line, found.col) == (4, 12)
    assert "is forwarded twice" in found.message


def test_order() -> None:
    assert load("[machines.a]\nafter = ['b']\n[machines.b]").machines["a"].settings.after == ("b",)
    assert lines("[machines.a]\nafter = ['a']\n") == ["2:9 machine 'a' can't come after itself"]
    found = one("[machines.web]\nafter = ['dbs']\n[machines.db]\n")
    assert (found.col, found.message) == (10, "there is no machine 'dbs'")
    assert found.hint == "did you mean 'db'?"
    circle = "[machines.x]\n[machines.a]\nafter=['b']\n[machines.b]\nafter=['x', 'c']\n"
    (said,) = lines(circle + "[machines.c]\nafter=['a']\n")
    assert said == "3:7 these machines wait for each other: a -> b -> c -> a"
    assert lines("[machine]\nafter = 'db'\n[machines.db]\n")


def test_a_long_order() -> None:
    chain = "".join(f"[machines.m{n}]\nafter = ['m{n + 1}']\n" for n in range(999))
    assert len(load(chain + "[machines.m999]\n").machines) == 1000
    (said,) = lines(chain + "[machines.m999]\nafter = ['m0']\n")
    assert said.startswith("2:9 these machines wait for each other: m0 -> m1 -> ")


def test_one_machine_is_primary() -> None:
    found = one("[machines.a]\nprimary = true\n[machines.b]\nprimary = true")
    assert (found.line, found.col) == (4, 11)
    assert found.message == "machine 'b' can't be primary: 'a' is"
    assert load("[machines.a]\nprimary = true\n[machines.b]\n").machines["a"].settings.primary


# -- trust ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("", []),
        ("qemu.args = []", []),
        ("qemu.args = ['-s']", ["qemu.args"]),
        ("qemu.program = 'qemu-system-aarch64'", []),
        ("qemu.program = './qemu-system-x86_64'", ["qemu.program"]),
        ("qemu.program = '/usr/bin/qemu-system-x86_64'", ["qemu.program"]),
        ("qemu.program = 'sh'", ["qemu.program"]),
        ('qemu.program = "qemu-system-x86_64\\n"', ["qemu.program"]),
        ("qemu.program = 'qemu-system-X'", ["qemu.program"]),
    ],
)
def test_what_could_run_code_needs_trust(line: str, keys: list[str]) -> None:
    found = untrusted(load(f"[machine]\n{line}\n"))
    assert [item.key for item in found] == keys
    assert all(item.machine == "default" and item.description.isprintable() for item in found)


def test_what_is_to_be_trusted_is_shown_in_full() -> None:
    words = ["x" * 100, "-device", "\x1b[2K", *("-s" for _ in range(20))]
    (found,) = untrusted(load("[machine.qemu]\nargs = " + json.dumps(words)))
    assert found.description == json.dumps(words)
    (found,) = untrusted(load("[machine.qemu]\nargs = " + json.dumps(words * 100)))
    assert found.description.endswith("characters more: read the Qupfile)")


def test_the_users_own_words_need_no_trust() -> None:
    text = "[machine]\nqemu.program = './evil'\n"
    assert not untrusted(load(text, environment={"QUP_PROGRAM": "./mine"}))
    assert not untrusted(load(text, overrides={"qemu.program": "./mine"}))
    assert not untrusted(load("", assignments=["qemu.args=['-s']", "qemu.program=./mine"]))


# -- how problems look (B47) -----------------------------------------------------------------


def test_a_problem_as_people_see_it() -> None:
    with pytest.raises(QupfileErrors) as caught:
        load('[machine]\n\tcpus = "2"\n', environment={"QUP_MEMORY": "?"})
    assert caught.value.message == "2 problems in the environment and Qupfile"
    assert caught.value.details == (
        'environment QUP_MEMORY: \'?\' is not a size; write "512M", "2G" or a number of MiB\n'
        "\n"
        'Qupfile:2:9: expected a whole number, got text "2"\n'
        '  2 |     cpus = "2"\n'
        "    |            ^^^"
    )
    shown = caught.value.to_dict()
    assert shown["problems"][1] == {  # type: ignore[index]
        "file": "Qupfile",
        "line": 2,
        "col": 9,
        "source": '\tcpus = "2"',
        "width": 3,
        "message": 'expected a whole number, got text "2"',
        "hint": None,
        "key": "machine.cpus",
    }


@pytest.mark.parametrize(
    ("source", "col", "width", "line", "caret"),
    [
        ("a = 1", 5, 1, "a = 1", "    ^"),
        ("a = 1", 6, 1, "a = 1", "     ^"),
        ("\ta = 1", 6, 1, "    a = 1", "        ^"),
        ("'日本' = 12", 8, 2, "'日本' = 12", "         ^^"),
        ("'e\u0301' = 1", 8, 1, "'e\u0301' = 1", "      ^"),
        ("\x1b[31m = 1", 8, 1, "\\x1b[31m = 1", "          ^"),
        ("\u202e = 1", 5, 1, "\\u202e = 1", "         ^"),
    ],
)
def test_carets_are_under_what_they_mean(
    source: str, col: int, width: int, line: str, caret: str
) -> None:
    assert show_source(source, col, width) == (line, caret)


@given(st.text(st.characters(exclude_characters="\n")), st.integers(1, 500), st.integers(1, 500))
@example("x" * 10_000, 5_000, 3)
@example("\x1b" * 10_000, 5_000, 3_000)
@example("日" * 10_000, 9_999, 10_000)
def test_a_shown_line_is_printable_and_short(source: str, col: int, width: int) -> None:
    col = min(col, len(source) + 1)
    line, caret = show_source(source, col, width)
    assert all(char.isprintable() for char in line)
    # Marks stand above the character before them.
    assert sum(unicodedata.category(char) not in ("Mn", "Me") for char in line) < 130
    assert len(caret) < 130
    assert "^" in caret


def test_long_lines_are_cut_around_the_caret() -> None:
    line, caret = show_source("x" * 5000 + "HERE" + "y" * 5000, 5001, 4)
    start = caret.index("^")
    assert line[start : start + 4] == "HERE"
    assert line.startswith("…x")
    assert line.endswith("y…")


def test_clean_text_has_no_escapes() -> None:
    assert clean("a\x1b]0;x\x07\u202eb\ud800\n") == "a\\x1b]0;x\\x07\\u202eb\\ud800\\x0a"
    assert len(clean("x" * 10**6)) < 500


def test_every_error_of_pydantic_has_plain_words() -> None:
    kinds = core_schema.ErrorType.__args__  # type: ignore[attr-defined]
    for kind in kinds:
        values: tuple[object, ...] = ("x", 3, None, [], {})
        for value in values:
            error: Any = {"type": kind, "loc": ("key",), "msg": "Input should", "input": value}
            said = explain.explain_error(error)
            assert said
            assert kind == "value_error" or "_" not in said
            assert "Input" not in said


# -- anything at all ------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["machine", "machines", "memory", "cpus", "network", "mode", "forward", "qemu", "args", "ssh",
     "provision", "shell", "user", "tap", "web", "a", "[", "]", "[[", "]]", ".", "=", "\n", "'",
     '"', "{", "}", ",", "1", "true", "nan", "1979-05-27", '"8080:80"', "9" * 30, "\x00", "\x1b",
     "é", "#", " ", '"""', "inf", "-1"]
)  # fmt: skip

TABLES = st.dictionaries(
    st.sampled_from(
        ["machine", "machines", "memory", "cpus", "network", "mode", "forward", "qemu", "args",
         "ssh", "user", "provision", "shell", "inline", "tap", "web", "primary", "hostname", "x"]
    ),
    st.deferred(lambda: VALUES),
    max_size=4,
)  # fmt: skip
VALUES: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(["1", "true", "'user'", "'tap'", "nan", "1979-05-27", "['1:2']", "[]", "'2G'"]),
    st.lists(st.deferred(lambda: VALUES), max_size=2).map(lambda items: f"[{', '.join(items)}]"),
    TABLES.map(lambda table: "{" + ", ".join(f"{k} = {v}" for k, v in table.items()) + "}"),
)
TREES = st.builds(
    lambda table, shared: (
        "\n".join(f"{k} = {v}" for k, v in table.items())
        + "\n[machine]\n"
        + "\n".join(f"{k} = {v}" for k, v in shared.items())
    ),
    TABLES,
    TABLES,
)


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.binary(), st.text().map(str.encode), TREES.map(str.encode),
                 st.lists(WORDS).map(lambda words: "".join(words).encode())))  # fmt: skip
def test_anything_is_loaded_or_refused(content: bytes) -> None:
    try:
        load(content)
    except QupfileErrors as exc:
        json.dumps(exc.to_dict())
        assert_plain(exc)
    except PluginError:
        pytest.fail("nothing names the broken mode")


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(st.sampled_from([item.env for item in SETTINGS]), st.text(max_size=8)),
    st.lists(st.text(max_size=12) | st.builds("{}={}".format, WORDS, WORDS), max_size=3),
)
def test_any_words_of_the_user_are_taken_or_refused(
    environment: dict[str, str], assignments: list[str]
) -> None:
    try:
        load("", environment=environment, assignments=assignments)
    except ConfigError as exc:
        json.dumps(exc.to_dict())
