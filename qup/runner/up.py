"""``qup up``: from a configuration to a guest that answers ssh.

Every step can be done again: an ``up`` that was interrupted, killed or failed is finished by
the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from qup.errors import GuestError, Interrupted, MachineError, QupError
from qup.files import rotate_file, trim_file
from qup.guest import ssh
from qup.guest.discovery import GIVEN, Place
from qup.host import boot_id
from qup.model.box import Box, BoxSpec
from qup.model.config import MachineConfig
from qup.model.events import Finished
from qup.model.events import Timings as TimingsEvent
from qup.model.network import SSH_PORT
from qup.model.plan import Plan
from qup.model.runstate import Way
from qup.model.state import Launch, State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder, runtime_folder
from qup.process import run
from qup.qemu.engine import Engine, start
from qup.qemu.qmp import Qmp
from qup.runner.changes import read_plan, tell_changes, tell_obstacles, write_plan
from qup.runner.context import Context
from qup.runner.display import (
    announce_display,
    display_of,
)
from qup.runner.drives import check_disks
from qup.runner.firstboot import finish_first_boot
from qup.runner.foreground import Attach, attach_console
from qup.runner.forwards import (
    Applied,
    apply_forwards,
    open_way_in,
    read_kept,
    write_kept,
)
from qup.runner.layout import layout_for
from qup.runner.materials import check_disk, discard_disks, find_own, now, prepare, require_box
from qup.runner.observe import BROKEN, CRASHED, Observation, observe, require_alive
from qup.runner.peers import share_names
from qup.runner.preflight import Itself, check_computer
from qup.runner.prepare import find_box, find_firmware, identity_of, make_plan, new_identity
from qup.runner.provision import BEFORE, DURING, Wanted, provision
from qup.runner.ready import wait_until_ready
from qup.runner.revert import resume_restore
from qup.runner.rouse import rouse
from qup.runner.save import finish_saving
from qup.runner.stop import clean_up, stop_locked
from qup.runner.stopwatch import Stopwatch, Timings, write_timings
from qup.runner.warm import Origin, become, choose_origin, find_base, restore, set_aside
from qup.runner.whereabouts import check_whereabouts, forget_place, note_place
from qup.store import (
    create_folders,
    ensure_project_id,
    forget,
    is_copy,
    read_state,
    remember,
    write_state,
    write_undo,
)
from qup.templates.cache import Template

ACTION_TIMEOUT = 20.0
MONITOR_TIMEOUT = 5.0
OWN_LOG_LIMIT = 1 << 20
"""Bytes of QEMU's and qup's logs that are kept over a start, and as much again before them."""
CONSOLE_LIMIT, CONSOLE_KEPT = 64 << 20, 1 << 20
"""Bytes that a guest may print before its log is cut down, and how many are kept then."""


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
    """

    trust_accelerator: bool = False
    wanted: Wanted = field(default_factory=Wanted)
    attach: Attach | None = None
    cold: bool = False
    mortal: bool = False
    anew: bool = False


def up(ctx: Context, config: MachineConfig, options: UpOptions) -> bool:
    """Bring a machine up until ssh answers.

    Returns:
        Whether anything had to be done.

    Raises:
        QupError: see :mod:`qup.errors`; what was started is stopped again, unless there is
            something to look at in the guest.
    """
    began = time.monotonic()
    ctx.watch = Stopwatch(ctx.prelude)
    folder = create_folders(ctx.project, config.name)
    with ctx.lock(folder):
        create_folders(ctx.project, config.name)  # somebody may have destroyed it meanwhile
        ensure_project_id(ctx.project)
        seen = observe(folder)
        if seen.status == BROKEN:
            read_state(folder)  # raises, with the hint
        if seen.alive and (not seen.let_go or seen.way is Way.ANEW):
            reason = "QEMU stayed on after the guest had powered off"
            if not seen.let_go:
                reason = "an earlier start was cut off before the guest ran"
            ctx.tell(config.name, f"{reason}; starting anew")
            stop_locked(ctx, folder, seen, force=True, timeout=0.0)
            seen = observe(folder)
        ctx.watch.lap("lock")
        if resume_restore(ctx, config, folder):
            seen = observe(folder)
        work = _Up(ctx, config, options, folder)
        changed = work.resume(seen) if seen.alive else work.start(seen)
        finish_saving(ctx, folder)
        data = observe(folder, thorough=False).to_dict()
        ctx.emit(Finished(config.name, "up", changed, time.monotonic() - began, data))
        return changed


