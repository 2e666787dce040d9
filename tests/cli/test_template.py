from __future__ import annotations

import json
from typing import Any

import pytest

from qup.cli.template import parse_template
from qup.errors import UsageError

DATA: dict[str, Any] = {
    "name": "web",
    "pid": 7,
    "ready": True,
    "detail": None,
    "ssh": None,
    "plan": {"disks": [{"size": 1}, {"size": 2}], "boot-timeout": 1.5, "a_b": "x"},
    "Odd": 1,
    "odd": 2,
}


def fill(template: str, data: dict[str, Any] = DATA) -> str:
    return "".join(piece.fill(data) for piece in parse_template(template))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain } text {", "plain } text {"),
        ("{{.name}}", "web"),
        ("<{{ .name }}|{{.pid}}>\t{{.ready}}", "<web|7>\ttrue"),
        ("{{.Name}}{{.PLAN.A_B}}", "webx"),
        ("{{.odd}}{{.Odd}}", "21"),
        ("{{.detail}}{{.ssh.port}}", ""),
        ("{{json .detail}}", "null"),
        ("{{json .name}} {{json .plan.disks}}", '"web" [{"size": 1}, {"size": 2}]'),
        ("{{.plan.disks.1.size}}{{.plan.boot-timeout}}", "21.5"),
        ("{{.plan.disks}}", '[{"size": 1}, {"size": 2}]'),
        ("{{prettyjson .plan.disks.0}}", '{\n    "size": 1\n}'),
        ("{{json .}}", json.dumps(DATA)),
        ("{{.}}", json.dumps(DATA)),
        ("}}{{.pid}}}}", "}}7}}"),
    ],
)
def test_values_are_filled_in(template: str, text: str) -> None:
    assert fill(template) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("x {{.nme}}", "wrong at character 3: {{.nme}}: there is no 'nme'"),
        ("{{.plan.disks.2}}", "there is no '2'"),
        ("{{.plan.disks.-1}}", "there is no '-1'"),
        ("{{.name.first}}", "there is no 'first'"),
        ("{{.oDD}}", "there is no 'oDD'"),
        ("ab{{.name", "wrong at character 3: {{.name has no end"),
        ("{{}}", "{{}} is nothing that qup understands"),
        ("{{name}}", "nothing that qup understands"),
        ("{{.a..b}}", "nothing that qup understands"),
        ("{{range .a}}", "unknown function 'range'"),
        ("{{upper .name}}", "unknown function 'upper'"),
        ("{{.a | json}}", "nothing that qup understands"),
        ("{{\x1b.a}}", "wrong at character 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(template: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        fill(template)
    assert said in caught.value.message
    assert "\x1b" not in caught.value.message
    assert caught.value.hint
