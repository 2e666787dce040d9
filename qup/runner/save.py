"""``qup snapshot save``: a machine at this moment, with its memory if it runs.

The guest stands still while memory and disks are copied. If qup is killed meanwhile, a mark is
left, and ``up`` lets the guest go on.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qup.errors import GuestError, HostError, MachineError, StateError
from qup.files import clone_file
from qup.model.drives import FURTHER
from qup.model.events import Finished
from qup.model.snapshot import MAX_NOTE, MEMORY, SAVE_POINT, Snapshot
from qup.model.state import State
from qup.model.units import GIB, MIB, format_size
from qup.ownership import make_private
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.qemu.liveness import is_locked
from qup.qemu.migration import let_go_on, save_state
from qup.qemu.qmp import Qmp
from qup.runner.context import Context
from qup.runner.folders import away, refuse_shared_memory
from qup.runner.incoming import hardware_of
from qup.runner.materials import now
from qup.runner.observe import RUNNING, STARTING, SUSPENDED, Observation, observe
from qup.runner.snapshots import (
    CURRENT,
    RESTORING,
    SAVING,
    check_name,
    clear_mark,
    list_snapshots,
    open_draft,
    publish,
    read_mark,
    remove_draft,
    remove_leftovers,
    write_mark,
)
from qup.runner.stillness import (
    PLAIN,
    SHORT_TIMEOUT,
    WAITING,
    make_wait,
    refresh,
    refresh_waiting,
)
from qup.runner.stored_plan import read_plan
from qup.store import is_copy, read_state

MONITOR_TIMEOUT = 5.0
SAVE_TIMEOUT, SAVE_SPEED = 60.0, 20 * MIB
"""Seconds that saving may take at the least, and bytes a second that it must manage."""
SPARE, RESERVE = 64 * MIB, GIB
"""Bytes that stay free on the file system; the same beside what nobody has asked for."""


@dataclass(frozen=True)
class Wish:
    """What is asked of ``save``.

    Attributes:
        name: what the snapshot is called.
        note: words about it.
        force: replace one of that name.
        disk_only: the machine is stopped, and has no memory to save.
    """

    name: str
    note: str = ""
    force: bool = False
    disk_only: bool = False


def save(ctx: Context, folder: MachineFolder, wish: Wish) -> Snapshot:
    """Save a machine as it is now.

    Raises:
        UsageError: it can't be called so.
        MachineError: it isn't in the state for it, or can't be saved; it is as it was.
        HostError: no space left.
    """
    check_name(wish.name)
    began = time.monotonic()
    require_folder(folder)
    with ctx.lock(folder):
        seen = observe(folder)
        state = require_state(folder, seen)
        remove_leftovers(folder)
        plan = read_plan(folder)
        check_wish(folder, seen, plan, wish)
        draft = _draft(folder, state, wish.name, note=wish.note[:MAX_NOTE])
        with ctx.phase(folder.name, "snapshot", f"saving snapshot {wish.name}") as phase:
            made = _Saving(ctx, folder, state, plan, draft).run(live=seen.alive)
            phase.result = format_size(sum(made.files.values()))
            if made.live:
                phase.result += f"; the guest stood still for {made.pause:.2f} s"
        ctx.emit(Finished(folder.name, "snapshot", True, time.monotonic() - began))
    return made


def save_for_reset(ctx: Context, folder: MachineFolder, *, steps: str) -> Snapshot:
    """Save a machine that runs as the point that ``reset`` goes back to; the caller holds its
    lock, and has removed the point before.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        steps: what its provisioning steps are, as a digest.

    Raises:
        MachineError, HostError: it can't be saved; it is as it was.
    """
    seen, plan = observe(folder), read_plan(folder)
    state = require_state(folder, seen)
    remove_leftovers(folder)
    check_wish(folder, seen, plan, Wish(SAVE_POINT))
    draft = _draft(folder, state, SAVE_POINT, steps=steps)
    return _Saving(ctx, folder, state, plan, draft, RESERVE).run(live=True)


def _draft(
    folder: MachineFolder, state: State, name: str, *, note: str = "", steps: str = ""
) -> Snapshot:
    return Snapshot(
        id=secrets.token_hex(6),
        name=name,
        machine=state.id,
        created=now(),
        note=note,
        parent=_find_parent(folder, name),
        template=state.template,
        box_digest=state.box_digest,
        provisioned=state.provisioned,
        steps=steps,
    )


def require_state(folder: MachineFolder, seen: Observation) -> State:
    """The state of a machine that exists here.

    Raises:
        MachineError: it doesn't.
        StateError: it can't be read.
    """
    state = seen.state or read_state(folder)
    if state is None or is_copy(state, folder):
        raise _never_up(folder)
    return state


def require_folder(folder: MachineFolder) -> None:
    """Make sure that there is something to lock.

    Raises:
        MachineError: the machine was never up.
    """
    if not folder.root.is_dir():
        raise _never_up(folder)


def _never_up(folder: MachineFolder) -> MachineError:
    return MachineError(
        f"machine {folder.name} was never up here",
        hint=f"'qup up {folder.name}' starts it",
        machine=folder.name,
    )


def refuse_while_restoring(folder: MachineFolder) -> None:
    """Raises StateError: a restore was cut off."""
    if read_mark(folder, RESTORING):
        raise StateError(
            f"machine {folder.name}: a restore was cut off",
            hint=f"'qup up {folder.name}' finishes it",
            machine=folder.name,
        )


def check_wish(
    folder: MachineFolder, seen: Observation, plan: Mapping[str, Any], wish: Wish
) -> None:
    """Raises MachineError or StateError: that can't be saved."""
    name = folder.name
    refuse_while_restoring(folder)
    if not wish.force and any(item.name == wish.name for item in list_snapshots(folder)):
        raise MachineError(
            f"machine {name} has a snapshot {wish.name!r} already",
            hint="--force replaces it; 'qup snapshot list' shows all",
            machine=name,
        )
    for disk in plan.get("disks", ()):
        if disk.get("image") and not disk.get("read_only"):
            raise MachineError(
                f"machine {name} writes to your image {disk['image']}, which qup doesn't copy: a"
                " snapshot without it would not fit it later",
                hint="write read-only = true for that disk, or give it a size instead of an image",
                machine=name,
            )
    if seen.status == SUSPENDED:
        raise MachineError(
            f"machine {name} is suspended: its memory and its disks belong together",
            hint=f"'qup resume {name}', then save it",
            machine=name,
        )
    if not seen.alive and not wish.disk_only:
        raise MachineError(
            f"machine {name} is not running ({seen.status}): there is no memory to save",
            hint=f"--disk-only saves its disks; 'qup up {name}' starts it",
            machine=name,
        )
    if seen.alive:
        refuse_shared_memory(name, plan)
    if seen.alive and wish.disk_only:
        raise MachineError(
            f"machine {name} runs: its disks change while they are copied",
            hint=f"leave --disk-only out, or 'qup down {name}' first",
            machine=name,
        )
    if (
        seen.alive
        and seen.status != RUNNING
        and not (seen.status == STARTING and not _log_in(seen))
    ):
        raise MachineError(
            f"machine {name} is {seen.status}: {seen.detail or 'it can not be saved now'}",
            hint=f"'qup up {name}' first",
            machine=name,
        )