def reset(ctx: Context, config: MachineConfig, options: UpOptions) -> None:
    """Bring a machine back to where it was after its first ``up``: a new disk, restored from its
    template if there is one, and all provisioning steps. It keeps its id, keys and addresses.

    Raises:
        MachineError: it was never up.
        QupError: see :func:`up`. What could be known beforehand leaves the machine as it is.
    """
    began = time.monotonic()
    folder = ctx.project.machine(config.name)
    with ctx.lock(folder):
        state = read_state(folder)
        if state is None or is_copy(state, folder):
            raise MachineError(
                f"machine {config.name} was never up here: there is nothing to go back to",
                hint=f"'qup up {config.name}' starts it",
                machine=config.name,
            )
        work = _Up(ctx, config, replace(options, anew=True), folder)
        work.check()
        stop_locked(ctx, folder, observe(folder), force=True, timeout=0.0)
        work.start(observe(folder))
        data = observe(folder, thorough=False).to_dict()
        ctx.emit(Finished(config.name, "reset", True, time.monotonic() - began, data))


def connect(
    ctx: Context,
    config: MachineConfig,
    folder: MachineFolder,
    plan: Plan,
    state: State,
    engine: Engine,
) -> tuple[State, list[MachineError]]:
    """Open the forwards of a guest that was restored as the machine it was, and let it go.

    Returns:
        The state, and what could not be opened.
    """
    return _Up(ctx, config, UpOptions(), folder).connect(plan, state, engine, None)


def check_start(ctx: Context, config: MachineConfig, options: UpOptions) -> None:
    """Make sure that a machine could be started before it is stopped for that.

    Raises:
        QupError: what would keep it from starting.
    """
    _Up(ctx, config, options, create_folders(ctx.project, config.name)).check()


def provision_again(ctx: Context, config: MachineConfig, options: UpOptions) -> None:
    """Run the provisioning steps of a machine that is up, as far as they are wanted.

    Raises:
        MachineError: it isn't up.
        ProvisionError: a step failed.
    """
    began = time.monotonic()
    folder = ctx.project.machine(config.name)
    require_alive(folder)
    with ctx.lock(folder):
        ran = _Up(ctx, config, options, folder).provision_again(require_alive(folder))
        ctx.emit(Finished(config.name, "provision", ran, time.monotonic() - began))
    if not ran:
        ctx.tell(config.name, "has no provisioning steps to run")


