"""``qup up``, ``reload``, ``reset`` and ``provision``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qup.cli.common import AsJson, Force, Jobs, Names, Quiet, for_each, print_table
from qup.cli.main import globals_of
from qup.cli.settings import Overrides, load_config, require_trust, with_settings
from qup.errors import QupError, UsageError
from qup.runner.roster import Member, Roster
from qup.runner.stopwatch import PHASES, process_age, read_timings

if TYPE_CHECKING:
    from qup.model.config import Config
    from qup.runner.context import Context
    from qup.runner.work import UpOptions
    from qup.ui import Interface

TrustAccelerator = Annotated[
    bool,
    typer.Option(
        "--trust-accelerator", help="Don't prove that the accelerator named in the Qupfile works."
    ),
]
NoProvision = Annotated[bool, typer.Option("--no-provision", help="Don't run provisioning steps.")]
ProvisionWith = Annotated[
    list[str] | None,
    typer.Option(
        "--provision-with",
        metavar="STEP",
        help="Run only this provisioning step, even if it is done: a step's name, or a"
        " provisioner's for all of its steps. Can be given more than once.",
    ),
]

NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Run the provisioning steps of a new machine, even if there is a template in which"
        " they have run.",
    ),
]
Cold = Annotated[
    bool, typer.Option("--cold", help="Boot a new machine, even if there is a template for it.")
]


@with_settings
def up(
    ctx: typer.Context,
    names: Names = None,
    trust_accelerator: TrustAccelerator = False,
    no_provision: NoProvision = False,
    provision_with: ProvisionWith = None,
    cold: Cold = False,
    no_cache: NoCache = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Show what each phase of the start took.")
    ] = False,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    overrides: Overrides,
) -> None:
    """Start machines and wait until ssh answers; create them first if they don't exist.

    Without names: all machines except those with `autostart = false`. A suspended machine is
    resumed. For a machine that is up already, changes in the Qupfile are applied if that is
    possible while it runs; if not, qup says so.

    With `--nographic`, you see one machine's console in this terminal, from the firmware's first
    byte until the guest powers off. Ctrl-] leaves it, and the machine keeps running.

    Examples: `qup up`, `qup up web --memory 2G`, `qup up --set network.forward='["8080:80"]'`
    """
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, overrides)
        options = make_options(config, trust_accelerator, no_provision, provision_with)
        options = replace(options, cold=cold, no_cache=no_cache)
        roster = roster_of(config)
        chosen = roster.choose(names or [], default="autostart")
        work = _Work(context, config, roster, show, options, jobs=jobs, as_json=as_json)
        running = work.do(chosen, partial(_start, context, config))
    if timings and not as_json:
        tell_timings(context, running)
    if not as_json and not quiet:
        _say_how_to_get_in(context, config, running)


@with_settings
def reload(
    ctx: typer.Context,
    names: Names = None,
    force: Force = False,
    trust_accelerator: TrustAccelerator = False,
    no_provision: NoProvision = False,
    provision_with: ProvisionWith = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    overrides: Overrides,
) -> None:
    """Shut machines down and start them again with the Qupfile as it is now.

    Examples: `qup reload`, `qup reload web --force`
    """
    from qup.cli.suspend import resume_to_shut_down
    from qup.runner import stop
    from qup.runner.up import check_start
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, overrides)  # before anything is stopped
        options = make_options(config, trust_accelerator, no_provision, provision_with)
        roster = roster_of(config)
        chosen = roster.choose(names or [], default="autostart")

        def act(name: str, options: UpOptions) -> None:
            check_start(context, config.machines[name], options)
            if not force:
                resume_to_shut_down(context, name)
            stop.down(context, context.project.machine(name), force=force)
            _start(context, config, name, options)

        work = _Work(context, config, roster, show, options, jobs=jobs, as_json=as_json)
        work.do(chosen, act)


@with_settings
def reset(
    ctx: typer.Context,
    names: Names = None,
    cold: Cold = False,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    overrides: Overrides,
) -> None:
    """Take machines back to their state after the last `up` that provisioned them.

    Memory and disk are restored to that state, whether the machine is running or not; everything
    since then is lost. Names, keys, addresses and ports stay. Steps that run at each `up` run
    again. If a machine's hardware or steps have changed in the Qupfile, or its state could not be
    saved, it is created afresh. Test suites do this between two tests.

    Examples: `qup reset`, `qup reset web`
    """
    from qup.runner.reset import reset as run_reset
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, overrides)
        options = replace(make_options(config, False, False, None), cold=cold)
        roster = roster_of(config)
        chosen = roster.choose(names or [], default="autostart")
        for_each(
            context,
            chosen,
            lambda name: run_reset(context, config.machines[name], options),
            jobs=jobs,
            after=roster.after,
        )


@dataclass(frozen=True)
class _Work:
    """Starting machines: several in the background, or one whose console is in the terminal."""

    context: Context
    config: Config
    roster: Roster
    show: Interface
    options: UpOptions
    jobs: int | None
    as_json: bool

    def do(self, chosen: list[str], act: Callable[[str, UpOptions], None]) -> list[str]:
        """Start them by ``act``; returns those that run on."""
        front = [name for name in chosen if self.config.machines[name].settings.qemu.nographic]
        if front:
            return self._do_in_front(chosen, act)
        if len(chosen) > 1 and self.jobs != 1:
            from qup.runner.up import share_imports

            share_imports()
        for_each(
            self.context,
            chosen,
            lambda name: act(name, self.options),
            jobs=self.jobs,
            after=self.roster.after,
        )
        return chosen

    def _do_in_front(self, chosen: list[str], act: Callable[[str, UpOptions], None]) -> list[str]:
        from qup.cli.foreground import start_in_front
        from qup.ui import HeldBack

        if len(chosen) > 1:
            raise UsageError(
                f"nographic gives the terminal to one machine's console, and there are"
                f" {len(chosen)} machines: {', '.join(chosen)}",
                hint="name one of them, or start all in the background with --no-nographic",
            )
        if self.as_json:
            raise UsageError(
                "nographic and --json both want standard output",
                hint="--no-nographic starts the machine in the background",
            )
        (name,) = chosen
        held = HeldBack(self.show)
        self.context.listener = held
        folder = self.context.project.machine(name)
        runs = start_in_front(
            self.context, folder, self.options, lambda options: act(name, options), held
        )
        return [name] if runs else []


def provision(
    ctx: typer.Context,
    names: Names = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="STEP",
            help="Run only this step: a step's name, or a provisioner's for all of its steps."
            " Can be given more than once.",
        ),
    ] = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the provisioning steps of running machines again, whether they are done or not.

    Steps that are new or have changed run by themselves at the next `qup up`.

    Examples: `qup provision`, `qup provision web --with database`
    """
    from qup.runner.provision import Wanted
    from qup.runner.up import provision_again
    from qup.runner.work import UpOptions
    from qup.ui import open_interface

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        config = checked_config(context, Overrides())
        _check_steps(config, steps or [])
        options = UpOptions(wanted=Wanted(only=tuple(steps or ()), again=True))
        roster = roster_of(config)
        for_each(
            context,
            roster.choose(names or []),
            lambda name: provision_again(context, config.machines[name], options),
            jobs=jobs,
            after=roster.after,
        )


