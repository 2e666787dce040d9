"""``qup box export``: a box that is made of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qup.cli.common import AsJson, Quiet, complete_machines
from qup.cli.main import globals_of
from qup.runner.roster import read_roster
from qup.ui import open_interface

SUFFIX = ".box"


def export(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The machine; it has to be down.", autocompletion=complete_machines
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The box. Default: NAME.box, here."),
    ] = None,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Don't boot a copy to clean it: the box contains keys, logs and everything.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a machine that is down into a box: one file that others can use.

    qup boots a copy of the machine and removes from it what made it this machine: qup's key, host
    keys, the machine id, cloud-init's records, leases, logs and histories. The machine itself
    stays as it is. FILE can be the `box` of a Qupfile, or be given to `qup box add`; its digest
    is in FILE.sha256.

    Examples: `qup box export web`, `qup box export web images/web-7.box`
    """
    from qup.cli.settings import Overrides, load_config, require_trust
    from qup.runner.export import Wish
    from qup.runner.export import export as run_export

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        machine = read_roster(context.project).choose_one(name)
        config = load_config(context, Overrides())
        require_trust(context, config)
        target = (file or Path(f"{machine}{SUFFIX}")).absolute()
        if target.is_dir():
            target /= f"{machine}{SUFFIX}"
        run_export(context, config.machines[machine], Wish(target, as_is, force))
