"""``qup up``: from a configuration to a guest that answers ssh.

Every step can be done again: an ``up`` that was interrupted, killed or failed is finished by
the next one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from qup.boxes.cache import DISK
from qup.errors import (
    BoxError,
    GuestError,
    HostError,
    Interrupted,
    MachineError,
    QupError,
    StateError,
)
from qup.guest import ssh
from qup.guest.keys import KeyPair, ensure_keys
from qup.guest.readiness import Console, wait_for_banner
from qup.guest.seed import build_files, write_iso
from qup.host import boot_id
from qup.model.box import Box, BoxSpec
from qup.model.config import MachineConfig
from qup.model.events import Console as ConsoleEvent
from qup.model.events import Finished, Progress
from qup.model.plan import Identity, Plan
from qup.model.state import Launch, State
from qup.model.units import format_size
from qup.paths import MachineFolder, RuntimeFolder, SshFolder, make_private, runtime_folder
from qup.planner import describe_change
from qup.process import run
from qup.qemu import disk
from qup.qemu.argv import Layout
from qup.qemu.engine import Engine, start
from qup.qemu.qmp import MonitorClosed, Qmp
from qup.runner.context import Context, blame
from qup.runner.forwards import SSH_FORWARD, add_forward, open_forwards
from qup.runner.observe import BROKEN, CRASHED, UNRESPONSIVE, Observation, observe
from qup.runner.prepare import find_box, identity_of, make_plan, new_identity
from qup.runner.provision import provision
from qup.runner.stop import clean_up
from qup.store import create_folders, lock, lookup, read_state, remember, write_state, write_undo

ACTION_TIMEOUT = 20.0


@dataclass(frozen=True)
class UpOptions:
    """What can be asked of ``up`` besides the configuration.

    Attributes:
        trust_accelerator: don't prove the accelerator that the configuration names.
        provision: run the provisioning steps that have not succeeded yet.
    """

    trust_accelerator: bool = False
    provision: bool = True


def up(ctx: Context, config: MachineConfig, options: UpOptions) -> bool:
    """Bring a machine up until ssh answers.

    Returns:
        Whether anything had to be done.

    Raises:
        QupError: see :mod:`qup.errors`; what was started is stopped again, unless there is
            something to look at in the guest.
    """
    began = time.monotonic()
    folder = create_folders(ctx.project, config.name)
    with ctx.lock(folder):
        seen = observe(folder)
        if seen.status == BROKEN:
            read_state(folder)  # raises, with the hint
        work = _Up(ctx, config, options, folder)
        changed = work.resume(seen) if seen.alive else work.start(seen)
        data = observe(folder).to_dict()
        ctx.emit(Finished(config.name, "up", changed, time.monotonic() - began, data))
        return changed


@dataclass
class _Up:
    ctx: Context
    config: MachineConfig
    options: UpOptions
    folder: MachineFolder

    @property
    def name(self) -> str:
        return self.config.name

    # --- It runs already ---------------------------------------------------------------

    def resume(self, seen: Observation) -> bool:
        """Finish what is unfinished about a machine that runs, and say what is different."""
        if seen.status == UNRESPONSIVE:
            raise MachineError(
                f"machine {self.name} runs, but QEMU does not answer",
                hint=f"'qup reload --force {self.name}' starts it anew",
                machine=self.name,
            )
        state = seen.state
        assert state is not None
        assert state.launch is not None
        plan = self._plan(identity_of(state), state)
        runtime = RuntimeFolder(Path(state.launch.runtime))
        changed = False
        if seen.status in ("paused", "io-error"):
            with Qmp.connect(runtime.control, timeout=5.0) as monitor:
                monitor.execute("cont")
            self.ctx.tell(self.name, "goes on after a pause")
            changed = True
        if not seen.ready:
            state = self._wait(plan, state, runtime, None)
            changed = True
        failures = self._update_forwards(plan, runtime)
        self._tell_changes(plan)
        changed = self._provision(plan, state) or changed
        _report(self.name, failures)
        return changed

    def _update_forwards(self, plan: Plan, runtime: RuntimeFolder) -> list[MachineError]:
        wanted = plan.nics[0].plan.forwards
        if not wanted:
            return []
        with Qmp.connect(runtime.control, timeout=5.0) as monitor:
            return open_forwards(monitor, wanted)

    def _tell_changes(self, plan: Plan) -> None:
        try:
            stored = json.loads(self.folder.plan.read_bytes())
        except (OSError, ValueError):
            return
        if stored != json.loads(json.dumps(plan.to_dict())):
            changes = describe_change(stored, plan.to_dict())
            if changes:
                self.ctx.tell(
                    self.name,
                    "the configuration has changed since it was started: " + "; ".join(changes),
                    level="warning",
                    hint=f"'qup reload {self.name}' applies it",
                )

    # --- It has to be started ----------------------------------------------------------

    def start(self, seen: Observation) -> bool:
        """Start a machine that isn't running."""
        old = seen.state
        if old is not None and old.launch is not None:
            if seen.status == CRASHED:
                self.ctx.tell(self.name, f"recovering: {seen.detail}")
            clean_up(self.ctx, self.folder, old)
            old = old.with_launch(None)
        old = self._own_identity(old)
        identity = identity_of(old) if old else new_identity(self.name)
        box = self._box(old)
        plan = make_plan(
            self.ctx,
            self.config,
            identity,
            box.spec,
            box.digest,
            trust_accelerator=self.options.trust_accelerator,
        )
        self._preflight(plan)
        state = self._materials(plan, box, old)
        runtime = runtime_folder(identity.id)
        state = self._record(plan, state, runtime)
        with self._undo_on_failure(state):
            engine = self._launch(plan, box, runtime)
            with self._kill_on_failure(engine):
                state, failures = self._connect(plan, state, runtime, engine)
                state = self._wait(plan, state, runtime, engine)
            engine.close()
        self._provision(plan, state)
        _report(self.name, failures)
        return True

    def _own_identity(self, state: State | None) -> State | None:
        """A copy of a project whose original is still there becomes a machine of its own."""
        if state is None:
            return None
        entry = lookup(state.id)
        here = self.ctx.project.root
        if entry is None or entry.project == here or state.project == str(here):
            return state
        original = entry.project / self.folder.root.relative_to(here)
        try:
            twin = read_state(MachineFolder(original))
        except QupError:
            twin = None
        if twin is None or twin.id != state.id or original.samefile(self.folder.root):
            return state
        self.ctx.tell(
            self.name, f"this is a copy of the one in {entry.project}; it gets its own id"
        )
        fresh = new_identity(self.name)
        return replace(state, id=fresh.id, uuid=fresh.uuid, provisioned=state.provisioned)

    def _box(self, state: State | None) -> Box:
        spec, box = find_box(self.ctx, self.config)
        if state is not None:
            return self._box_of(state, spec)
        if box is None:
            box = fetch_box(self.ctx, self.name, spec)
        self.ctx.boxes.check(box)
        return box

    def _box_of(self, state: State, spec: BoxSpec) -> Box:
        """The box that an existing disk is based on; no other will do."""
        if state.box != spec.name:
            raise MachineError(
                f"machine {self.name} was made from box {state.box}, the Qupfile now says"
                f" {spec.name}",
                hint=f"'qup destroy {self.name}' first; its disk can't change its box",
                machine=self.name,
            )
        box = self.ctx.boxes.get(state.box_digest)
        if box is None:
            box = fetch_box(self.ctx, self.name, spec)
        if box.digest != state.box_digest:
            raise BoxError(
                f"machine {self.name}: the box its disk is based on ({state.box_digest[:12]})"
                " is not in the cache any more, and could not be made again",
                hint=f"'qup destroy {self.name}' and 'qup up' make a new machine; or put the box"
                f" back at {self.ctx.boxes.folder(state.box_digest)}",
            )
        self.ctx.boxes.check(box)
        return box

    def _preflight(self, plan: Plan) -> None:
        """Look for everything that can't work here, before anything is touched.

        Raises:
            HostError: with all the problems.
        """
        problems: list[tuple[str, str | None]] = []
        mode = self.ctx.plugins.network_modes[plan.nics[0].mode]
        with blame(f"network mode {mode.name}"):
            found = mode.problems(self.config.network, self.ctx.host)
        problems += [(problem.message, problem.hint) for problem in found]
        total = self.ctx.host.memory_mib
        if total and plan.memory_mib > total:
            problems.append(
                (
                    f"memory = {plan.memory_mib} MiB, but this computer has {total} MiB in all",
                    "lower 'memory' in the Qupfile",
                )
            )
        for program, package in (("qemu-img", "qemu-utils"), ("ssh", "openssh-client")):
            if self.ctx.host.which(program) is None:
                hint = f"'qup doctor --fix' installs {package}"
                problems.append((f"the program {program!r} was not found", hint))
        if problems:
            raise _combine(self.name, problems)

    def _materials(self, plan: Plan, box: Box, old: State | None) -> State:
        """Disk, keys and seed: made if missing, and fitted to the plan."""
        with self.ctx.phase(self.name, "disk", "preparing disk and seed") as phase:
            base = self.ctx.boxes.folder(box.digest) / DISK
            size = plan.disks[0].size or 0
            phase.result = _prepare_disk(self.folder.disk, base, size, fresh=old is None)
            user_key, host_key = ensure_keys(SshFolder(self.folder.ssh), self.name)
            self._write_seed(plan, user_key, host_key)
        state = old or State(
            id=plan.identity.id,
            uuid=plan.identity.uuid,
            name=self.name,
            project=str(self.ctx.project.root),
            created=_now(),
            box=plan.box.name,
            box_digest=box.digest,
            user=plan.seed.user,
        )
        return replace(state, user=plan.seed.user, project=str(self.ctx.project.root))

    def _write_seed(self, plan: Plan, user_key: KeyPair, host_key: KeyPair) -> None:
        write_iso(self.folder.seed, build_files(plan.seed, user_key, host_key))

    def _record(self, plan: Plan, state: State, runtime: RuntimeFolder) -> State:
        """Write down what is about to happen, before it does."""
        write_undo(state.id, [action.undo for action in plan.actions])
        launch = Launch(boot_id(), _now(), plan.digest(), str(runtime.root))
        state = state.with_launch(launch)
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        return state

    def _launch(self, plan: Plan, box: Box, runtime: RuntimeFolder) -> Engine:
        program = self.ctx.host.which(plan.program)
        assert program is not None
        self._rotate_log()
        with self.ctx.phase(self.name, "launch", "starting QEMU") as phase:
            for action in plan.actions:
                run(action.do, timeout=ACTION_TIMEOUT)
            layout = layout_for(self.folder, self.ctx.boxes.folder(box.digest), program)
            engine = start(plan, layout, self.folder, runtime, self.ctx.project.root)
            phase.result = f"{plan.accelerator.name}, pid {engine.process.pid}"
            return engine

    def _rotate_log(self) -> None:
        serial = self.folder.log("serial")
        if serial.exists():
            serial.replace(serial.with_name(serial.name + ".1"))

    def _connect(
        self, plan: Plan, state: State, runtime: RuntimeFolder, engine: Engine
    ) -> tuple[State, list[MachineError]]:
        """Open the forwards, let the guest go, and write down where ssh will find it."""
        nic = plan.nics[0].plan
        failures: list[MachineError] = []
        address, port = nic.ssh_address, SSH_FORWARD.guest
        if address is None:
            forward = add_forward(engine.control, SSH_FORWARD)
            address, port = forward.address, forward.host
        if nic.forwards:
            failures = open_forwards(engine.control, nic.forwards)
        engine.control.execute("cont")
        assert state.launch is not None
        state = state.with_launch(replace(state.launch, ssh_address=address, ssh_port=port))
        make_private(runtime.root)
        endpoint = ssh.Endpoint(self.name, state.id, address, port, state.user)
        keys = SshFolder(self.folder.ssh)
        _, host_key = ensure_keys(keys, self.name)
        ssh.write_config(endpoint, keys, runtime, host_key.public)
        write_state(self.folder, state)
        self.folder.plan.write_text(json.dumps(plan.to_dict(), indent=2))
        return state, failures

    # --- Readiness and after -----------------------------------------------------------

    def _wait(
        self, plan: Plan, state: State, runtime: RuntimeFolder, engine: Engine | None
    ) -> State:
        """Wait until ssh lets qup in, and remember that it did."""
        launch = state.launch
        assert launch is not None
        assert launch.ssh_address is not None
        assert launch.ssh_port is not None
        with self.ctx.phase(self.name, "boot", "waiting for ssh") as phase:
            events = engine.events if engine else Qmp.connect(runtime.events, timeout=5.0)
            deadline = time.monotonic() + plan.boot_timeout
            try:
                self._wait_for_login(launch.ssh_address, launch.ssh_port, runtime, events, deadline)
            except MonitorClosed as exc:
                raise MachineError(
                    f"machine {self.name}: QEMU died while the guest was booting",
                    details=engine.describe_death() if engine else None,
                    hint=f"'qup logs --qemu {self.name}' has all it said",
                    machine=self.name,
                ) from exc
            finally:
                if engine is None:
                    events.close()
            phase.result = f"ssh on {launch.ssh_address}:{launch.ssh_port}"
        state = state.with_launch(replace(launch, ready=True))
        write_state(self.folder, state)
        return state

    def _wait_for_login(
        self, address: str, port: int, runtime: RuntimeFolder, events: Qmp, deadline: float
    ) -> None:
        console = Console(self.folder.log("serial"))
        keys = SshFolder(self.folder.ssh)
        while True:
            wait_for_banner(
                self.name,
                address,
                port,
                monitor=events,
                console=console,
                deadline=deadline,
                on_slow=lambda lines: self.ctx.emit(ConsoleEvent(self.name, lines)),
            )
            left = max(1.0, deadline - time.monotonic())
            try:
                ssh.open_master(keys, runtime, self.name, self.folder.log("ssh"), timeout=left)
            except ssh.SshFailure as exc:
                if exc.final or time.monotonic() >= deadline:
                    raise
            else:
                return

    def _provision(self, plan: Plan, state: State) -> bool:
        if not self.options.provision:
            return False
        return provision(self.ctx, self.config, plan, self.folder, state)

    def _plan(self, identity: Identity, state: State) -> Plan:
        spec, _ = find_box(self.ctx, self.config)
        box = self.ctx.boxes.get(state.box_digest)
        return make_plan(
            self.ctx, self.config, identity, box.spec if box else spec, state.box_digest
        )

    @contextmanager
    def _undo_on_failure(self, state: State) -> Iterator[None]:
        try:
            yield
        except _LeftRunning as exc:
            raise exc.error from exc.error.__cause__
        except KeyboardInterrupt:
            clean_up(self.ctx, self.folder, state)
            raise Interrupted from None
        except BaseException:
            clean_up(self.ctx, self.folder, state)
            raise

    @contextmanager
    def _kill_on_failure(self, engine: Engine) -> Iterator[None]:
        """End QEMU when a start fails, unless a look into the guest may tell why."""
        try:
            yield
        except GuestError as exc:
            if engine.process.poll() is None and _worth_a_look(exc):
                engine.close()
                exc.hint = f"{exc.hint}; it was left running, 'qup down {self.name}' stops it"
                raise _LeftRunning(exc) from exc
            engine.kill()
            raise
        except BaseException:
            engine.kill()
            raise


