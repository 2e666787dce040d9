"""Running provisioning steps: each once, until its content changes; resumed where it failed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qup.errors import ProvisionError
from qup.guest.session import SshGuest
from qup.model.config import MachineConfig, ProvisionerUse
from qup.model.events import Output
from qup.model.plan import Plan, ProvisionStep
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder, runtime_folder
from qup.runner.context import Context
from qup.store import write_state


@dataclass
class _Log:
    """One step's log, and the listener that is told the same lines."""

    ctx: Context
    machine: str
    source: str
    folder: MachineFolder
    stream: str

    def add(self, text: str) -> None:
        with self.folder.log(self.stream).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        self.ctx.emit(Output(self.machine, self.source, text))


def provision(
    ctx: Context, config: MachineConfig, plan: Plan, folder: MachineFolder, state: State
) -> bool:
    """Run the steps that have not succeeded yet; returns whether there were any.

    Raises:
        ProvisionError: a step failed; those before it are remembered as done.
    """
    done = set(state.provisioned)
    ran = False
    for number, (use, step) in enumerate(zip(config.provision, plan.provision, strict=True), 1):
        if step.digest in done:
            continue
        _run_step(ctx, config.name, number, use, step, folder, state)
        state = replace(state, provisioned=(*state.provisioned, step.digest))
        write_state(folder, state)
        ran = True
    return ran


def _run_step(
    ctx: Context,
    machine: str,
    number: int,
    use: ProvisionerUse,
    step: ProvisionStep,
    folder: MachineFolder,
    state: State,
) -> None:
    stream = f"provision-{number}"
    folder.log(stream).unlink(missing_ok=True)
    log = _Log(ctx, machine, step.provisioner, folder, stream)
    runtime: RuntimeFolder = runtime_folder(state.id)
    guest = SshGuest(machine, SshFolder(folder.ssh), runtime)
    provisioner = ctx.plugins.provisioners[use.name]
    with ctx.phase(machine, "provision", f"provisioning: {use.name} ({number})"):
        try:
            provisioner.run(use.options, guest, ctx.project.root, log.add)
        except ProvisionError as exc:
            raise ProvisionError(
                f"machine {machine}: provisioning step {number} ({use.name}) failed: {exc.message}",
                details=exc.details,
                hint=f"its log: {folder.log(stream)}; the machine runs, 'qup up {machine}' tries"
                " this step again",
                machine=machine,
            ) from exc
