"""Making a template of a machine in which provisioning steps run.

The machine is restored from a boot template with a copy of its memory that is shared, so that
saving takes milliseconds. It is a machine like any other as long as the steps run: if one fails,
it stays what it is. If all succeed it is saved and ends, its keys go with the template and open
nothing any more, and the user's machine is the template's first clone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from qup.errors import QupError, StateError
from qup.files import clone_file, explain_os_error
from qup.guest.identity import IdentityPort, Persona
from qup.guest.keys import ensure_keys
from qup.host import boot_id
from qup.locks import lock
from qup.model.box import Box
from qup.model.drives import FURTHER
from qup.model.plan import Plan, ProvisionStep
from qup.model.state import State
from qup.model.units import format_size
from qup.ownership import make_private
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.qemu.cards import unplug_networks
from qup.qemu.migration import save_state
from qup.qemu.qmp import MonitorError, Qmp
from qup.runner.context import Context
from qup.runner.golden import NoTemplate, check_space
from qup.runner.observe import observe
from qup.runner.prepare import emulator_for, new_identity
from qup.runner.snapshots import DRAFT, clear_mark, forget_origin, read_mark, write_mark
from qup.runner.stillness import make_wait
from qup.runner.stop import clean_up, stop_locked
from qup.store import forget
from qup.templates.steps import describe_provisioned
from qup.templates.template import DISK, RAM, STATE, VARS, Template, is_image

MAKING_TIMEOUT = 3600.0
"""Seconds to wait for another process in which the same steps run."""
MONITOR_TIMEOUT = 5.0
SAVE_TIMEOUT = 60.0
WAIT_TIMEOUT = 30.0


@dataclass
class Draft:
    """A template that is to be made of a machine.

    Attributes:
        ctx: the surroundings.
        machine: the machine's name.
        key: what the template will fit.
        base: the boot template that the machine is restored from.
        began: when its making began.
    """

    ctx: Context
    machine: str
    key: str
    base: Template
    began: float = field(default_factory=time.monotonic)

    @property
    def place(self) -> Path:
        return self.ctx.templates.making_folder(self.key) / "files"

    @property
    def ram(self) -> Path:
        """The machine's memory, which the template will have."""
        return self.place / RAM

    def copy_memory(self) -> None:
        """Give the machine a memory of its own.

        Raises:
            NoTemplate: there is no room for it.
        """
        source = self.ctx.templates.folder(self.base.id)
        try:
            self.ctx.templates.clear_making(self.key)
            make_private(self.place)
            check_space(self.place, (source / RAM).stat().st_size)
            clone_file(source / RAM, self.ram, durable=False)
        except QupError as exc:
            raise NoTemplate(exc.message) from exc
        except OSError as exc:
            raise NoTemplate(str(explain_os_error("copy", source, exc))) from exc

    def copy_disks(self, folder: MachineFolder) -> None:
        """Give the machine disks that don't need the boot template's."""
        source = self.ctx.templates.folder(self.base.id)
        for name, path in self._images(folder).items():
            path.unlink(missing_ok=True)
            clone_file(source / name, path, durable=False)

    def _images(self, folder: MachineFolder) -> dict[str, Path]:
        """The machine's disk images by the names that they have in a template."""
        return {name: _find_image(folder, name) for name in self.base.files if is_image(name)}

    def finish(self, folder: MachineFolder, plan: Plan, box: Box, state: State) -> Template:
        """Save the machine. It has ended then, and never was: the next one is another.

        Raises:
            NoTemplate: it could not be saved. It goes on as it was, if it still runs.
        """
        persona = Persona.of(plan, ensure_keys(SshFolder(folder.ssh), folder.name)[0])
        steps = steps_of(plan)
        template = Template(
            id=new_identity(folder.name).id,
            key=self.key,
            visible=describe_provisioned(plan, emulator_for(self.ctx, plan), steps),
            box=box.spec.name,
            box_digest=box.digest,
            persona=asdict(persona),
            boot_id=boot_id(),
            steps=tuple(step.name for step in steps),
        )
        with self.ctx.phase(folder.name, "template", "saving the provisioned template") as phase:
            self._save(folder, plan, state, template.id)
            stop_locked(self.ctx, folder, observe(folder), force=True, timeout=0.0)
            took = round(time.monotonic() - self.began, 2)
            try:
                made = self.ctx.templates.publish(self.place, replace(template, seconds=took))
            except QupError as exc:
                clear_mark(folder, DRAFT)
                raise NoTemplate(exc.message) from exc
            phase.result = f"{format_size(self.ctx.templates.size(made))}, {made.id}"
        discard_machine(folder, state)
        return made

    def _save(self, folder: MachineFolder, plan: Plan, state: State, template: str) -> None:
        """Write the guest's state, and a copy of its disk; it stands still then, and without a
        network.
        """
        keys, name = SshFolder(folder.ssh), folder.name
        assert state.launch is not None
        runtime = RuntimeFolder.of(state.launch.runtime)
        if reason := make_wait(keys, name):
            raise NoTemplate(f"the guest can't be made to wait: {reason}")
        # From here on it can't go on as it is.
        write_mark(folder, DRAFT, template)
        try:
            with IdentityPort(runtime.identity, name) as port:
                port.refresh(WAIT_TIMEOUT)  # it waits for the next one now, and is proved to
            with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
                unplug_networks(monitor, plan)
                save_state(monitor, self.place / STATE, timeout=SAVE_TIMEOUT)
            for image, path in self._images(folder).items():
                clone_file(path, self.place / image, durable=False)
        except (QupError, MonitorError) as exc:
            stop_locked(self.ctx, folder, observe(folder), force=True, timeout=0.0)
            clear_mark(folder, DRAFT)
            raise NoTemplate(f"it could not be saved: {exc.message}") from exc