class _LeftRunning(Exception):
    """A guest that failed but goes on running."""

    def __init__(self, error: GuestError) -> None:
        super().__init__(error.message)
        self.error = error


def _worth_a_look(error: GuestError) -> bool:
    return isinstance(error, ssh.SshFailure) or "not ready after" in error.message


def layout_for(
    folder: MachineFolder, box: Path, program: Path, sockets: Mapping[str, Path | int] | None = None
) -> Layout:
    """Where the files of a machine's start are."""
    return Layout(
        program=program,
        pidfile=folder.pidfile,
        serial_log=folder.log("serial"),
        box=box,
        disk=folder.disk,
        seed=folder.seed,
        sockets=sockets or {},
        sandbox=sys.platform == "linux",
    )


def fetch_box(ctx: Context, machine: str, spec: BoxSpec, *, again: bool = False) -> Box:
    """Get a box into the cache, unless another process does so at the moment.

    Args:
        ctx: the surroundings.
        machine: on whose behalf, for events.
        spec: which.
        again: make it even if it is there.

    Raises:
        BoxError: it can't be had.
    """
    source = ctx.plugins.box_sources[spec.source]
    with (
        ctx.phase(machine, "box", f"getting box {spec.name}") as phase,
        lock(
            ctx.boxes.lock_path,
            what=f"the cache of boxes, for {spec.name},",
            timeout=3600.0,
            on_wait=lambda text: ctx.tell(machine, text),
        ),
    ):
        box = None if again else ctx.boxes.find(spec)
        if box is None:
            with blame(f"box source {source.name}"):
                box = ctx.boxes.add(spec, partial(_fetch, ctx, machine, spec))
        phase.result = f"{format_size(box.size)}, {box.digest[:12]}"
    return box


