"""Everything that can't work on this computer, looked for before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qup.errors import HostError
from qup.model.plan import Plan
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.display import find_display_problems
from qup.runner.folders import find_problems as find_folder_problems
from qup.runner.host_drives import find_conflicts, find_problems
from qup.runner.materials import check_seed

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

Found = tuple[str, str | None]
"""A problem, and what to do about it."""

PROGRAMS = (("qemu-img", "qemu-utils"), ("ssh", "openssh-client"))


@dataclass(frozen=True)
class Itself:
    """The machine as it runs while its next start is checked: it is in nobody's way.

    Attributes:
        pid: its QEMU.
        display: where its picture goes.
    """

    pid: int | None
    display: str | None


def check_computer(
    ctx: Context,
    config: MachineConfig,
    folder: MachineFolder,
    plan: Plan,
    itself: Itself | None = None,
) -> None:
    """Make sure that a plan can be carried out here.

    Args:
        ctx: the surroundings.
        config: what was asked.
        folder: the machine's folder.
        plan: what is to be started.
        itself: the machine, if it runs.

    Raises:
        HostError: with all the problems.
        ConfigError: the guest can't be told what the Qupfile wants it to be told.
    """
    check_seed(ctx, config, plan)
    problems = [
        *_find_network_problems(ctx, config, itself.pid if itself else None),
        *find_problems(plan, folder, ctx.boxes.folder(plan.box_digest or "")),
        *([] if itself else find_conflicts(plan, folder)),
        *find_display_problems(ctx, plan, held=itself.display if itself else None),
        *find_folder_problems(ctx, config, plan),
        *_find_shortages(ctx, plan),
    ]
    if problems:
        raise _combine(config.name, problems)


def _find_network_problems(ctx: Context, config: MachineConfig, own: int | None) -> Iterator[Found]:
    for use in config.nics:
        mode = ctx.plugins.network_modes[use.mode]
        for problem in mode.problems(use.options, ctx.host):
            if problem.pid is None or problem.pid != own:
                yield problem.message, problem.hint


def _find_shortages(ctx: Context, plan: Plan) -> Iterator[Found]:
    total = ctx.host.memory_mib
    if total and plan.memory_mib > total:
        text = f"memory = {plan.memory_mib} MiB, but this computer has {total} MiB in all"
        yield text, "lower 'memory' in the Qupfile"
    for program, package in PROGRAMS:
        if ctx.host.which(program) is None:
            hint = f"'qup doctor --fix' installs {package}"
            yield f"the program {program!r} was not found", hint


def _combine(machine: str, problems: list[Found]) -> HostError:
    if len(problems) == 1:
        message, hint = problems[0]
        return HostError(f"machine {machine}: {message}", hint=hint, machine=machine)
    lines = [f"- {message}" + (f" ({hint})" if hint else "") for message, hint in problems]
    return HostError(
        f"machine {machine}: {len(problems)} problems stand in the way",
        details="\n".join(lines),
        machine=machine,
    )