def _find_image(folder: MachineFolder, name: str) -> Path:
    """Where a machine has the disk that a template calls so."""
    if name == DISK:
        return folder.disk
    if name == VARS:
        return folder.firmware_vars
    return folder.further_disk(Path(name).stem.removeprefix(FURTHER))


def steps_of(plan: Plan) -> list[ProvisionStep]:
    """The provisioning steps that a machine's template can have behind it, in their order."""
    numbers = plan.template.steps if plan.template else ()
    return [plan.provision[number - 1] for number in numbers]


@contextlib.contextmanager
def hold_making(ctx: Context, machine: str, key: str) -> Iterator[bool]:
    """Be the one who makes a provisioned template; whether that is so.

    Whoever waits too long for another one goes on alone.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                lock(
                    ctx.templates.making_lock(key),
                    what=f"the provisioned template for {machine}",
                    timeout=MAKING_TIMEOUT,
                    on_wait=lambda text: ctx.tell(machine, text),
                )
            )
        except StateError:
            yield False
            return
        try:
            yield True
        finally:
            # A machine that goes on has its memory mapped: it keeps it.
            ctx.templates.clear_making(key)


def discard_machine(folder: MachineFolder, state: State) -> None:
    """Forget a machine that a template was made of: its name is free, and its keys are the
    template's.
    """
    folder.state.unlink(missing_ok=True)
    forget(state.id)
    for path in folder.ssh.iterdir():
        path.unlink()
    folder.hosts.unlink(missing_ok=True)
    forget_origin(folder)
    clear_mark(folder, DRAFT)


def discard_saved(ctx: Context, folder: MachineFolder, state: State) -> bool:
    """Finish what a qup has left that was killed when a machine had become a template; whether
    it had.
    """
    template = read_mark(folder, DRAFT)
    if template is None:
        return False
    if not any(item.id == template for item in ctx.templates.templates()):
        clear_mark(folder, DRAFT)
        return False
    clean_up(ctx, folder, state)
    discard_machine(folder, state)
    with lock(ctx.templates.lock_path, what="the cache of templates", timeout=ctx.lock_timeout):
        ctx.templates.remove_leftovers()
    return True