def _fetch(ctx: Context, machine: str, spec: BoxSpec, into: Path) -> Mapping[str, object]:
    source = ctx.plugins.box_sources[spec.source]
    details = source.fetch(
        spec, ctx.project.root, into, lambda text: ctx.emit(Progress(machine, text))
    )
    if spec.disk:
        disk.inspect_header(into / DISK, "qcow2")
    return details


def _prepare_disk(path: Path, base: Path, size: int, *, fresh: bool) -> str:
    """Make or grow a machine's disk; returns what was done."""
    if fresh or not path.exists():
        if not fresh:
            raise StateError(
                f"the machine's disk is gone: {path}",
                hint="put it back, or 'qup destroy' removes the rest of the machine",
            )
        disk.create_overlay(path, base, "qcow2", size)
        return f"{format_size(size)} disk"
    disk.check_overlay(path, base)
    if disk.virtual_size(path, "qcow2") < size:
        disk.grow(path, size)
        return f"disk grown to {format_size(size)}"
    if disk.virtual_size(path, "qcow2") > size:
        raise MachineError(
            f"the disk has {format_size(disk.virtual_size(path, 'qcow2'))}, and 'disk' asks for"
            f" {format_size(size)}: a disk can't shrink",
            hint="raise 'disk' in the Qupfile, or 'qup destroy' and start anew",
        )
    return "disk as it was"


def _combine(machine: str, problems: list[tuple[str, str | None]]) -> HostError:
    if len(problems) == 1:
        message, hint = problems[0]
        return HostError(f"machine {machine}: {message}", hint=hint, machine=machine)
    lines = [f"- {message}" + (f" ({hint})" if hint else "") for message, hint in problems]
    return HostError(
        f"machine {machine}: {len(problems)} things stand in the way",
        details="\n".join(lines),
        machine=machine,
    )


def _report(machine: str, failures: list[MachineError]) -> None:
    """Say at the very end which forwards could not be opened: the machine runs without.

    Raises:
        MachineError: some could not.
    """
    if not failures:
        return
    raise MachineError(
        f"machine {machine} runs, but {len(failures)} of its forwards could not be opened",
        details="\n".join(failure.message for failure in failures),
        hint=f"free the port and say 'qup up {machine}' again, or take another port (0 picks one)",
        machine=machine,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
