"""``qup sync``."""

from __future__ import annotations

from typing import Annotated

import typer

from qup.cli.common import AsJson, Names, Quiet
from qup.cli.main import globals_of
from qup.cli.settings import Overrides


def sync(
    ctx: typer.Context,
    names: Names = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Keep copying whatever changes, until Ctrl-C."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring the copies of folders in running machines up to date, once or continuously.

    This is about those `[[machine.folders]]` that are copied, not mounted. What is new or
    different here is sent; what qup has put into the guest and is gone here is removed there.
    Nothing is copied back. `qup up` does the same, once.

    Examples: `qup sync`, `qup sync web`, `qup sync --watch`
    """
    from qup.cli.up import checked_config, roster_of
    from qup.runner import sync as runner
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, Overrides())
        roster = roster_of(config)
        chosen = roster.choose(names or [], default="autostart")
        machines = [config.machines[name] for name in chosen]
        if watch:
            runner.watch(context, machines)
        else:
            for machine in machines:
                runner.sync(context, machine)
