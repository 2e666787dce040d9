"""``qup upgrade``."""

from __future__ import annotations

import typer

from qup.cli.common import AsJson, Force, Names, Quiet, for_each
from qup.cli.main import globals_of
from qup.cli.settings import Overrides, with_settings
from qup.cli.up import NoProvision, TrustAccelerator, checked_config, make_options, roster_of


@with_settings
def upgrade(
    ctx: typer.Context,
    names: Names = None,
    force: Force = False,
    trust_accelerator: TrustAccelerator = False,
    no_provision: NoProvision = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    overrides: Overrides,
) -> None:
    """Boot machines from the newest ISO of their box; their disks stay as they are.

    For `boot2docker`, `rancheros` and a releases API, that is the newest release; for an address,
    whatever is there now. A running machine is restarted. If the new ISO does not come up, the
    machine gets the old one back, and the exit code is 10. Without names: all existing machines
    that boot from an ISO.

    Examples: `qup upgrade`, `qup upgrade docker`
    """
    from qup.runner.upgrade import upgrade as run_upgrade
    from qup.store import read_state
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, overrides)
        options = make_options(config, trust_accelerator, no_provision, None)
        chosen = roster_of(config).choose(names or [])
        if not names:
            states = {name: read_state(context.project.machine(name)) for name in chosen}
            boxes = {
                name: context.boxes.get(state.box_digest) for name, state in states.items() if state
            }
            chosen = [name for name, box in boxes.items() if box is not None and box.spec.iso]
            if not chosen:
                context.tell("", "no machine here boots from an ISO: there is nothing to upgrade")

        def act(name: str) -> None:
            run_upgrade(context, config.machines[name], options, force=force)

        for_each(context, chosen, act)