@dataclass
class _Up:
    ctx: Context
    config: MachineConfig
    options: UpOptions
    folder: MachineFolder

    @property
    def name(self) -> str:
        return self.config.name

    # --- It runs already ---

    def provision_again(self, state: State) -> bool:
        """Run provisioning steps, and nothing else; whether there were any."""
        if not (state.launch and state.launch.ready):
            raise MachineError(
                f"machine {self.name} is not ready: ssh has not answered yet",
                hint=f"'qup up {self.name}' waits for it",
                machine=self.name,
            )
        plan, _ = self._plan_again(state)
        return self._provision(plan, state)[1]

    def resume(self, seen: Observation) -> bool:
        """Finish what is unfinished about a machine that runs, and say what is different."""
        state = seen.state
        assert state is not None
        assert state.launch is not None
        if seen.way is Way.REFUSE:
            raise MachineError(
                f"machine {self.name} is {seen.status}: {seen.detail}",
                hint=f"'qup reload --force {self.name}' starts it anew",
                machine=self.name,
            )
        runtime = RuntimeFolder.of(state.launch.runtime)
        state = self._follow_move(state, runtime)
        trim_file(self.folder.log("serial"), over=CONSOLE_LIMIT, keep=CONSOLE_KEPT)
        if self.options.attach:
            self.options.attach(runtime.console)
        if done := rouse(self.name, runtime, seen.way):
            self.ctx.tell(self.name, done)
        changed = done is not None
        plan, box = self._plan_again(state)
        state, moved = check_whereabouts(self.ctx, self.folder, plan, state)
        if moved or (plan.seed_form.login and not seen.ready):
            with Qmp.connect(runtime.events, timeout=MONITOR_TIMEOUT) as events:
                state = wait_until_ready(self.ctx, self.folder, plan, state, events)
            changed = True
        share_names(self.ctx, self.config, login=plan.seed_form.login)
        applied = self._apply_forwards(plan, state, runtime)
        tell_changes(self.ctx, self.config, self.folder, plan, box)
        _, ran = self._provision(plan, state)
        changed = ran or changed or applied.changed
        _report(self.name, applied.failures)
        return changed

    def _apply_forwards(self, plan: Plan, state: State, runtime: RuntimeFolder) -> Applied:
        """Open the Qupfile's new forwards, close those that it had, and say so."""
        own = state.launch.ssh_port if state.launch else None
        with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
            applied = apply_forwards(monitor, plan, read_kept(self.folder), own=own)
        for word, forwards in (("opened", applied.opened), ("closed", applied.closed)):
            if forwards:
                self.ctx.tell(self.name, f"{word} {', '.join(map(str, forwards))}")
        if applied.changed:
            write_kept(self.folder, applied.kept)
        return applied

    def _follow_move(self, state: State, runtime: RuntimeFolder) -> State:
        """Note where a machine is now whose project was moved while it ran."""
        if state.project == str(self.ctx.project.home):
            return state
        state = replace(state, project=str(self.ctx.project.home))
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        ssh.link_files(SshFolder(self.folder.ssh), runtime)
        return state

    def _plan_again(self, state: State) -> tuple[Plan, str]:
        """The plan for now with the box that the machine has, and the box that is asked for."""
        box = find_own(self.ctx, state)
        if box is not None and state.box == self.config.settings.box:
            return self._plan(state, box.spec, state.box_digest), state.box
        spec, _ = find_box(self.ctx, self.config)
        return self._plan(state, box.spec if box else spec, state.box_digest), spec.name

    def _plan(self, state: State | None, spec: BoxSpec, digest: str) -> Plan:
        identity = identity_of(state) if state else new_identity(self.name)
        trust = self.options.trust_accelerator
        return make_plan(self.ctx, self.config, identity, spec, digest, trust_accelerator=trust)

    # --- It has to be started ---

    def start(self, seen: Observation) -> bool:
        """Start a machine that isn't running."""
        old = self._recover(seen)
        watch = self.ctx.watch
        box = require_box(self.ctx, self.config, old)
        watch.lap("box")
        plan = self._plan(old, box.spec, box.digest)
        watch.lap("plan")
        check_computer(self.ctx, self.config, self.folder, plan)
        if old is not None:
            tell_obstacles(self.ctx, self.folder, plan.to_dict())
        announce_display(self.ctx, self.config, plan)
        if self.options.anew and old is not None:
            discard_disks(self.folder)
            old = None
        watch.lap("preflight")
        with watch.around("template"):
            origin = choose_origin(
                self.ctx, self.config, plan, box, state=old, cold=self.options.cold
            )
        try:
            state, failures = self._bring_up(plan, box, old, origin)
        except QupError as exc:
            if origin.template is None or isinstance(exc, Interrupted):
                raise
            # It never was: killed from here on, it is a new one for the next `up`.
            self.folder.state.unlink(missing_ok=True)
            set_aside(self.ctx, self.name, origin.template, exc.message)
            origin = Origin(reason="the template failed")
            state, failures = self._bring_up(plan, box, old, origin)
        share_names(self.ctx, self.config, login=plan.seed_form.login)
        watch.lap("names")
        if old is None and plan.seed_form.login:
            finish_first_boot(self.ctx, self.folder, plan)
            watch.lap("first-boot")
        if self._provision(plan, state)[1]:
            watch.lap("provision")
        self._note_timings(state, origin)
        _report(self.name, failures)
        return True

    def _note_timings(self, state: State, origin: Origin) -> None:
        """Keep what this start took, and tell it."""
        self.ctx.watch.lap("end")
        assert state.launch is not None
        template = origin.template.id if origin.template else None
        timings = Timings(state.launch.started, template, self.ctx.watch.phases)
        write_timings(self.folder, timings)
        total = round(timings.total, 3)
        self.ctx.emit(TimingsEvent(self.name, template, total, dict(timings.phases)))

    def _bring_up(
        self, plan: Plan, box: Box, old: State | None, origin: Origin
    ) -> tuple[State, list[MachineError]]:
        """Start a machine, restored or booted, until ssh answers."""
        template = origin.template
        base = find_base(self.ctx, box, old, template)
        key = template.id if template else None
        watch = self.ctx.watch
        state = prepare(self.ctx, self.config, self.folder, plan, box, old, base, key)
        watch.lap("disk")
        state, ran = self._provision(plan, state, BEFORE)
        if ran:
            watch.lap("provision")
        runtime = runtime_folder(state.id)
        state = self._record(plan, state, runtime, restored=template is not None)
        with self._undo_on_failure(state):
            engine = self._launch(plan, box, runtime, origin)
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
        plan = self._plan(state, box.spec, box.digest)
        itself = Itself(own, display_of(read_plan(self.folder)))
        check_computer(self.ctx, self.config, self.folder, plan, itself)
        if state is not None:
            base = find_base(self.ctx, box, state)
            check_disk(self.name, self.folder.disk, base, plan.disk.size or 0)
        check_disks(self.name, self.folder, plan)

    def _recover(self, seen: Observation) -> State | None:
        """The state to go on from: a copy becomes a machine of its own, and what a start that
        nobody ended properly left behind is cleaned up.
        """
        old = seen.state
        if old is not None and is_copy(old, self.folder):
            self.ctx.tell(self.name, f"this is a copy of one in {old.project}; it gets its own id")
            fresh = new_identity(self.name)
            return replace(old, id=fresh.id, uuid=fresh.uuid, launch=None)
        if old is None or old.launch is None:
            return old
        if seen.status == CRASHED:
            self.ctx.tell(self.name, f"recovering: {seen.detail}")
        clean_up(self.ctx, self.folder, old)
        if old.launch.restored and not old.launch.ready:
            # Cut off between being the template's guest and being itself: it never was.
            forget(old.id)
            self.folder.state.unlink(missing_ok=True)
            return None
        return old.with_launch(None)

    def _record(self, plan: Plan, state: State, runtime: RuntimeFolder, *, restored: bool) -> State:
        """Write down what is about to happen, before it does."""
        write_undo(state.id, [action.undo for action in plan.actions])
        launch = Launch(boot_id(), now(), plan.digest(), str(runtime.root), restored=restored)
        state = state.with_launch(launch)
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        return state

    def _launch(self, plan: Plan, box: Box, runtime: RuntimeFolder, origin: Origin) -> Engine:
        program = self.ctx.host.which(plan.program)
        assert program is not None
        rotate_file(self.folder.log("serial"))
        for stream in ("qemu", "qup"):
            rotate_file(self.folder.log(stream), over=OWN_LOG_LIMIT)
        template, mortal = origin.template, self.options.mortal
        title = f"restoring template {template.id}" if template else "starting QEMU"
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
                    self.ctx, plan, layout, self.folder, runtime, template, mortal=mortal
                )
            else:
                cwd = self.ctx.project.root
                engine = start(plan, layout, self.folder, runtime, cwd, mortal=mortal)
            phase.result = f"{plan.accelerator.name}, pid {engine.process.pid}"
            if origin.reason:
                phase.result += f"; cold boot: {origin.reason}"
            return engine

    def connect(
        self, plan: Plan, state: State, engine: Engine, template: Template | None
    ) -> tuple[State, list[MachineError]]:
        """Open the forwards, let the guest go, and write down where ssh will find it, if that
        is known.
        """
        assert state.launch is not None
        nic = plan.nics[plan.ssh_nic].plan
        place = Place(nic.ssh_address or "", SSH_PORT, GIVEN)
        if not nic.ssh_address and not nic.discover:
            way_in = open_way_in(engine.control, plan)
            place = Place(way_in.address, way_in.host)
        applied = apply_forwards(engine.control, plan, (), own=place.port)
        write_kept(self.folder, applied.kept)
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
        launch = replace(
            state.launch, ssh_port=place.port, taps=engine.taps, login=plan.seed_form.login
        )
        state = state.with_launch(launch)
        if place.address:
            state = note_place(self.folder, state, place, plan)
        else:
            state = forget_place(self.folder, state)  # of an earlier start
        write_plan(self.folder, plan.to_dict())
        return state, applied.failures

    def _provision(
        self, plan: Plan, state: State, moments: Sequence[str] = DURING
    ) -> tuple[State, bool]:
        wanted = self.options.wanted
        return provision(
            self.ctx, self.config, plan, self.folder, state, wanted=wanted, moments=moments
        )

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


def _report(machine: str, failures: list[MachineError]) -> None:
    """Say at the very end which forwards could not be opened: the machine runs without.

    Raises:
        MachineError: some could not.
    """
    if failures:
        raise MachineError(
            f"machine {machine} runs, but {len(failures)} of its forwards could not be opened",
            details="\n".join(failure.message for failure in failures),
            hint=f"free the port and say 'qup up {machine}' again, or take another port"
            " (0 picks one)",
            machine=machine,
        )