def _log_in(seen: Observation) -> bool:
    launch = seen.state.launch if seen.state else None
    return launch is not None and launch.login


def _find_parent(folder: MachineFolder, name: str) -> str | None:
    """The snapshot that the machine comes from; one that is replaced hands its place on."""
    known = {item.id: item for item in list_snapshots(folder)}
    parent = known.get(read_mark(folder, CURRENT) or "")
    while parent is not None and parent.name == name:
        parent = known.get(parent.parent or "")
    return parent.id if parent else None


def find_disks(folder: MachineFolder, plan: Mapping[str, Any]) -> list[str]:
    """The files of a machine's own that its guest writes to, seen from its folder."""
    roles = [str(disk["role"]) for disk in plan.get("disks", ())]
    further = [role.removeprefix(FURTHER) for role in roles if role.startswith(FURTHER)]
    paths = [folder.disk, *map(folder.further_disk, further)]
    if not roles:
        paths += sorted(folder.disks.glob("*.qcow2"))
    if plan.get("firmware") or not roles:
        paths.append(folder.firmware_vars)
    return [str(path.relative_to(folder.root)) for path in paths if path.is_file()]


def check_space(folder: MachineFolder, size: int, spare: int) -> None:
    """Make sure that there is room for a snapshot.

    Args:
        folder: the machine's folder.
        size: bytes that it may take.
        spare: bytes that have to be free beside it.

    Raises:
        HostError: there isn't.
    """
    free = shutil.disk_usage(folder.root).free
    if free < size + spare:
        raise HostError(
            f"machine {folder.name}: a snapshot may take {format_size(size)} and has to leave"
            f" {format_size(spare)}, and {format_size(free)} are free",
            hint="'qup snapshot delete' removes those that nobody needs; 'qup list --disk' shows"
            " what takes up the room",
        )


