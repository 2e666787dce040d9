"""``[machine.cloud-init]``: what it may be, and what the guest is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Qup

TABLE = """
[machine.cloud-init]
packages = ["nginx"]
runcmd = [["systemctl", "enable", "nginx"], "echo on"]
write_files = [{ path = "/etc/a b", content = "ä: 'x'\\n" }]
"""


def user_data(qup: Qup) -> dict[str, Any]:
    """The user's part of the seed; each of its lines is JSON behind a key."""
    seed = json.loads(qup("plan", "--seed", "--json").ok().stdout)
    text = seed["machines"]["default"]["seed"]["user-data"]
    lines = [line.partition(": ") for line in text.splitlines()]
    return {key: json.loads(value) for key, _, value in lines if value[:1] in ("[", "{")}


def test_a_table_becomes_a_cloud_config(qup: Qup, project: Callable[..., Path]) -> None:
    project(TABLE)
    told = user_data(qup)
    assert told["packages"] == ["nginx"]
    assert told["runcmd"] == [["systemctl", "enable", "nginx"], "echo on"]
    assert told["write_files"] == [{"path": "/etc/a b", "content": "ä: 'x'\n"}]


def test_a_script_runs_behind_the_tables_commands(qup: Qup, project: Callable[..., Path]) -> None:
    project("[machine]\nuser-data = '''\n#!/bin/sh\ntrue\n'''\n" + TABLE)
    told = user_data(qup)
    assert told["runcmd"][2:] == [["/var/lib/qup/user-data"]]
    assert [file["path"] for file in told["write_files"]] == ["/etc/a b", "/var/lib/qup/user-data"]


def test_two_cloud_configs_are_one_too_many(qup: Qup, project: Callable[..., Path]) -> None:
    project('[machine]\nuser-data = "#cloud-config\\n"\n' + TABLE)
    done = qup("plan")
    assert done.code == 4, done
    assert "two cloud-configs" in done.stderr


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("package = ['x']", "did you mean 'packages'"),
        ("hostname = 'x'", "'hostname' and 'ssh.user'"),
        ("users = []", "ssh.user"),
        ("'a b' = 1", "not a key of a cloud-config"),
        ("ntp = { since = 2026-01-01 }", "quote it"),
        ("swap = { size = inf }", "quote it"),
    ],
)
def test_what_no_guest_would_take(
    qup: Qup, project: Callable[..., Path], line: str, word: str
) -> None:
    project(f"[machine.cloud-init]\n{line}\n")
    done = qup("validate")
    assert done.code == 4, done
    assert "Qupfile:" in done.stderr
    assert word in done.stderr


def test_keys_of_other_modules_are_let_through(qup: Qup, project: Callable[..., Path]) -> None:
    project("[machine.cloud-init]\nacme_monitoring = { on = true }\n")
    assert user_data(qup)["acme_monitoring"] == {"on": True}
