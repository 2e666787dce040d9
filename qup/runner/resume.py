"""A suspended machine goes on: its memory is loaded by a new QEMU, and used up.

What can be known beforehand is looked at beforehand. Until the guest runs the memory stays where
it is: whatever fails or is killed, it can be tried again. It is taken away just before, so that
it never meets disks that have gone on without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qup import images
from qup.errors import BoxError, GuestError, Interrupted, MachineError, QupError, StateError
from qup.host import boot_id
from qup.model.box import Box
from qup.model.plan import Plan
from qup.model.state import Launch, State
from qup.model.suspension import Suspension
from qup.paths import RuntimeFolder, runtime_folder
from qup.qemu.engine import Engine
from qup.qemu.migration import MigrationError
from qup.qemu.qmp import CommandFailed
from qup.runner.boxes import find_own
from qup.runner.forwards import Applied
from qup.runner.incoming import describe_misfit, find_misfit, hardware_of, load_guest
from qup.runner.materials import aside, now
from qup.runner.observe import Observation, observe
from qup.runner.open_ports import open_ways, ports_of
from qup.runner.preflight import check_computer
from qup.runner.ready import wait_until_ready
from qup.runner.stillness import catch_up, catch_up_waiting, note_late
from qup.runner.stop import clean_up, stop_locked
from qup.runner.stored_plan import read_plan, write_plan
from qup.runner.suspend import find_files
from qup.runner.suspended import (
    consume,
    damaged,
    digest_file,
    explain_choice,
    find_changed,
    look_at_disks,
    memory_of,
    put_back,
    read_suspension,
    remove_leftovers,
)
from qup.runner.warm import find_base
from qup.runner.whereabouts import note_ways
from qup.runner.work import Work, report
from qup.store import remember, write_state, write_undo

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


class Resuming(Work):
    """A machine that is suspended."""

    def resume(self, seen: Observation) -> None:
        """Bring it back until ssh answers.

        Raises:
            QupError: it can't be; it is suspended as before, unless the message says otherwise.
        """
        watch = self.ctx.watch
        suspension = read_suspension(self.folder)
        assert seen.state is not None
        clean_up(self.ctx, self.folder, seen.state)  # after a crash or a restart of the computer
        state = seen.state.with_launch(None)
        if suspension.machine != state.id:
            raise self._misfit("it is that of another machine", "put its own back")
        box = self._find_box(state)
        watch.lap("box")
        plan = self._fit(state, box, suspension)
        watch.lap("plan")
        self._check_disks(state, box, suspension)
        check_computer(self.ctx, self.config, self.folder, plan)
        watch.lap("preflight")
        state, failures = self._bring_back(plan, box, state, suspension)
        remove_leftovers(self.folder)
        self.note_timings(state, resumed=True)
        report(self.name, failures)

    # --- beforehand -----------------------------------------------------------------------

    def _misfit(self, reason: str, way: str) -> StateError:
        return StateError(
            f"machine {self.name} is suspended, and its memory can't be used: {reason}",
            hint=explain_choice(self.name, way),
            machine=self.name,
        )

    def _find_box(self, state: State) -> Box:
        box = find_own(self.ctx, state)
        if box is None:
            raise BoxError(
                f"machine {self.name}: its box ({state.box_digest[:12]}) is not in the cache any"
                " more",
                hint=explain_choice(
                    self.name, f"put it back at {self.ctx.boxes.folder(state.box_digest)}"
                ),
                machine=self.name,
            )
        self.ctx.boxes.check(box)
        return box

    def _fit(self, state: State, box: Box, suspension: Suspension) -> Plan:
        """The plan to go on with: the hardware has to be what it was."""
        before = suspension.hardware
        plan = self.plan(state, box.spec, box.digest)
        names = find_misfit(before, hardware_of(self.ctx, plan.to_dict()))
        if "qemu" in names:
            old, new = _version(before["qemu"]), self.ctx.host.qemu_version(plan.program)
            if new >= old and (same_type := self._same_type(plan, str(before["machine_type"]))):
                plan = same_type.plan(state, box.spec, box.digest)
                names = find_misfit(before, hardware_of(self.ctx, plan.to_dict()))
                names.remove("qemu")
                text = f"QEMU has changed since it was suspended ({_name(old)}, now {_name(new)})"
                self.ctx.tell(self.name, f"{text}; trying to resume with this one")
        if names:
            raise MachineError(
                f"machine {self.name} is suspended, and its memory no longer fits:"
                f" {describe_misfit(names)} changed since",
                details="\n".join(_compare(names, before, hardware_of(self.ctx, plan.to_dict()))),
                hint=explain_choice(self.name, "change it back"),
                machine=self.name,
            )
        return plan

    def _same_type(self, plan: Plan, wanted: str) -> Resuming | None:
        """The same work with the machine type that the guest was started with, if a newer QEMU
        merely means a newer version by the name in the Qupfile.
        """
        if plan.machine_type == wanted:
            return self
        family = wanted.rpartition("-")[0]
        if plan.machine_type.rpartition("-")[0] != family or not family:
            return None
        if wanted not in self.ctx.host.machine_types(plan.program).values():
            return None
        return replace(self, config=_with_machine_type(self.config, wanted))

    def _check_disks(self, state: State, box: Box, suspension: Suspension) -> None:
        changed = find_changed(
            suspension.disks, look_at_disks(find_files(self.folder, read_plan(self.folder)))
        )
        if changed:
            raise self._misfit(f"{changed} since it was suspended", "put the disk back")
        images.check_overlay(self.folder.disk, find_base(self.ctx, box, state))

    # --- doing it -------------------------------------------------------------------------

    def _bring_back(
        self, plan: Plan, box: Box, state: State, suspension: Suspension
    ) -> tuple[State, list[MachineError]]:
        runtime = runtime_folder(state.id)
        launch = Launch(
            boot_id(), now(), plan.digest(), str(runtime.root), of_template=suspension.of_template
        )
        state = state.with_launch(launch)
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        write_undo(state.id, [action.undo for action in plan.actions])
        with self._suspended_on_failure(state):
            engine = self._load(plan, box, runtime, suspension)
            try:
                state, applied = self._open_ways(plan, state, engine, suspension)
                self._let_go(engine)
            except BaseException:
                if self.folder.suspended.is_dir():
                    engine.kill()
                raise
        self.ctx.watch.lap("forwards")
        engine.control.close()  # it serves one client: now `qup status` may ask
        login = plan.seed_form.login
        try:
            catch_up_waiting(self.ctx, self.folder, runtime)
            self.ctx.watch.lap("identity")
            events = engine.events
            state = wait_until_ready(self.ctx, self.folder, plan, state, events, listening=True)
            self.ctx.watch.lap("login")
            catch_up(self.ctx, self.folder, login=login)
        except KeyboardInterrupt:
            raise Interrupted from None
        except GuestError as exc:
            exc.hint = f"{exc.hint}; the guest runs, 'qup up {self.name}' waits for it again"
            raise
        finally:
            engine.close()
        return state, applied.failures

    def _load(self, plan: Plan, box: Box, runtime: RuntimeFolder, suspension: Suspension) -> Engine:
        """A QEMU that has read the memory, once that is known to be what was saved."""
        file = memory_of(self.folder)
        with aside(lambda: digest_file(file)) as digest:
            try:
                engine = load_guest(
                    self.ctx, self.folder, plan, box, runtime, file,
                    of_template=suspension.of_template,
                )  # fmt: skip
            except MigrationError as exc:
                self._check_content(digest(), suspension)
                exc.message = (
                    f"machine {self.name} is suspended, and this QEMU does not take its memory:"
                    f" {exc.message}"
                )
                exc.hint = explain_choice(self.name, "use the QEMU that it was suspended with")
                raise
            try:
                self._check_content(digest(), suspension)
            except BaseException:
                engine.kill()
                raise
        self.ctx.watch.lap("restore")
        return engine

    def _check_content(self, digest: str, suspension: Suspension) -> None:
        if digest != suspension.sha256:
            raise damaged(self.folder, "its content is not what was saved")

    def _open_ways(
        self, plan: Plan, state: State, engine: Engine, suspension: Suspension
    ) -> tuple[State, Applied]:
        """Open the forwards by the ports that they had where those are free, and write down
        where ssh will find the guest.
        """
        note_late(self.folder, waiting=suspension.waiting)
        ports = ports_of(suspension)
        place, applied = open_ways(self.ctx, self.folder, engine.control, plan, ports)
        state = note_ways(self.folder, state, plan, place, engine.taps)
        write_plan(self.folder, plan.to_dict())
        return state, applied

    def _let_go(self, engine: Engine) -> None:
        """Use the memory up, and let the guest run. From here on it lives in QEMU alone."""
        consume(self.folder)
        try:
            engine.control.execute("cont")
        except CommandFailed as exc:  # QEMU says that it doesn't run
            put_back(self.folder)
            raise MachineError(
                f"machine {self.name} is suspended, and QEMU can't resume it: {exc.description}",
                hint=f"'qup resume {self.name}' tries it again",
                machine=self.name,
            ) from exc

    @contextmanager
    def _suspended_on_failure(self, state: State) -> Iterator[None]:
        """Leave the machine suspended, as it was, if it does not get as far as running."""
        try:
            yield
        except BaseException as exc:
            if self.folder.suspended.is_dir():
                seen = observe(self.folder, thorough=False)
                if seen.alive:  # interrupted after QEMU was born and before anybody held it
                    stop_locked(self.ctx, self.folder, seen, force=True, timeout=0.0)
                clean_up(self.ctx, self.folder, state)
                if isinstance(exc, QupError) and "suspended" not in exc.message:
                    still = "it is suspended as before"
                    exc.hint = f"{exc.hint}; {still}" if exc.hint else still
            if isinstance(exc, KeyboardInterrupt):
                raise Interrupted from None
            raise


def _with_machine_type(config: MachineConfig, wanted: str) -> MachineConfig:
    qemu = config.settings.qemu.model_copy(update={"machine": wanted})
    return replace(config, settings=config.settings.model_copy(update={"qemu": qemu}))


def _version(emulator: object) -> tuple[int, ...]:
    """The version in what :meth:`qup.host.LocalHost.emulator` says; empty if there is none."""
    numbers = str(emulator).split(maxsplit=1)[:1]
    parts = numbers[0].split(".") if numbers else []
    return tuple(int(part) for part in parts if part.isdecimal())


def _name(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _compare(names: list[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What was and what is, of all that can be said in a word."""
    for name in names:
        pair = [
            _name(_version(value)) if name == "qemu" else value
            for value in (before.get(name), now.get(name))
        ]
        if all(isinstance(value, int | str) for value in pair) and pair[0] != pair[1]:
            unit = " MiB" if name == "memory_mib" else ""
            yield f"{describe_misfit([name])}: {pair[0]}{unit}, now {pair[1]}{unit}"
