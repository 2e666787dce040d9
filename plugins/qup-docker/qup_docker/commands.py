"""``qup docker ...``: ways to the engine of a machine, for shells, programs and ``docker``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer  # noqa: TID251  for the options of commands; the command line has loaded it

from qup.api import (
    MachineError,
    ProjectMachine,
    QupError,
    complete_machines,
    follow,
    machines_of,
)
from qup_docker import PORT
from qup_docker.certificates import CA, CLIENT, CLIENT_KEY, forget_credentials
from qup_docker.contexts import (
    describe_context,
    make_context,
    name_context,
    remove_context,
    use_context,
)
from qup_docker.engine import ask_version
from qup_docker.shells import (
    CERTS,
    HOST,
    MACHINE,
    SHELLS,
    TLS,
    VARIABLES,
    add_to_no_proxy,
    find_no_proxy,
    find_shell,
    write_hint,
    write_removal,
    write_settings,
)

STEP = "docker"
"""The provisioner's name."""


def complete_shells(incomplete: str) -> list[str]:
    """Names of shells for tab completion."""
    return [name for name in SHELLS if name.startswith(incomplete)]


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
context_app = typer.Typer(
    no_args_is_help=True, help="Contexts of the `docker` command for machines."
)
app.add_typer(context_app, name="context")

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="The machine; can be left out when there is one, or a primary one.",
        autocompletion=complete_machines,
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def env(
    ctx: typer.Context,
    name: Name = None,
    shell: Annotated[
        str | None,
        typer.Option(
            metavar="SHELL",
            help=f"Write for this shell: {', '.join(SHELLS)}. Default: the one in SHELL.",
            autocompletion=complete_shells,
            show_default=False,
        ),
    ] = None,
    unset: Annotated[
        bool, typer.Option("--unset", "-u", help="Unset the variables instead of setting them.")
    ] = False,
    no_proxy: Annotated[
        bool, typer.Option("--no-proxy", help="Add the engine's address to NO_PROXY.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print commands that make a shell's `docker` use the engine of a machine.

    They are printed when the engine has answered.

    Examples: `eval $(qup docker env)`, `qup docker env web --shell fish`, `qup docker env -u`
    """
    if unset:
        if name is not None:
            raise typer.BadParameter("--unset is for all machines alike: leave the name out")
        names = [*VARIABLES, *([find_no_proxy(os.environ)] if no_proxy else [])]
        if as_json:
            _print_json({"unset": names})
        else:
            chosen = find_shell(shell or _detect_shell())
            _print(write_removal(chosen, names) + write_hint(chosen, _own_command()))
        return
    chosen = find_shell(shell or ("sh" if as_json else _detect_shell()))
    machine = _choose(ctx, name)
    address, port = _reach(machine)
    variables = {
        TLS: "1",
        HOST: f"tcp://{address}:{port}",
        CERTS: str(_own_folder(machine)),
        MACHINE: machine.name,
    }
    if no_proxy:
        variables.update([add_to_no_proxy(os.environ, address)])
    if as_json:
        _print_json({"machine": machine.name, "variables": variables})
    else:
        _print(write_settings(chosen, variables) + write_hint(chosen, _own_command()))


@app.command()
def config(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Print the options with which `docker` reaches the engine of a machine, one a line.

    They are printed when the engine has answered; `qup config` doesn't ask it.

    Example: `docker $(qup docker config web) ps`
    """
    machine = _choose(ctx, name)
    address, port = _reach(machine)
    folder = _own_folder(machine)
    files = (("tlscacert", CA), ("tlscert", CLIENT), ("tlskey", CLIENT_KEY))
    host = f"-H=tcp://{address}:{port}"
    if as_json:
        options = ["--tlsverify", *(f"--{key}={folder / file}" for key, file in files), host]
        _print_json({"machine": machine.name, "options": options})
        return
    # docker takes the quotation marks off, and so does a shell that evaluates the words.
    quoted = [f"--{key}={json.dumps(str(folder / file))}" for key, file in files]
    typer.echo("\n".join(["--tlsverify", *quoted, host]))


@app.command()
def url(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Print the address of a machine's engine: `tcp://ADDRESS:PORT`.

    Example: `qup docker url web`
    """
    machine = _choose(ctx, name)
    address, port = machine.reach(PORT)
    found = f"tcp://{address}:{port}"
    if as_json:
        _print_json({"machine": machine.name, "url": found})
    else:
        typer.echo(found)


@app.command("regenerate-certs")
def regenerate_certs(
    ctx: typer.Context,
    name: Name = None,
    client_certs: Annotated[
        bool, typer.Option("--client-certs", help="Make the CA and the client's anew as well.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", "--force", "-f", help="Don't ask.")] = False,
) -> None:
    """Make the certificate of a machine's engine anew; the engine is restarted.

    Examples: `qup docker regenerate-certs`, `qup docker regenerate-certs -y --client-certs web`
    """
    machine = _choose(ctx, name)
    folder = _own_folder(machine)
    if not yes:
        words = "all its certificates" if client_certs else "its engine's certificate"
        typer.confirm(f"{machine.name}: make {words} anew and restart the engine?", abort=True)
    forget_credentials(folder, everything=client_certs)
    try:
        machine.reach(PORT)
    except MachineError as exc:
        typer.echo(f"{machine.name}: the next 'qup up' makes new ones ({exc.message})", err=True)
        return
    qup = [sys.executable, "-m", "qup", "-C", str(machine.project)]
    step = ["provision", machine.name, "--with", STEP]
    done = follow([*qup, *step], lambda line: typer.echo(line, err=True), timeout=None)
    if done.code != 0:
        raise QupError(
            f"machine {machine.name}: its engine has no new certificate yet",
            hint=f"'qup up {machine.name}' tries again",
        )


@context_app.command("create")
def create_context(
    ctx: typer.Context,
    name: Name = None,
    called: Annotated[
        str | None,
        typer.Option("--name", metavar="CONTEXT", help="What it is called.", show_default=False),
    ] = None,
    use: Annotated[
        bool, typer.Option("--use", help="Make `docker` use it where nothing else is said.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give `docker` a context for a machine's engine; `qup up` keeps it up to date.

    Examples: `qup docker context create --use`, `docker --context PROJECT ps`
    """
    machine = _choose(ctx, name)
    address, port = _reach(machine)
    chosen = called or name_context(machine.project, machine.name)
    title = describe_context(machine.project, machine.name)
    new = make_context(_own_folder(machine), chosen, f"tcp://{address}:{port}", title)
    if use:
        use_context(chosen)
    if as_json:
        _print_json({"machine": machine.name, "context": chosen, "new": new, "used": use})
        return
    word = "made" if new else "mended"
    how = "docker uses it now" if use else f"docker --context {chosen} ps"
    typer.echo(f"{word} context {chosen}: {how}", err=True)


@context_app.command("rm")
def rm_context(ctx: typer.Context, name: Name = None, as_json: AsJson = False) -> None:
    """Remove the context that `qup docker context create` has made.

    Example: `qup docker context rm`
    """
    machine = _choose(ctx, name)
    removed = remove_context(machine.folder(STEP))
    if as_json:
        _print_json({"machine": machine.name, "context": removed})
    else:
        typer.echo(f"removed context {removed}" if removed else "there is none", err=True)


# --- what they share ------------------------------------------------------------------------


def _choose(ctx: typer.Context, name: str | None) -> ProjectMachine:
    return machines_of(ctx).choose(name)


def _own_folder(machine: ProjectMachine) -> Path:
    """Where the machine's certificates are.

    Raises:
        MachineError: it has none.
    """
    folder = machine.folder(STEP)
    if not all((folder / name).is_file() for name in (CA, CLIENT, CLIENT_KEY)):
        raise MachineError(
            f"machine {machine.name} is not a Docker host: it has no certificates",
            hint="add a step 'docker = true' to [[machine.provision]] in the Qupfile, then"
            f" 'qup up {machine.name}'",
        )
    return folder


def _reach(machine: ProjectMachine) -> tuple[str, int]:
    """The engine's address, after it has answered there.

    Raises:
        MachineError: the machine doesn't run, is no Docker host, or its engine doesn't answer.
    """
    try:
        address, port = machine.reach(PORT)
    except MachineError as exc:
        if exc.hint and not machine.folder(STEP).is_dir():
            exc.hint += f"; a Docker host has a step '{STEP} = true' in its Qupfile"
        raise
    ask_version(_own_folder(machine), address, port)
    return address, port


def _detect_shell() -> str:
    """The user's shell: SHELL, or what this was started from.

    Raises:
        QupError: nobody knows.
    """
    if shell := os.environ.get("SHELL"):
        return Path(shell).name
    try:
        parent = Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        parent = ""
    if parent.lstrip("-") in SHELLS:
        return parent.lstrip("-")
    raise QupError("which shell is this for?", hint=f"--shell {'|'.join(SHELLS)}")


def _own_command() -> list[str]:
    """The words that this was called by, as somebody would type them again."""
    program, *words = sys.argv
    path = Path(program)
    if path.name == "__main__.py":  # python -m qup
        return [sys.executable, "-m", "qup", *words]
    found = shutil.which(path.name)
    plain = found is not None and Path(found).resolve() == path.resolve()
    return [path.name if plain else program, *words]


def _print(text: str) -> None:
    typer.echo(text, nl=False)


def _print_json(data: Mapping[str, Any]) -> None:
    typer.echo(json.dumps({"schema": 1, **data}, indent=2))
