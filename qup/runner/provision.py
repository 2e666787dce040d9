"""Running provisioning steps: each once, until its content changes; resumed where it failed."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from qup.errors import HostError, ProvisionError, UsageError
from qup.guest.session import SshGuest
from qup.model.environment import PLACE
from qup.model.events import Output
from qup.model.plan import Plan, ProvisionStep
from qup.model.state import State
from qup.model.units import MIB
from qup.paths import MachineFolder, SshFolder, runtime_folder
from qup.process import TooLong
from qup.runner.context import Context
from qup.runner.endpoint import find_way
from qup.runner.observe import observe
from qup.store import machine_names, write_state

if TYPE_CHECKING:
    from qup.model.config import Config, MachineConfig, ProvisionerUse

BEFORE, DURING = ("before-up",), ("up", "after-up")
"""The moments of steps, in their order."""

ALWAYS = "always"
"""The ``run`` of steps that run at each ``up``."""

OUTPUT_LIMIT = 16 * MIB
"""Bytes of one step's output that are shown and kept."""


@dataclass(frozen=True)
class Wanted:
    """Which steps are to run.

    Attributes:
        none: leave them all out.
        only: names of steps or provisioners: run these, whether they are done or not.
        again: run also those that are done.
    """

    none: bool = False
    only: tuple[str, ...] = ()
    again: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is what every ``up`` does."""
        return not (self.none or self.only or self.again)

    def takes(self, step: ProvisionStep, done: Sequence[str]) -> bool:
        """Whether a step is to run, where ``done`` is what has succeeded before."""
        if self.only:
            return step.name in self.only or step.provisioner in self.only
        if self.none or step.run == "never":
            return False
        return self.again or step.run == ALWAYS or step.mark not in done


def check_names(names: Sequence[str], config: Config) -> None:
    """Make sure that each name means a step of some machine.

    Raises:
        UsageError: it doesn't.
    """
    known = {
        word
        for machine in config.machines.values()
        for number, use in enumerate(machine.provision, 1)
        for word in (use.title(number), use.name)
    }
    for name in names:
        if name not in known:
            raise UsageError(
                f"no machine has a provisioning step {name!r}",
                hint=f"there is: {', '.join(sorted(known))}" if known else "there is none at all",
            )


def check_steps(
    ctx: Context, config: MachineConfig, plan: Plan, done: Sequence[str], wanted: Wanted
) -> None:
    """Make sure that the steps which are to run have what they need of this computer.

    Raises:
        HostError: with all that is missing.
    """
    problems = []
    for use, step in zip(config.provision, plan.provision, strict=True):
        find = getattr(ctx.plugins.provisioners[use.name], "problems", None)
        if find and wanted.takes(step, done):
            problems += [(step, it) for it in find(use.options, ctx.project.root, ctx.host)]
    if problems:
        step, first = problems[0]
        several = [f"{step.name}: {it.message} ({it.hint})" for step, it in problems]
        raise HostError(
            f"machine {config.name}: provisioning step {step.name} can't run: {first.message}",
            details="\n".join(several) if len(several) > 1 else None,
            hint=f"{first.hint}; --no-provision starts the machine without it",
            machine=config.name,
        )


def provision(
    ctx: Context,
    config: MachineConfig,
    plan: Plan,
    folder: MachineFolder,
    state: State,
    *,
    wanted: Wanted,
    moments: Sequence[str] = DURING,
    numbers: Container[int] | None = None,
) -> tuple[State, tuple[int, ...]]:
    """Run the steps of some moments that have to run; if numbers are given, only those.

    Returns:
        The state with what has succeeded, and the numbers of the steps that ran.

    Raises:
        ProvisionError: a step failed; those before it are remembered as done.
    """
    ran: list[int] = []
    done = state.provisioned
    uses = list(zip(config.provision, plan.provision, strict=True))
    for moment in moments:
        for number, (use, step) in enumerate(uses, 1):
            if step.on != moment or not wanted.takes(step, done):
                continue
            if numbers is not None and number not in numbers:
                continue
            _run_step(ctx, config, number, use, step, folder, state)
            ran.append(number)
            if step.run != ALWAYS and step.mark not in state.provisioned:
                state = replace(state, provisioned=(*state.provisioned, step.mark))
                write_state(folder, state)
    return state, tuple(ran)


@dataclass
class _Log:
    """One step's log, and the listener that is told the same lines."""

    ctx: Context
    machine: str
    source: str
    file: TextIO
    room: int = OUTPUT_LIMIT

    def add(self, text: str) -> None:
        if self.room < 0:
            return
        self.room -= len(text) + 1
        if self.room < 0:
            text = f"(more than {OUTPUT_LIMIT // MIB} MiB of output: the rest is left out)"
        self.file.write(text + "\n")
        self.ctx.emit(Output(self.machine, self.source, text))


def _run_step(
    ctx: Context,
    config: MachineConfig,
    number: int,
    use: ProvisionerUse,
    step: ProvisionStep,
    folder: MachineFolder,
    state: State,
) -> None:
    machine = config.name
    path = folder.log(f"provision-{number}")
    with suppress(FileNotFoundError):
        path.unlink()
    guest = SshGuest(
        machine,
        SshFolder(folder.ssh),
        runtime_folder(state.id),
        own=folder.provisioner(use.name),
        reach=lambda port: find_way(folder, port),
        timeout=step.timeout,
        environment=PLACE if config.settings.env else None,
        find_peers=lambda: _find_peers(ctx),
    )
    provisioner = ctx.plugins.provisioners[use.name]
    where = "on this computer" if step.on_host else "provisioning"
    with (
        path.open("x", encoding="utf-8", errors="replace") as file,
        ctx.phase(machine, "provision", f"{where}: {step.name}"),
    ):
        log = _Log(ctx, machine, step.name, file)
        try:
            provisioner.run(use.options, guest, ctx.project.root, log.add)
        except (ProvisionError, TooLong) as exc:
            late = isinstance(exc, TooLong)
            reason = f"it did not finish within {step.timeout:g} s" if late else exc.message
            raise ProvisionError(
                f"machine {machine}: provisioning step {number} ({step.name}) failed: {reason}",
                details=None if late else exc.details,
                hint=_advise(machine, step, path, exc.hint),
                machine=machine,
            ) from exc


def _find_peers(ctx: Context) -> dict[str, Path]:
    """Configuration for OpenSSH by name, of each machine of the project that is up."""
    folders = [ctx.project.machine(name) for name in machine_names(ctx.project)]
    return {
        folder.name: SshFolder(folder.ssh).config
        for folder in folders
        if observe(folder, thorough=False).ready
    }


def _advise(machine: str, step: ProvisionStep, log: object, hint: str | None) -> str:
    again = f"'qup up {machine}' tries this step again"
    runs = again if step.on in BEFORE else f"the machine runs, {again}"
    return f"{hint + '; ' if hint else ''}its log: {log}; {runs}"