@dataclass(frozen=True)
class _Saving:
    ctx: Context
    folder: MachineFolder
    state: State
    plan: Mapping[str, Any]
    draft: Snapshot
    spare: int = SPARE

    @property
    def disks(self) -> list[str]:
        return find_disks(self.folder, self.plan)

    def run(self, *, live: bool) -> Snapshot:
        """Save it, with its memory if it runs."""
        try:
            if not live:
                return publish(self.folder, self.save_disks())
            with away(self.ctx, self.folder, self.state, self.plan):
                return publish(self.folder, self.save_live())
        except BaseException:
            _give_up(self.folder)
            raise

    def save_disks(self) -> Snapshot:
        """Copy the disks of a machine that is stopped."""
        self._check_space(0)
        self._copy(open_draft(self.folder))
        return self.draft

    def save_live(self) -> Snapshot:
        """Save a guest that runs, and let it go on."""
        launch = self.state.launch
        assert launch is not None
        memory = int(self.plan["memory_mib"]) * MIB
        self._check_space(memory)
        runtime, keys = RuntimeFolder.of(launch.runtime), SshFolder(self.folder.ssh)
        hardware = hardware_of(self.ctx, self.plan)
        waiting = False
        if hardware["identity_port"] and launch.login:
            reason = make_wait(keys, self.folder.name)
            waiting = reason is None
            if reason:
                self.ctx.note(self.folder.name, f"the guest can't be made to wait: {reason}")
        place = open_draft(self.folder)
        write_mark(self.folder, SAVING, WAITING if waiting else PLAIN)
        with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
            began = time.monotonic()
            try:
                timeout = SAVE_TIMEOUT + memory / SAVE_SPEED
                save_state(monitor, place / MEMORY, timeout=timeout, whole=True)
                self._copy(place)
            finally:
                let_go_on(monitor)
            pause = time.monotonic() - began
        reason = refresh(keys, runtime, self.folder.name, waiting=waiting, login=launch.login)
        if reason:
            self.ctx.tell(
                self.folder.name,
                f"its clock is behind by {pause:.1f} s: {reason}",
                level="warning",
            )
        clear_mark(self.folder, SAVING)
        return replace(
            self.draft,
            hardware=hardware,
            waiting=waiting,
            of_template=launch.templated,
            pause=round(pause, 3),
        )

    def _check_space(self, memory: int) -> None:
        used = sum((self.folder.root / name).stat().st_size for name in self.disks)
        check_space(self.folder, memory + used, self.spare)

    def _copy(self, place: Path) -> None:
        for name in self.disks:
            make_private((place / name).parent)
            clone_file(self.folder.root / name, place / name, durable=False)


def finish_saving(ctx: Context, folder: MachineFolder) -> None:
    """Set right what a ``save`` has left that was killed; the guest goes on again by now."""
    if read_mark(folder, SAVING) is not None:
        _give_up(folder)
        ctx.tell(folder.name, "an unfinished snapshot was given up")


def _give_up(folder: MachineFolder) -> None:
    remove_draft(folder)
    state = read_state(folder)
    launch = state.launch if state else None
    if read_mark(folder, SAVING) == WAITING and launch is not None and is_locked(folder.alive):
        runtime = RuntimeFolder.of(launch.runtime)
        with contextlib.suppress(GuestError):
            refresh_waiting(runtime, folder.name, timeout=SHORT_TIMEOUT)
    clear_mark(folder, SAVING)