def make_options(
    config: Config, trust_accelerator: bool, no_provision: bool, steps: list[str] | None
) -> UpOptions:
    """What was asked of a start besides the configuration."""
    from qup.runner.provision import Wanted
    from qup.runner.work import UpOptions

    _check_steps(config, steps or [])
    wanted = Wanted(none=no_provision, only=tuple(steps or ()))
    return UpOptions(trust_accelerator=trust_accelerator, wanted=wanted)


def _check_steps(config: Config, steps: list[str]) -> None:
    from qup.runner.provision import check_names

    if steps:
        check_names(steps, config)


def checked_config(context: Context, overrides: Overrides) -> Config:
    """The Qupfile's configuration, which is trusted if it has to be."""
    age, began = process_age(), time.monotonic()
    config = load_config(context, overrides)
    require_trust(context, config)
    context.prelude = {"process": age, "qupfile": time.monotonic() - began}
    return config


def roster_of(config: Config) -> Roster:
    """The machines of a Qupfile that has been read as a whole."""
    return Roster(
        tuple(
            Member(name, settings.autostart, settings.primary, settings.after)
            for name, settings in config.settings.items()
        )
    )


def _start(context: Context, config: Config, name: str, options: UpOptions) -> None:
    from qup.runner.up import up as run_up

    try:
        changed = run_up(context, config.machines[name], options)
    except QupError as exc:
        exc.machine = exc.machine or name
        raise
    if not changed:
        context.tell(name, "is up already")


def tell_timings(context: Context, names: list[str]) -> None:
    """Show what the newest start of each took."""
    for name in names:
        found = read_timings(context.project.machine(name))
        if found is None:
            context.tell(name, "it is not known what its start took")
            continue
        way = f"restored from template {found.template}" if found.template else "booted"
        way = "resumed" if found.resumed else way
        typer.echo(f"{name}: {way}, {found.started}")
        rows = [
            [phase, f"{seconds:7.3f}", f"{_percent(seconds, found.total):4.0f}", PHASES[phase]]
            for phase, seconds in found.phases.items()
            if phase in PHASES
        ]
        print_table(
            ["PHASE", "SECONDS", "   %", ""], [*rows, ["all", f"{found.total:7.3f}", " 100", ""]]
        )


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _say_how_to_get_in(context: Context, config: Config, chosen: list[str]) -> None:
    from qup.store import read_state

    for name in chosen:
        state = read_state(context.project.machine(name))
        if state and state.launch and not state.launch.login:
            typer.echo(f"{name} runs: qup console{'' if len(config.machines) == 1 else ' ' + name}")
            continue
        forwards = any(getattr(use.options, "forward", ()) for use in config.machines[name].nics)
        word = "qup ssh" if len(config.machines) == 1 else f"qup ssh {name}"
        line = f"{name} is ready: {word}"
        if forwards:
            line += f"   (ports: qup port list{'' if len(config.machines) == 1 else ' ' + name})"
        typer.echo(line)
