"""What cloud-init leaves behind, as qup reads it."""

from __future__ import annotations

import json

import pytest

from qup.guest.firstboot import BORDER, SHOWN, FirstBoot, parse_first_boot


def left(errors: list[str], output: str = "") -> str:
    result = json.dumps({"v1": {"datasource": "DataSourceNoCloud", "errors": errors}}, indent=1)
    return f"{result}\n{BORDER}\n{output}"


def test_all_is_well() -> None:
    assert parse_first_boot(left([], "hello\n")) == FirstBoot((), ("hello",))


def test_failures_are_in_its_own_words() -> None:
    error = "('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted'))"
    output = "Cloud-init v. 22.4.2 running\nci-info: |x|\n\n/bin/sh: nosuch: \x1b[31mnot found\n"
    found = parse_first_boot(left([error], output))
    assert found.errors == (error,)
    assert found.output == ("/bin/sh: nosuch: not found",)


def test_much_output_is_cut() -> None:
    found = parse_first_boot(left(["x" * 9000], "line\n" * 100))
    assert len(found.output) == SHOWN
    assert len(found.errors[0]) < 1000


@pytest.mark.parametrize("text", ["", BORDER, "no json" + BORDER, "[]" + BORDER, '{"v1": 1}'])
def test_nothing_to_read_is_no_failure(text: str) -> None:
    assert parse_first_boot(text).errors == ()
