"""``qup url``, ``active`` and ``config``: words for those who use Docker in a machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import typer

from qup.cli.common import AsJson, Name, print_json
from qup.cli.main import globals_of
from qup.errors import ConfigError, MachineError, QupError
from qup.model.text import printable
from qup.paths import MachineFolder, Project
from qup.runner.endpoint import TLS_PORT, find_credentials, find_endpoint
from qup.runner.roster import read_roster

DOCKER_HOST = "DOCKER_HOST"


def url(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Print where this computer can reach a machine's Docker engine: `tcp://ADDRESS:PORT`.

    With the user network, this needs a forward to the guest's port 2376 (or 2375 for an engine
    without TLS). With other networks it is the guest's own address.

    Example: `qup url web`
    """
    folder = _choose(ctx, name)
    endpoint = find_endpoint(folder)
    if as_json:
        print_json({"machine": folder.name, "url": endpoint.url, "guest_port": endpoint.guest})
    else:
        typer.echo(endpoint.url)


def active(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Print which running machine, of any of your projects, `DOCKER_HOST` leads to.

    If there is none, the exit code is 1. The machine's `qup url` is compared with `DOCKER_HOST`.

    Example: `qup active`
    """
    wanted = os.environ.get(DOCKER_HOST)
    if not wanted:
        raise QupError("no active machine: DOCKER_HOST is not set")
    for folder in _all_machines(ctx):
        try:
            found = find_endpoint(folder).url
        except QupError:
            continue
        if found == wanted.rstrip("/"):
            if as_json:
                print_json({"machine": folder.name, "project": str(folder.project), "url": found})
            else:
                typer.echo(folder.name)
            return
    raise QupError(f"no active machine: no running machine is at {printable(wanted)}")


def config(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Print the options with which `docker` reaches a machine's engine, one per line.

    An engine with TLS, on the guest's port 2376, needs certificates: a step `docker = true` makes
    them (plugin qup-docker). Over ssh there is no need for any.

    Example: `docker $(qup config web) ps`
    """
    folder = _choose(ctx, name)
    endpoint = find_endpoint(folder)
    files = find_credentials(folder) if endpoint.guest == TLS_PORT else []
    if endpoint.guest == TLS_PORT and not files:
        raise MachineError(
            f"machine {folder.name} has no certificates for Docker's TLS",
            hint="a step 'docker = true' makes some (plugin qup-docker); ssh needs none:"
            f" 'qup ssh-config {folder.name} >> ~/.ssh/config', then"
            f" 'docker -H ssh://{folder.name}'",
            machine=folder.name,
        )
    tls = ["--tlsverify"] if files else []
    if as_json:
        options = [*tls, *(f"--{option}={path}" for option, path in files), f"-H={endpoint.url}"]
        print_json({"machine": folder.name, "options": options})
        return
    # docker takes the quotation marks off, and so does a shell that evaluates the words.
    lines = [f"--{option}={json.dumps(str(path))}" for option, path in files]
    typer.echo("\n".join([*tls, *lines, f"-H={endpoint.url}"]))


def _choose(ctx: typer.Context, name: str | None) -> MachineFolder:
    project = globals_of(ctx).project()
    return project.machine(read_roster(project).choose_one(name))


def _all_machines(ctx: typer.Context) -> Iterator[MachineFolder]:
    """The machines of the project here, if there is one, then all others of the user."""
    from qup import store

    seen = set()
    try:
        project = globals_of(ctx).project()
    except ConfigError:
        pass
    else:
        for name in read_roster(project).names:
            folder = project.machine(name)
            seen.add(folder)
            yield folder
    for entry in store.indexed():
        folder = Project(entry.project).machine(entry.name)
        if folder not in seen:
            yield folder
