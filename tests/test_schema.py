from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qup import qupfile
from qup.plugins import Plugins
from qup.qupfile import QupfileErrors
from qup.qupfile.tables import walk_model
from tests.conftest import ROOT
from tests.qupfile_registry import FakeRegistry

EXAMPLE = (ROOT / "Qupfile.example").read_text()
COMMENTED_OUT = re.compile(r"^#(?=[a-z\[])", re.MULTILINE)
FULL_EXAMPLE = COMMENTED_OUT.sub("", EXAMPLE)


@pytest.fixture(scope="module")
def registry() -> Plugins:
    """What is built in; the plugins of this Python environment change nothing here."""
    return Plugins()


def accepts(registry: qupfile.Registry, text: str) -> bool:
    schema = qupfile.schema(registry)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid(tomllib.loads(text))


def loads(registry: qupfile.Registry, text: str) -> bool:
    try:
        qupfile.load(qupfile.parse(text.encode()), registry=registry)
    except QupfileErrors:
        return False
    return True


@pytest.mark.parametrize("text", [EXAMPLE, FULL_EXAMPLE], ids=["as it is", "everything"])
def test_the_example_is_valid(registry: Plugins, text: str) -> None:
    qupfile.load(qupfile.parse(text.encode()), registry=registry)
    assert accepts(registry, text)


def test_the_example_says_the_defaults(registry: Plugins) -> None:
    empty = qupfile.load(qupfile.parse(b""), registry=registry)
    example = qupfile.load(qupfile.parse(EXAMPLE.encode()), registry=registry)
    assert example.machines == empty.machines


def test_every_commented_key_is_on_a_line_of_its_own() -> None:
    assert FULL_EXAMPLE != EXAMPLE
    for line in EXAMPLE.splitlines():
        assert re.match(r"(# |#$|#?[a-z\[]|$)", line), line


def keys_of(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from keys_of(item)


def test_every_key_is_in_the_example(registry: Plugins) -> None:
    from qup.model.config import MachineSettings

    wanted = {path[-1] for path in walk_model(MachineSettings)}
    for options in (
        registry.network_modes["user"].options,
        registry.provisioners["shell"].options,
    ):
        wanted |= {path[-1] for path in walk_model(options)}
    assert wanted <= set(keys_of(tomllib.loads(FULL_EXAMPLE)))


VALID = [
    "",
    "[machine]",
    "[machine]\nmemory = 512\ndisk = '1.5G'\nboot-timeout = 1.5",
    "[machine]\ncpus = 2\nhostname = 'a.b'\nuser-data = '#!/bin/sh'",
    "[machine.network]\nforward = ['8080:80']",
    "[machine.network]\nmode = 'tap'\ntap = 'tap0'",
    "[machine.network]\nmode = 'tap'\n[machines.a.network]\ntap = 'tap0'",
    "[machines.a]\nmemory = '2G'\n[machines.b]\nprimary = true",
    "[[machine.provision]]\nshell = 'id'\n[[machine.provision]]\nshell.script = 'x'",
    "[[machine.provision]]\nfile = {source = 'a', target = 'b'}",
    "[machine.qemu]\ncpu = 'max,+x,-y,z=on'\nargs = ['-s', '']\naccelerator = 'kvm'",
    "[machine.ssh]\nuser = 'me'",
    "[machine.qemu]\nvirtio-drives = false\ncache = 'none'\nio = 'native'\nfirmware = 'uefi'",
    "[[machine.disks]]\nsize = '1G'\n[[machine.disks]]\nname = 'a'\nimage = 'b'\nread-only = true",
    "[[machine.networks]]\n[[machine.networks]]\nmode = 'tap'\ntap = 'tap1'",
    "[[machines.a.networks]]\nforward = ['8080:80']",
]

INVALID = [
    "memory = 1",
    "[machine]\nmemroy = 1",
    "[machine]\nmemory = true",
    "[machine]\nmemory = '1e9'",
    "[machine]\nmemory = 0",
    "[machine]\ncpus = '2'",
    "[machine]\ncpus = 0",
    "[machine]\nhostname = 'a_b'",
    "[machine]\nboot-timeout = 'soon'",
    "[machine]\nboot_timeout = 1",
    "[machine]\nautostart = 'no'",
    "[machine]\nprovision = 'x'",
    "[machine.network]\nmode = 'zzz'",
    "[machine.network]\nmode = 'user'\ntap = 'x'",
    "[machine.network]\nforward = '8080:80'",
    "[machine.qemu]\ncpu = 'help'",
    "[machine.qemu]\nmachine = 'a,b'",
    "[machine.qemu]\nargs = [1]",
    "[machine.qemu]\nfirmware = '/a'",
    "[[machine.disks]]\nsize = '1G'\nname = 'qup-a'",
    "[[machine.disks]]\nsize = '1G'\ncache = 'fast'",
    "[machine.disks]\nsize = '1G'",
    "[machine.ssh]\nuser = '-oProxyCommand=x'",
    "[machines.A]",
    "[machines.con]",
    "[[machine.provision]]\nshel = 'x'",
    "[[machine.provision]]\nshell = 3",
    "[[machine.provision]]\nshell = 'x'\nfile = {}",
    "[[machine]]",
]


@pytest.mark.parametrize("text", VALID)
def test_the_schema_accepts_what_qup_accepts(text: str) -> None:
    assert loads(FakeRegistry(), text)
    assert accepts(FakeRegistry(), text)


@pytest.mark.parametrize("text", INVALID)
def test_the_schema_refuses_what_qup_refuses(text: str) -> None:
    assert not loads(FakeRegistry(), text)
    assert not accepts(FakeRegistry(), text)


def find_properties(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        for item in schema:
            yield from find_properties(item)
    if isinstance(schema, dict):
        yield from (
            (name, item)
            for name, item in schema.get("properties", {}).items()
            if isinstance(item, dict)
        )
        for item in schema.values():
            yield from find_properties(item)


@pytest.mark.parametrize("real", [True, False], ids=["built in", "fake"])
def test_every_key_is_described(registry: Plugins, real: bool) -> None:
    schema = qupfile.schema(registry if real else FakeRegistry())
    found = dict(find_properties(schema))
    assert {"machine", "machines", "memory", "forward", "mode", "cpu", "user", "args"} <= set(found)
    for name, item in found.items():
        if name not in ("shell", "file", "anything"):
            assert item.get("description"), name


def test_defaults_are_what_a_person_would_write() -> None:
    properties = qupfile.schema(FakeRegistry())["$defs"]["machine"]["properties"]
    assert properties["memory"]["default"] == "1G"
    assert properties["disk"]["default"] == "20G"
    assert properties["boot-timeout"]["default"] == "5m"
    assert "default" not in properties["hostname"]


def test_everything_that_is_referred_to_is_there() -> None:
    schema = qupfile.schema(FakeRegistry())
    names = set(re.findall(r"'#/\$defs/([^']+)'", repr(schema)))
    assert names == set(schema["$defs"])


def test_the_hello_example_is_valid(registry: Plugins) -> None:
    for path in sorted(Path(ROOT, "examples").glob("*/Qupfile")):
        assert accepts(registry, path.read_text())
        assert loads(registry, path.read_text())
