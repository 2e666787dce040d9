"""What each way of bringing a machine up needs: the machine, what is asked of it, its plan."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from qup.errors import MachineError
from qup.model.box import BoxSpec
from qup.model.events import Timings as TimingsEvent
from qup.model.plan import Plan
from qup.model.state import State
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.folders import bring_folders, has_folders
from qup.runner.foreground import Attach
from qup.runner.prepare import identity_of, make_plan, new_identity
from qup.runner.provision import DURING, Wanted, provision
from qup.runner.save_point import is_lasting, keep_save_point
from qup.runner.stopwatch import Timings, write_timings
from qup.runner.warm import Origin

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


@dataclass(frozen=True)
class UpOptions:
    """What can be asked of ``up`` besides the configuration.

    Attributes:
        trust_accelerator: don't prove the accelerator that the configuration names.
        wanted: which provisioning steps are to run.
        attach: connects to the console; called before the guest prints anything.
        cold: boot a new machine, even if there is a template that fits.
        mortal: QEMU ends with this process, however that ends.
        anew: begin with a new disk, as at the first start; the machine stays who it is.
        no_cache: run provisioning steps though there is a template in which they have run.
    """

    trust_accelerator: bool = False
    wanted: Wanted = field(default_factory=Wanted)
    attach: Attach | None = None
    cold: bool = False
    mortal: bool = False
    anew: bool = False
    no_cache: bool = False


class Started(NamedTuple):
    """A machine whose ssh answers.

    Attributes:
        plan: what was carried out.
        state: the machine.
        origin: what it began with.
        failures: forwards that could not be opened.
        done: the numbers of the provisioning steps that this start has run.
    """

    plan: Plan
    state: State
    origin: Origin
    failures: list[MachineError]
    done: tuple[int, ...] = ()


@dataclass
class Work:
    """A machine that is being brought up.

    Attributes:
        ctx: the surroundings.
        config: what is asked of it.
        options: what is asked besides.
        folder: its folder.
    """

    ctx: Context
    config: MachineConfig
    options: UpOptions
    folder: MachineFolder

    @property
    def name(self) -> str:
        return self.config.name

    def plan(self, state: State | None, spec: BoxSpec, digest: str) -> Plan:
        """The plan for now."""
        identity = identity_of(state) if state else new_identity(self.name)
        trust = self.options.trust_accelerator
        return make_plan(self.ctx, self.config, identity, spec, digest, trust_accelerator=trust)

    def bring_folders(self, plan: Plan, state: State) -> bool:
        """Mount and copy folders into a guest that is up; whether there was anything to do."""
        if not has_folders(self.folder, plan):
            return False
        if not plan.seed_form.login:
            self.ctx.tell(self.name, "gets no folders: nobody can log in to it", level="warning")
            return False
        return bring_folders(self.ctx, self.folder, plan, state)

    def provision(
        self,
        plan: Plan,
        state: State,
        moments: Sequence[str] = DURING,
        numbers: Container[int] | None = None,
    ) -> tuple[State, tuple[int, ...]]:
        """Run the provisioning steps of some moments; the numbers of those that ran."""
        wanted = self.options.wanted
        return provision(
            self.ctx, self.config, plan, self.folder, state,
            wanted=wanted, moments=moments, numbers=numbers,
        )  # fmt: skip

    def note_timings(
        self, state: State, template: str | None = None, *, resumed: bool = False
    ) -> None:
        """Keep what a start took, and tell it."""
        self.ctx.watch.lap("end")
        assert state.launch is not None
        timings = Timings(state.launch.started, template, self.ctx.watch.phases, resumed)
        write_timings(self.folder, timings)
        total = round(timings.total, 3)
        self.ctx.emit(TimingsEvent(self.name, template, total, dict(timings.phases)))

    def keep_save_point(self, plan: Plan, ran: Sequence[int]) -> None:
        """Save the machine for ``reset``, if steps have made it what a start alone would not."""
        if is_lasting(self.folder, plan, ran, self.options.wanted) and not self.options.mortal:
            keep_save_point(self.ctx, self.config, self.folder, plan)


def report(machine: str, failures: list[MachineError]) -> None:
    """Say at the very end which forwards could not be opened: the machine runs without.

    Raises:
        MachineError: some could not.
    """
    if failures:
        raise MachineError(
            f"machine {machine} runs, but {len(failures)} of its forwards could not be opened",
            details="\n".join(failure.message for failure in failures),
            hint=f"free the port and run 'qup up {machine}' again, or take another port"
            " (0 picks one)",
            machine=machine,
        )
