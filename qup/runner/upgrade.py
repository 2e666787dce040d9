"""Booting a machine from a newer ISO, with its disk as it is, and the way back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qup.errors import GuestError, Interrupted, MachineError, QupError
from qup.model.box import Box, BoxSpec
from qup.model.events import Finished
from qup.model.state import State
from qup.paths import MachineFolder
from qup.runner.boxes import describe_box, fetch_box
from qup.runner.context import Context
from qup.runner.observe import BROKEN, SUSPENDED, observe
from qup.runner.pins import pin_box
from qup.runner.prepare import find_box
from qup.runner.stop import down
from qup.runner.stored_plan import note_box
from qup.runner.up import check_start, up
from qup.runner.work import UpOptions
from qup.store import create_folders, read_state, write_state

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


class RolledBack(GuestError):
    """The new ISO didn't come up; the machine has its old one again."""


def upgrade(
    ctx: Context, config: MachineConfig, options: UpOptions, *, force: bool = False
) -> bool:
    """Give a machine the newest ISO, and start it with that if it runs.

    Args:
        ctx: the surroundings.
        config: what is asked of the machine; its box may be another ISO than before.
        options: how it is started.
        force: cut the power instead of asking the guest to shut down.

    Returns:
        Whether it has got another ISO.

    Raises:
        MachineError: it doesn't exist, is suspended, or boots from no ISO.
        BoxError: the ISO can't be had.
        GuestError: the new ISO didn't come up; the machine has its old one again.
    """
    began = time.monotonic()
    folder = create_folders(ctx.project, config.name)
    state = _require_machine(config, folder)
    spec, cached = find_box(ctx, config)
    if not spec.iso:
        raise MachineError(
            f"machine {config.name} boots from box {spec.name}, which is no ISO: its system is on"
            " its disk",
            hint=f"upgrade it from inside: 'qup ssh {config.name}'",
            machine=config.name,
        )
    box = _newest(ctx, config.name, spec, cached)
    if box.digest == state.box_digest:
        ctx.tell(config.name, f"already has the newest ISO ({describe_box(box)})")
        changed = False
    else:
        _Change(ctx, config, options, folder, state, box, force).carry_out()
        changed = True
    ctx.emit(Finished(config.name, "upgrade", changed, time.monotonic() - began))
    return changed


def _require_machine(config: MachineConfig, folder: MachineFolder) -> State:
    state = read_state(folder)
    if state is None or observe(folder, thorough=False).status == BROKEN:
        raise MachineError(
            f"machine {config.name} was never created: there is nothing to upgrade",
            hint=f"'qup up {config.name}' makes it, with the newest ISO",
            machine=config.name,
        )
    if observe(folder, thorough=False).status == SUSPENDED:
        raise MachineError(
            f"machine {config.name} is suspended: its guest has the old ISO in its drive",
            hint=f"'qup resume {config.name}', then upgrade it",
            machine=config.name,
        )
    return state


def _newest(ctx: Context, machine: str, spec: BoxSpec, cached: Box | None) -> Box:
    """The newest ISO, fetched if it isn't here yet."""
    if cached is None:
        return fetch_box(ctx, machine, spec, again=True)
    ask = getattr(ctx.plugins.box_sources[spec.source], "newer", None)
    news = ask(cached, ctx.project.root) if ask is not None else None
    if news is None:
        return cached
    ctx.tell(machine, f"box {spec.name}: {news}")
    return fetch_box(ctx, machine, spec, again=True, than=cached)


@dataclass
class _Change:
    ctx: Context
    config: MachineConfig
    options: UpOptions
    folder: MachineFolder
    state: State
    box: Box
    force: bool

    @property
    def name(self) -> str:
        return self.config.name

    def carry_out(self) -> None:
        """Change the ISO; if the machine runs, start it with the new one or else the old one."""
        old = self.ctx.boxes.get(self.state.box_digest)
        before = describe_box(old) if old else self.state.box_digest[:12]
        running = observe(self.folder, thorough=False).alive
        if running:
            check_start(self.ctx, self._with_old_box(), self.options)
        with self.ctx.phase(self.name, "upgrade", "changing the ISO") as phase:
            if running:
                down(self.ctx, self.folder, force=self.force)
            self._write(self.box.spec.name, self.box.digest)
            phase.result = f"{before} -> {describe_box(self.box)}"
        if not running:
            self.ctx.tell(self.name, "is stopped; 'qup up' boots it from the new ISO")
            return
        try:
            up(self.ctx, self.config, self.options)
        except (Interrupted, KeyboardInterrupt):  # nobody has seen the new one work
            self._write(self.state.box, self.state.box_digest)
            raise
        except QupError as exc:
            if observe(self.folder, thorough=False).ready:  # it came up; a step or a forward failed
                raise
            self._roll_back(before, exc)

    def _roll_back(self, before: str, failure: QupError) -> None:
        self.ctx.tell(
            self.name,
            f"did not come up with the new ISO ({failure.message}); going back to {before}",
            level="warning",
        )
        down(self.ctx, self.folder, force=True)
        self._write(self.state.box, self.state.box_digest)
        again = "runs with it again"
        try:
            up(self.ctx, self._with_old_box(), self.options)
        except QupError as exc:
            again = f"does not come up with it either: {exc.message}"
        raise RolledBack(
            f"machine {self.name} did not come up with the new ISO"
            f" ({describe_box(self.box)}) and was given its old one, {before}; it {again}",
            details="\n".join(filter(None, (failure.message, failure.details))),
            hint=f"'qup logs {self.name}' shows what the guest said; its data disk is as it was",
            machine=self.name,
        ) from failure

    def _with_old_box(self) -> MachineConfig:
        """What is asked of the machine, with the box that it had."""
        return replace(
            self.config, settings=self.config.settings.model_copy(update={"box": self.state.box})
        )

    def _write(self, name: str, digest: str) -> None:
        with self.ctx.lock(self.folder):
            state = read_state(self.folder)
            if state is not None:
                write_state(self.folder, replace(state, box=name, box_digest=digest))
                note_box(self.folder, name)
        if (box := self.ctx.boxes.get(digest)) is not None:
            pin_box(self.ctx, self.name, replace(box, spec=replace(box.spec, name=name)))
