"""A machine whose QEMU doesn't live: it is booted, or restored from a template."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qup.errors import GuestError, Interrupted, MachineError, QupError
from qup.files import rotate_file
from qup.host import boot_id
from qup.model.box import Box
from qup.model.plan import Plan
from qup.model.state import Launch, State
from qup.paths import MachineFolder, RuntimeFolder, runtime_folder
from qup.process import run
from qup.qemu.engine import Engine
from qup.qemu.engine import start as start_qemu
from qup.runner.boxes import require_box
from qup.runner.changes import tell_obstacles
from qup.runner.context import Context
from qup.runner.display import announce_display, display_of
from qup.runner.draft import Draft, discard_saved, steps_of
from qup.runner.drives import check_disks
from qup.runner.environment import share_environment
from qup.runner.firmware import find_firmware
from qup.runner.firstboot import finish_first_boot
from qup.runner.folders import find_servers
from qup.runner.foreground import attach_console
from qup.runner.holding import hold_templates, let_go
from qup.runner.layering import start_for_others
from qup.runner.layout import layout_for
from qup.runner.materials import check_disk, discard_disks, find_stock, now, prepare
from qup.runner.observe import CRASHED, Observation, observe
from qup.runner.open_ports import NO_PORTS, OpenPorts, open_ways
from qup.runner.peers import share_names
from qup.runner.preflight import Itself, check_computer
from qup.runner.prepare import new_identity
from qup.runner.provision import ALWAYS, BEFORE, check_steps
from qup.runner.ready import wait_until_ready
from qup.runner.save_point import drop_save_point
from qup.runner.stop import clean_up, stop_locked
from qup.runner.stored_plan import read_plan, write_plan
from qup.runner.suspended import discard
from qup.runner.warm import (
    Origin,
    Steps,
    become,
    choose_origin,
    find_base,
    restore,
    set_aside,
)
from qup.runner.whereabouts import note_ways
from qup.runner.work import Started, UpOptions, Work, report
from qup.store import forget, is_copy, read_state, remember, write_state, write_undo
from qup.templates.template import Template

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

ACTION_TIMEOUT = 20.0
OWN_LOG_LIMIT = 1 << 20
"""Bytes of QEMU's and qup's logs that are kept over a start, and as much again before them."""


def connect(
    ctx: Context,
    config: MachineConfig,
    folder: MachineFolder,
    plan: Plan,
    state: State,
    engine: Engine,
    ports: OpenPorts = NO_PORTS,
) -> tuple[State, list[MachineError]]:
    """Open the forwards of a guest that was restored as the machine it was, those that it had
    among them, and let it go.

    Returns:
        The state, and what could not be opened.
    """
    work = Starting(ctx, config, UpOptions(), folder, ports)
    return work.connect(plan, state, engine, None)


def forget_unfinished(folder: MachineFolder, state: State) -> bool:
    """Forget a machine whose start was cut off between being the template's guest and being
    itself, and whose QEMU has ended: it never was. Returns whether it is one.
    """
    launch = state.launch
    if launch is None or not launch.restored or launch.ready:
        return False
    forget(state.id)
    folder.state.unlink(missing_ok=True)
    return True


@dataclass
class Starting(Work):
    """A machine that is started.

    Attributes:
        ports: those that it shall have again.
    """

    ports: OpenPorts = NO_PORTS

    def start(self, seen: Observation) -> bool:
        """Start a machine that isn't running."""
        old = self._recover(seen)
        watch = self.ctx.watch
        box = require_box(self.ctx, self.config, old)
        watch.lap("box")
        plan = self.plan(old, box.spec, box.digest)
        watch.lap("plan")
        check_computer(self.ctx, self.config, self.folder, plan)
        done = old.provisioned if old and not self.options.anew else ()
        check_steps(self.ctx, self.config, plan, done, self.options.wanted)
        if old is not None:
            tell_obstacles(self.ctx, self.folder, plan.to_dict())
        announce_display(self.ctx, self.config, plan)
        if self.options.anew and old is not None:
            drop_save_point(self.folder)
            discard_disks(self.folder)
            old = None
        watch.lap("preflight")
        with watch.around("template"):
            origin = choose_origin(
                self.ctx, self.config, plan, box, state=old, cold=self.options.cold,
                steps=self._way_of_steps(),
            )  # fmt: skip
        if origin.keep:
            started = start_for_others(self, plan, box, origin)
        else:
            started = self.come_up(plan, box, old, origin)
        plan, state = started.plan, started.state
        left = [number for number, _ in enumerate(plan.provision, 1) if number not in started.done]
        state, ran = self.provision(plan, state, numbers=left)
        if ran:
            watch.lap("provision")
        self.keep_save_point(plan, (*started.done, *ran))
        watch.lap("save")
        template = started.origin.template
        self.note_timings(state, template.id if template else None)
        report(self.name, started.failures)
        return True

    def _way_of_steps(self) -> Steps:
        """Whether templates have a part in how the steps of a new machine are done."""
        if not self.options.wanted.plain:
            return Steps.RUN
        if self.options.anew:  # it keeps its keys, so none can be made of it
            return Steps.LOOK
        return Steps.RENEW if self.options.no_cache else Steps.TAKE

    def come_up(
        self, plan: Plan, box: Box, old: State | None, origin: Origin, draft: Draft | None = None
    ) -> Started:
        """Get a machine to the point where its provisioning steps may run."""
        try:
            state, failures = self._bring_up(plan, box, old, origin, draft)
        except QupError as exc:
            if origin.template is None or isinstance(exc, Interrupted):
                raise
            # It never was: killed from here on, it is a new one for the next `up`.
            self.folder.state.unlink(missing_ok=True)
            let_go(self.folder, origin.template.id)
            set_aside(self.ctx, self.name, origin.template, exc.message)
            origin = Origin(reason="the template failed")
            state, failures = self._bring_up(plan, box, old, origin)
        login, watch = plan.seed_form.login, self.ctx.watch
        share_names(self.ctx, self.config, login=login)
        share_environment(self.ctx, self.config, login=login)
        watch.lap("names")
        # Where steps have run, somebody has waited for it.
        if old is None and login and not (origin.template and origin.template.steps):
            finish_first_boot(self.ctx, self.folder, plan)
            watch.lap("first-boot")
        # Steps that a template has behind it have said that they use no folder.
        if draft is None and self.bring_folders(plan, state):
            watch.lap("folders")
        return Started(plan, state, origin, failures)

    def _bring_up(
        self, plan: Plan, box: Box, old: State | None, origin: Origin, draft: Draft | None = None
    ) -> tuple[State, list[MachineError]]:
        """Start a machine, restored or booted, until ssh answers."""
        template = origin.template
        below = None if draft else template
        base = find_base(self.ctx, box, old, below)
        key = below.id if below else None
        watch = self.ctx.watch
        state = prepare(self.ctx, self.config, self.folder, plan, box, old, base, key)
        if draft:
            draft.copy_disks(self.folder)
        elif template and template.steps:
            done = [step.mark for step in steps_of(plan) if step.run != ALWAYS]
            state = replace(state, provisioned=tuple(done))
        hold_templates(self.ctx, self.folder, state)
        watch.lap("disk")
        state, ran = self.provision(plan, state, BEFORE)
        if ran:
            watch.lap("provision")
        runtime = runtime_folder(state.id)
        state = self._record(plan, state, runtime, template)
        with self._undo_on_failure(state):
            engine = self._launch(plan, box, runtime, origin, draft)
            with self._end_on_failure(engine, for_good=template is not None):
                watch.lap("restore" if template else "launch")
                state, failures = self.connect(plan, state, engine, template)
                state = wait_until_ready(self.ctx, self.folder, plan, state, engine.events)
            engine.close()
        watch.lap("login")
        if template:
            self.ctx.templates.settle(template)
            watch.lap("template")
        return state, failures

    def check(self) -> None:
        """Look whether a start could work, without touching a machine that runs."""
        own = observe(self.folder, thorough=False).pid
        state = read_state(self.folder)
        box = require_box(self.ctx, self.config, state)
        plan = self.plan(state, box.spec, box.digest)
        itself = Itself(own, display_of(read_plan(self.folder)))
        check_computer(self.ctx, self.config, self.folder, plan, itself)
        done = state.provisioned if state and not self.options.anew else ()
        check_steps(self.ctx, self.config, plan, done, self.options.wanted)
        if state is not None:
            base = find_base(self.ctx, box, state)
            check_disk(self.name, self.folder.disk, base, plan.disk.size or 0)
        stock = find_stock(self.ctx, state.template if state else None)
        check_disks(self.name, self.folder, plan, stock)

    def _recover(self, seen: Observation) -> State | None:
        """The state to go on from: a copy becomes a machine of its own, and what a start that
        nobody ended properly left behind is cleaned up.
        """
        old = seen.state
        if old is not None and is_copy(old, self.folder):
            self.ctx.tell(self.name, f"this is a copy of one in {old.project}; it gets its own id")
            if discard(self.folder):
                self.ctx.tell(self.name, "the memory belongs to the original, so this one boots")
            fresh = new_identity(self.name)
            return replace(old, id=fresh.id, uuid=fresh.uuid, launch=None)
        if old is not None and discard_saved(self.ctx, self.folder, old):
            return None
        if old is None or old.launch is None:
            return old
        if seen.status == CRASHED:
            self.ctx.tell(self.name, f"recovering: {seen.detail}")
        clean_up(self.ctx, self.folder, old)
        if forget_unfinished(self.folder, old):
            return None
        return old.with_launch(None)

    def _record(
        self, plan: Plan, state: State, runtime: RuntimeFolder, template: Template | None
    ) -> State:
        """Write down what is about to happen, before it does."""
        restored = template is not None
        launch = Launch(boot_id(), now(), plan.digest(), str(runtime.root), restored=restored)
        state = state.with_launch(launch)
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        # After its machine is known: a journal of nobody's would never be found.
        write_undo(state.id, [action.undo for action in plan.actions])
        return state

    def _launch(
        self,
        plan: Plan,
        box: Box,
        runtime: RuntimeFolder,
        origin: Origin,
        draft: Draft | None = None,
    ) -> Engine:
        program = self.ctx.host.which(plan.program)
        assert program is not None
        rotate_file(self.folder.log("serial"))
        for stream in ("qemu", "qup"):
            rotate_file(self.folder.log(stream), over=OWN_LOG_LIMIT)
        template, mortal = origin.template, self.options.mortal
        title = "starting QEMU"
        if template:
            kind = "provisioned template" if template.steps else "template"
            title = f"restoring {kind} {template.id}"
        with self.ctx.phase(self.name, "launch", title) as phase:
            for action in plan.actions:
                run(action.do, timeout=ACTION_TIMEOUT)
            firmware = find_firmware(self.ctx, plan)
            layout = layout_for(
                plan,
                self.folder,
                self.ctx.boxes.folder(box.digest),
                program,
                firmware=firmware and firmware.code,
            )
            if template:
                engine = restore(
                    self.ctx, plan, layout, self.folder, runtime, template,
                    mortal=mortal, shared=draft.ram if draft else None,
                )  # fmt: skip
            else:
                cwd = self.ctx.project.root
                layout = replace(layout, servers=find_servers(self.ctx, plan, runtime))
                engine = start_qemu(plan, layout, self.folder, runtime, cwd, mortal=mortal)
            phase.result = f"{plan.accelerator.name}, pid {engine.process.pid}"
            if origin.reason:
                phase.result += f"; cold boot: {origin.reason}"
            if template and template.steps:
                skipped = len([step for step in steps_of(plan) if step.run != ALWAYS])
                phase.result += f"; {skipped} step{'s' * (skipped > 1)} skipped"
            return engine

    def connect(
        self, plan: Plan, state: State, engine: Engine, template: Template | None
    ) -> tuple[State, list[MachineError]]:
        """Open the forwards, let the guest go, and write down where ssh will find it, if that
        is known.
        """
        assert state.launch is not None
        place, applied = open_ways(self.ctx, self.folder, engine.control, plan, self.ports)
        if self.options.attach:
            console = RuntimeFolder.of(state.launch.runtime).console
            attach_console(engine.control, console, self.options.attach)
        engine.control.execute("cont")
        self.ctx.watch.lap("forwards")
        if template:  # until then it is nobody, and nobody may be told where it is
            runtime = RuntimeFolder.of(state.launch.runtime)
            become(self.ctx, self.folder, plan, template, runtime)
            self.ctx.watch.lap("identity")
        engine.control.close()  # it serves one client: now `qup status` may ask
        state = note_ways(self.folder, state, plan, place, engine.taps)
        write_plan(self.folder, plan.to_dict())
        return state, applied.failures

    # --- When it fails ---

    @contextmanager
    def _undo_on_failure(self, state: State) -> Iterator[None]:
        """Take back what was done to the host, unless the guest was left running."""
        try:
            yield
        except BaseException as exc:
            seen = observe(self.folder, thorough=False)
            if not seen.alive:
                clean_up(self.ctx, self.folder, state)
            elif not seen.let_go:  # interrupted after QEMU was born and before anybody held it
                stop_locked(self.ctx, self.folder, seen, force=True, timeout=0.0)
            if isinstance(exc, KeyboardInterrupt):
                raise Interrupted from None
            raise

    @contextmanager
    def _end_on_failure(self, engine: Engine, *, for_good: bool) -> Iterator[None]:
        """End QEMU when a start fails, unless a look into the guest may tell why.

        Args:
            engine: QEMU.
            for_good: there is no use in a look.
        """
        try:
            yield
        except GuestError as exc:
            if exc.worth_a_look and not for_good and engine.process.poll() is None:
                engine.close()
                exc.hint = f"{exc.hint}; it was left running, 'qup down {self.name}' stops it"
            else:
                engine.kill()
            raise
        except BaseException:
            engine.kill()
            raise
