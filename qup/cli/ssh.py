"""``qup ssh`` and ``qup ssh-config``. No Qupfile, no plan, no plugins on the way to ssh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from qup.cli.common import AsJson, Names, complete_machines, print_json
from qup.cli.main import globals_of
from qup.errors import MachineError, UsageError
from qup.guest import ssh as guest_ssh
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.process import missing_program
from qup.runner.observe import require_alive
from qup.runner.roster import Roster, read_roster

WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
"""Options of ssh that take a value (``ssh(1)``)."""
FORWARDING = frozenset("ADLRwXY")
"""Options that forward something: over a shared connection it would stay after the end, and the
agent would be that of whoever opened the connection."""
FORWARDING_KEYS = ("dynamicforward", "forward", "localforward", "remoteforward", "tunnel")
"""Beginnings of what does the same behind ``-o`` (``ssh_config(5)``)."""
CONTROL = frozenset("MOS")
"""Options about the shared connection itself."""


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME] [SSH OPTIONS] [-- COMMAND...]",
        help="The machine, options for ssh, and a command to run instead of a shell.",
        autocompletion=complete_machines,
        show_default=False,
    ),
]


def ssh(ctx: typer.Context, words: Words = None) -> None:
    """Open a shell in a machine, or run a command there.

    Input, output and exit code are those of the command. A single word after `--` is passed to
    the guest's shell as it is; several words arrive exactly as you typed them.

    Examples: `qup ssh`, `qup ssh web -- uname -a`, `qup ssh -L 8080:localhost:80`,
    `tar c . | qup ssh -- tar x`, `qup ssh -- 'echo $HOSTNAME | rev'`
    """
    project = globals_of(ctx).project()
    name, options, remote = split_words(words or [], read_roster(project))
    folder = project.machine(name)
    state = require_alive(folder)
    _replace_by_ssh(folder, state, options, remote)


def split_words(words: Sequence[str], roster: Roster) -> tuple[str, list[str], list[str]]:
    """Take a command line apart: machine, options for ssh, remote command.

    Raises:
        UsageError: there is no such machine, or it isn't clear which is meant.
    """
    rest = list(words)
    remote: list[str] = []
    if "--" in rest:
        cut = rest.index("--")
        rest, remote = rest[:cut], rest[cut + 1 :]
    options: list[str] = []
    names: list[str] = []
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and word != "-":
            options.append(word)
            if read_option(word)[1] == "" and rest:
                options.append(rest.pop(0))
        elif names:
            raise UsageError(
                f"{word!r} comes after the machine's name",
                hint=f"put the command behind '--': qup ssh {names[0]} -- {word} ...",
            )
        else:
            names.append(word)
    return roster.choose_one(names[0] if names else None), options, remote


def read_option(word: str) -> tuple[str, str | None]:
    """The letters of a word with options, such as ``-NL``, and the value behind the last one:
    empty if it is the next word, None if there is none.
    """
    for at, letter in enumerate(word[1:], 1):
        if letter in WITH_VALUE:
            return word[1 : at + 1], word[at + 1 :]
    return word[1:], None


def needs_own_connection(options: Sequence[str]) -> bool:
    """Whether these options of ssh mean nothing good on a connection that others share."""
    rest, own = list(options), False
    while rest:
        letters, value = read_option(rest.pop(0))
        if value == "" and rest:
            value = rest.pop(0)
        if CONTROL.intersection(letters):
            return False
        key = (value or "").strip().lower()
        if letters.endswith("o") and key.startswith("controlpath"):
            return False
        own = own or not FORWARDING.isdisjoint(letters)
        own = own or (letters.endswith("o") and key.startswith(FORWARDING_KEYS))
    return own


def _replace_by_ssh(
    folder: MachineFolder, state: State, options: Sequence[str], remote: Sequence[str]
) -> None:
    """Become ssh. Its exit code is then ours, and nothing of qup stays in memory."""
    assert state.launch is not None
    runtime = RuntimeFolder.of(state.launch.runtime)
    keys = SshFolder(folder.ssh)
    if not keys.config.exists():
        raise MachineError(
            f"machine {folder.name} is still starting", hint="'qup status' shows how far it is"
        )
    if needs_own_connection(options):
        options = ["-S", "none", *options]
    elif not guest_ssh.master_is_open(runtime):
        guest_ssh.spawn_master(keys, folder.name)
    remote = guest_ssh.with_environment(keys, remote)
    words = guest_ssh.command(keys, folder.name, options, remote)
    try:
        os.execvp(words[0], words)
    except FileNotFoundError as exc:
        raise missing_program("ssh") from exc


def ssh_config(ctx: typer.Context, names: Names = None, as_json: AsJson = False) -> None:
    """Print configuration for ssh and everything that is built on it: scp, rsync, Ansible,
    editors.

    Example: `qup ssh-config >> ~/.ssh/config`, then `scp file web:`
    """
    project = globals_of(ctx).project()
    roster = read_roster(project)
    blocks = []
    for name in roster.choose(names or []):
        folder = project.machine(name)
        try:
            require_alive(folder)
        except MachineError:
            if names:
                raise
            continue
        blocks.append(SshFolder(folder.ssh).config.read_text())
    if not blocks:
        raise MachineError("no machine is running", hint="'qup up' starts them")
    if as_json:
        print_json({"hosts": [_parse_block(block) for block in blocks]})
    else:
        typer.echo("\n".join(blocks), nl=False)


def _parse_block(block: str) -> dict[str, str]:
    """A block that we wrote ourselves as a table: one option a line, quoted if it has spaces."""
    pairs = (line.split(maxsplit=1) for line in block.splitlines())
    return {key: value.strip('"') for key, value in pairs}
