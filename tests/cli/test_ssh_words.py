"""The words of ``qup ssh``: which are the machine's name, which are ssh's, and what they need."""

from __future__ import annotations

import pytest

from qup.cli.ssh import needs_own_connection, split_words
from qup.errors import UsageError
from qup.runner.roster import Member, Roster

ROSTER = Roster((Member("web", primary=True), Member("db")))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("-L 8080:localhost:80 db", ["-L", "8080:localhost:80"]),
        ("-NL 8080:localhost:80 db", ["-NL", "8080:localhost:80"]),
        ("db -NfL8080:localhost:80", ["-NfL8080:localhost:80"]),
        ("-vvA db -oUser=x", ["-vvA", "-oUser=x"]),
        ("-v -o User=x db", ["-v", "-o", "User=x"]),
        ("db", []),
    ],
)
def test_options_of_ssh(words: str, options: list[str]) -> None:
    assert split_words([*words.split(), "--", "echo", "-L"], ROSTER) == (
        "db",
        options,
        ["echo", "-L"],
    )
    without = [word for word in words.split() if word != "db"]
    assert split_words(without, ROSTER)[:2] == ("web", options)


def test_a_command_needs_its_dashes() -> None:
    with pytest.raises(UsageError, match="'uname' comes after the machine's name"):
        split_words(["db", "uname"], ROSTER)


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ("-A", True),
        ("-L x:y:1", True),
        ("-NTR 1:y:1", True),
        ("-D1080", True),
        ("-vX", True),
        ("-o ForwardAgent=yes", True),
        ("-olocalforward=1 y:1", True),
        ("-t", False),
        ("-l Anna", False),
        ("-o LogLevel=DEBUG -p 22", False),
        ("-W x:1", False),
        ("-O forward -L x:y:1", False),
        ("-S /mine -L x:y:1", False),
        ("-o ControlPath=/mine -A", False),
        ("", False),
    ],
)
def test_what_forwards_has_its_own_connection(words: str, own: bool) -> None:
    assert needs_own_connection(words.split()) is own
