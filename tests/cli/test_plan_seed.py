"""``qup plan --seed``: what a guest will be told, without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Qup


def test_the_seed_can_be_read_before_there_is_a_machine(
    qup: Qup, project: Callable[..., Path]
) -> None:
    project(
        '[machine]\nhostname = "web"\nuser-data = """\n#cloud-config\npackages: [nginx]\n"""\n'
        '[machine.ssh]\nuser = "admin"\n'
    )
    text = qup("plan", "--seed").ok().stdout
    assert "CIDATA" in text
    assert "local-hostname: web" in text
    assert "name: admin" in text
    assert "packages: [nginx]" in text
    assert "made at the first start" in text
    assert "PRIVATE KEY" not in text
    seed = json.loads(qup("plan", "--seed", "--json").ok().stdout)["machines"]["default"]["seed"]
    assert seed["user-data"].startswith("#cloud-config")
    assert not Path(".qup").exists()


def test_a_guest_that_is_told_nothing(qup: Qup, project: Callable[..., Path]) -> None:
    project('[machine]\nseeder = "none"\n')
    assert "no files" in qup("plan", "--seed").ok().stdout
