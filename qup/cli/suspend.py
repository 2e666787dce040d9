"""``qup suspend`` and ``resume``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qup.cli.common import AsJson, Jobs, Names, Quiet, for_each
from qup.cli.main import globals_of
from qup.cli.settings import Overrides
from qup.errors import MachineError, QupError
from qup.runner.observe import SUSPENDED, observe
from qup.runner.parallel import invert
from qup.runner.roster import read_roster

if TYPE_CHECKING:
    from qup.model.config import Config
    from qup.runner.context import Context


def suspend(
    ctx: typer.Context,
    names: Names = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the memory of machines to disk and end their QEMU; `qup resume` continues them.

    A suspended machine uses no memory and no processor time, and survives a restart of this
    computer. Its programs carry on later in the middle of what they were doing. It is no error if
    a machine is not running.

    Examples: `qup suspend`, `qup suspend web db`
    """
    from qup.runner.suspend import suspend as run_suspend
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        roster = read_roster(context.project)
        chosen = roster.choose(names or [])

        def act(name: str) -> None:
            folder = context.project.machine(name)
            if not run_suspend(context, folder):
                status = observe(folder, thorough=False).status
                told = "suspended already" if status == SUSPENDED else f"not running ({status})"
                context.tell(name, f"is {told}")

        for_each(context, chosen, act, jobs=jobs, after=invert(roster.after))


def resume(
    ctx: typer.Context,
    names: Names = None,
    timings: Annotated[bool, typer.Option("--timings", help="Show what each phase took.")] = False,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Continue suspended machines where they were, and wait until ssh answers.

    `qup up` does this too, and also runs new provisioning steps. It is no error if a machine is
    running already; a stopped one is left alone.

    Examples: `qup resume`, `qup resume web`
    """
    from qup.cli.up import checked_config, roster_of, tell_timings
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, Overrides())
        roster = roster_of(config)
        chosen = roster.choose(names or [])
        for_each(
            context,
            chosen,
            lambda name: _resume_or_say(context, config, name),
            jobs=jobs,
            after=roster.after,
        )
    if timings and not as_json:
        tell_timings(context, chosen)


def _resume_or_say(context: Context, config: Config, name: str) -> None:
    seen = observe(context.project.machine(name), thorough=False)
    if not seen.alive and seen.status != SUSPENDED:
        context.tell(name, f"is not suspended ({seen.status}): 'qup up {name}' starts it")
    elif not bring_back(context, config, name):
        context.tell(name, "is up already")


def bring_back(context: Context, config: Config, name: str) -> bool:
    """Let a machine go on that is suspended, without provisioning; whether it had to be."""
    from qup.runner.provision import Wanted
    from qup.runner.up import up
    from qup.runner.work import UpOptions

    return up(context, config.machines[name], UpOptions(wanted=Wanted(none=True)))


def resume_to_shut_down(context: Context, name: str) -> None:
    """Have a guest run again that is suspended, so that it can shut down properly.

    Raises:
        QupError: it can't; it is suspended as before, and the hint says how to give it up.
    """
    from qup.cli.up import checked_config

    folder = context.project.machine(name)
    seen = observe(folder, thorough=False)
    cut_off = seen.alive and not seen.let_go and folder.suspended.is_dir()
    if seen.status != SUSPENDED and not cut_off:
        return
    give_up = (
        f"'qup down --force {name}' discards its memory, as a power cut would, and keeps its disks"
    )
    try:
        config = checked_config(context, Overrides())
    except QupError as exc:
        exc.hint = "; or ".join(filter(None, (exc.hint, give_up)))
        raise
    if name not in config.machines:
        raise MachineError(
            f"machine {name} is suspended, and no longer in the Qupfile: it can't go on to be"
            " shut down",
            hint=f"put it back; or {give_up}",
            machine=name,
        )
    context.tell(name, "is suspended: resuming it, to shut it down properly")
    bring_back(context, config, name)
