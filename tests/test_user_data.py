"""Variables in user data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qup.model.user_data import VARIABLES, fill, find_fault, find_faults
from tests.conftest import Qup

VALUES = {name: name.upper() for name in VARIABLES}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("nothing", "nothing"),
        ("{{ hostname }}", "HOSTNAME"),
        ("{{user}}@{{\tmachine  }}.{{ project }}", "USER@MACHINE.PROJECT"),
        ("{{ '{{' }} .State }}", "{{ .State }}"),
        ('{{ "{{" }}hostname}}', "{{hostname}}"),
        ("{ {hostname} } ${x} {% if %}", "{ {hostname} } ${x} {% if %}"),
    ],
)
def test_what_is_filled_in(text: str, filled: str) -> None:
    assert find_fault(text) is None
    assert fill(text, VALUES) == filled


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a\n{{ hostnam }}", 2, "'hostnam'"),
        ("{{ .State }}", 1, "'{{ .State }}'"),
        ("{{ hostname", 1, "'{{ hostname'"),
        ("{{}}", 1, "'{{}}'"),
        ("{{ ds.meta }}", 1, "'{{ ds.meta }}'"),
    ],
)
def test_what_means_nothing(text: str, line: int, word: str) -> None:
    fault = find_fault(text)
    assert fault is not None
    assert (fault.line, word in fault.message) == (line, True)


def test_a_table_is_filled_all_the_way_down() -> None:
    table = {"runcmd": [["echo", "{{ user }}"], "{{ x }}"], "n": 1, "{{ key }}": True}
    [(path, fault)] = find_faults(table)
    assert path == ["runcmd", 1]
    assert "'x'" in fault.message
    table["runcmd"] = [["echo", "{{ user }}"]]
    assert fill(table, VALUES) == {"runcmd": [["echo", "USER"]], "n": 1, "{{ key }}": True}


def test_the_seed_shows_what_was_filled_in(qup: Qup, project: Callable[..., Path]) -> None:
    folder = project(
        '[machine]\nuser-data-variables = true\nhostname = "web"\n'
        "user-data = "
        "" + "'''\n#!/bin/sh\necho {{ hostname }} {{ machine }} {{ project }}\n'''\n"
        '[machine.cloud-init]\nfqdn = "{{ hostname }}.example"\n'
    )
    text = qup("plan", "--seed").ok().stdout
    assert f"echo web default {folder.name}" in text
    assert "web.example" in text


def test_without_the_key_nothing_is_touched(qup: Qup, project: Callable[..., Path]) -> None:
    project('[machine]\nuser-data = "#!/bin/sh\\necho {{ nosuch }}\\n"\n')
    assert "{{ nosuch }}" in qup("plan", "--seed").ok().stdout


def test_an_unknown_variable_has_a_place(qup: Qup, project: Callable[..., Path]) -> None:
    """In the Qupfile, in its table, and in a file that it names."""
    folder = project(
        "[machine]\nuser-data-variables = true\n"
        "user-data = '''\n#!/bin/sh\necho {{ hostnam }}\n'''\n"
        '[machine.cloud-init]\nruncmd = ["echo {{ usr }}"]\n'
    )
    done = qup("validate")
    said = done.stderr
    assert done.code == 4
    assert "Qupfile:3:" in said
    assert "line 2: there is no variable 'hostnam'" in said
    assert "did you mean 'hostname'?" in said
    assert "Qupfile:8:" in said
    (folder / "first.sh").write_text("#!/bin/sh\n\necho {{ .State }}\n")
    text = '[machine]\nuser-data-variables = true\nuserdata = "first.sh"\n'
    (folder / "Qupfile").write_text(text)
    done = qup("plan")
    assert done.code == 4
    assert "first.sh, line 3: '{{ .State }}' is no variable" in done.stderr


def test_a_template_of_cloud_inits_needs_cloud_init(qup: Qup, project: Callable[..., Path]) -> None:
    """Box tiny reads seeds by itself: it would leave out all of it, and with it the key."""
    text = "user-data = '## template: jinja\n#cloud-config\nruncmd: [echo {{ ds }}]\n'"
    text = text.replace("'", "'''")
    folder = project(f"[machine]\n{text}\n")
    done = qup("plan", "--seed")
    assert done.code == 4
    assert "box tiny has no cloud-init" in done.stderr
    assert "user-data-variables = true" in done.stderr
    (folder / "Qupfile").write_text(f'[machine]\nbox = "debian/12"\n{text}\n')
    said = qup("plan", "--seed").ok().stdout
    assert "## template: jinja\n#cloud-config\n" in said
    assert "runcmd: [echo {{ ds }}]" in said
