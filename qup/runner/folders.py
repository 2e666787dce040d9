"""Folders of this computer in a guest: attached when it is up, detached before it is saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from qup import namespaces
from qup.errors import GuestError, MachineError
from qup.files import write_atomic
from qup.folder_types import MountingType
from qup.folders import FolderFacts, find_obstacle
from qup.guest.folders.mounts import CannotMount, keep_mounts, mount_folder, unmount_folder
from qup.model.folders import AUTO, FolderPlan, FolderRequest, Server, owner_for
from qup.model.plan import Plan
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.engine import read_words
from qup.qemu.servers import find_lost
from qup.qemu.shares import is_replaced, is_served
from qup.runner.context import Context
from qup.runner.copies import (
    RELATIVE,
    Copying,
    explain_absence,
    link_to,
    locate_source,
    runtime_of,
)
from qup.runner.observe import find_pid
from qup.runner.stored_plan import read_plan

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

HINT = "leave 'type' out, and the best that works is taken"


def gather_facts(ctx: Context, config: MachineConfig, accelerator: str) -> FolderFacts:
    """What the types of a machine's folders depend on; asked only where there are any."""
    wanted = {folder.type for folder in config.settings.folders}
    if not wanted:
        return FolderFacts()
    types = sorted(ctx.plugins.folder_types.values(), key=lambda item: -item.priority)
    mounting = {item.name: cast(MountingType, item) for item in types if hasattr(item, "share")}
    offered = tuple(name for name, item in mounting.items() if item.priority >= 0)
    looked_at = {*wanted, *(offered if AUTO in wanted else ())} & mounting.keys()
    program = config.settings.qemu.program
    found = {name: _find_obstacle(ctx, mounting[name], program) for name in sorted(looked_at)}
    doubts = {
        name: cast(Any, mounting[name]).reservations(ctx.host)
        for name in looked_at
        if hasattr(mounting[name], "reservations")
    }
    return FolderFacts(
        {name: item.share for name, item in mounting.items()},
        offered,
        {name: reason for name, reason in found.items() if reason},
        {name: reason for name, reason in doubts.items() if reason},
        accelerator,
    )


def _find_obstacle(ctx: Context, kind: MountingType, program: str) -> str | None:
    """Why a type can't work on this computer, in a few words."""
    # Without it .qup would be seen by the guest, and files would belong to strangers.
    share = kind.share(FolderRequest(".", "/"))
    if (share.backend or share.vhost) and (reason := namespaces.find_obstacle()):
        return f"QEMU can't be shown what the guest may see: {reason}"
    return next((problem.message for problem in kind.problems(ctx.host, program)), None)


def find_problems(
    ctx: Context, config: MachineConfig, plan: Plan
) -> Iterator[tuple[str, str | None]]:
    """Folders that aren't there, or can't come as was asked for; each with what to do."""
    facts = gather_facts(ctx, config, plan.accelerator.name)
    for folder in plan.folders:
        path = locate_source(ctx, folder)
        if reason := explain_absence(path):
            yield f"the folder {path} {reason}", RELATIVE
        kind = ctx.plugins.folder_types.get(folder.type)
        if folder.chosen or kind is None:
            continue
        if folder.share is None:
            for problem in kind.problems(ctx.host, plan.program):
                text = f"folder {folder.host} can't be copied by {folder.type}: {problem.message}"
                yield text, problem.hint or HINT
        elif reason := find_obstacle(folder.type, folder.share, plan.box, facts):
            yield f"folder {folder.host} can't be mounted by {folder.type}: {reason}", HINT


def find_servers(ctx: Context, plan: Plan, runtime: RuntimeFolder) -> dict[str, Server]:
    """What serves the folders that are served beside QEMU, by their ids."""
    owner = owner_for(plan.seed.user)
    found: dict[str, Server] = {}
    for item in plan.folders:
        if item.vhost:
            kind: Any = ctx.plugins.folder_types[item.type]
            place = runtime.place(item.id)
            found[item.id] = kind.serve(ctx.host, place, owner.uid, owner.gid)
    return found


def refuse_shared_memory(name: str, plan: Mapping[str, Any]) -> None:
    """Raises MachineError: its memory can't be saved, as others have it, too."""
    for item in mounted_of(plan):
        if item.vhost:
            raise MachineError(
                f"machine {name} can't be saved with its memory, which is shared with what serves"
                f" {item.guest} by {item.type}",
                hint="'type = \"9p\"' for that folder, and 'qup reload'; 'qup down' keeps the"
                " machine's disks",
                machine=name,
            )


def _refuse_lost(folder: MachineFolder, state: State, mounted: Sequence[FolderPlan]) -> None:
    """Raises MachineError: what served a folder has ended."""
    beside = {item.id: item for item in mounted if item.vhost}
    lost = find_lost(runtime_of(state), [*beside]) if beside else []
    if lost:
        item = beside[lost[0]]
        raise MachineError(
            f"machine {folder.name}: what served {item.guest} by {item.type} has ended; what uses"
            " it in the guest waits for ever",
            details=read_words(folder.log("qemu")) or None,
            hint=f"'qup reload --force {folder.name}' starts both anew",
            machine=folder.name,
        )


class Attached(NamedTuple):
    """What came of mounting: the ids of folders that the guest can't mount, and that are to be
    copied; whether any was mounted.
    """

    rest: tuple[str, ...]
    changed: bool


def attach(ctx: Context, folder: MachineFolder, state: State, plan: Mapping[str, Any]) -> Attached:
    """Mount what isn't mounted, also what was detached; folders that are mounted stay so.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        state: the machine, which runs and is ready.
        plan: the plan that was carried out, as :meth:`qup.model.plan.Plan.to_dict` gives it.

    Raises:
        GuestError: the guest can't mount a folder, and it wasn't left to qup how it gets it.
        MachineError: what served a folder beside QEMU has ended.
    """
    link, rest, changed = link_to(folder, runtime_of(state)), [], False
    mounted = mounted_of(plan)
    _refuse_lost(folder, state, mounted)
    if mounted and not folder.mounting.exists():
        write_atomic(folder.mounting, "", durable=False)
    for item in mounted:
        try:
            with ctx.phase(folder.name, "mount", f"mounting {item.host} at {item.guest}") as phase:
                found = mount_folder(link, item, mounted)
                said = "; ".join(filter(None, (item.type, item.reason)))
                phase.result = said if found.fresh else "it was mounted"
                changed = changed or found.fresh
        except CannotMount as exc:
            if not item.chosen:
                raise
            ctx.tell(folder.name, f"{item.host} is copied, not mounted: {exc.message}")
            rest.append(item.id)
            continue
        owner = owner_for(str(state.user))
        if found.fresh and found.owner != owner:
            ctx.tell(
                folder.name,
                f"{item.guest} belongs to user {owner.uid} of the guest, and ssh's user"
                f" {state.user} is {found.owner.uid} there",
                level="warning",
                hint="only root and that user can write to what is yours",
            )
    if rest or (not mounted and folder.mounting.exists()):
        keep_mounts(link, [item for item in mounted if item.id not in rest])
    return Attached(tuple(rest), changed)


def has_folders(folder: MachineFolder, plan: Plan) -> bool:
    """Whether a guest has folders, or may believe so."""
    return bool(plan.folders) or folder.mounting.exists()


def detach(ctx: Context, folder: MachineFolder, state: State, plan: Mapping[str, Any]) -> None:
    """Unmount what is mounted, so that a guest can be saved with its memory.

    Does nothing for a machine without mounted folders, or with none mounted.

    Args: as of :func:`attach`.

    Raises:
        GuestError: a program in the guest uses a folder; those before it are mounted again.
    """
    link = link_to(folder, runtime_of(state))
    for item in mounted_of(plan):
        try:
            unmount_folder(link, item)
        except GuestError:
            attach(ctx, folder, state, plan)
            raise


@contextmanager
def away(
    ctx: Context, folder: MachineFolder, state: State, plan: Mapping[str, Any]
) -> Iterator[None]:
    """Have nothing mounted while the body runs. The guest runs before and after.

    Args: as of :func:`attach`.

    Raises:
        GuestError: a program in the guest uses a folder.
    """
    ready = state.launch is not None and state.launch.ready
    if not ready or not mounted_of(plan):
        yield
        return
    detach(ctx, folder, state, plan)
    try:
        yield
    except BaseException:
        with suppress(GuestError):
            attach(ctx, folder, state, plan)
        raise
    attach(ctx, folder, state, plan)


def mounted_of(plan: Mapping[str, Any]) -> list[FolderPlan]:
    """The mounted folders of a plan that was carried out."""
    found = [FolderPlan.of(item) for item in plan.get("folders", ())]
    return [item for item in found if item.mounted]


def bring_folders(ctx: Context, folder: MachineFolder, plan: Plan, state: State) -> bool:
    """Mount and copy a machine's folders; whether there was anything to do.

    Args:
        ctx: the surroundings.
        folder: the machine's folder.
        plan: the plan for now. What is mounted is by the plan that was carried out.
        state: the machine, which runs and is ready.
    """
    copied, changed = bring_mounts(ctx, folder, plan, state)
    if copied:
        link = link_to(folder, runtime_of(state))
        changed = Copying(ctx, link, copied, plan.program).run() or changed
    return changed


def tell_replaced(
    ctx: Context, folder: MachineFolder, state: State, items: Iterable[FolderPlan]
) -> None:
    """Say which mounted folders are others here by now: the guest has those of its start."""
    pid = find_pid(folder, state)
    if pid is None:
        return
    for item in items:
        source = locate_source(ctx, item)
        if is_served(item) and is_replaced(item, pid, runtime_of(state), source):
            ctx.tell(
                folder.name,
                f"{item.guest} is not {source} any more: that folder was moved away or removed",
                level="warning",
                hint=f"'qup reload {folder.name}' mounts the one that is there now",
            )


def bring_mounts(
    ctx: Context, folder: MachineFolder, plan: Plan, state: State
) -> tuple[tuple[FolderPlan, ...], bool]:
    """Mount what is mounted; returns the folders that have to be copied, and whether any was
    mounted.
    """
    carried_out = read_plan(folder)
    rest, changed = attach(ctx, folder, state, carried_out)
    mounted = (item for item in mounted_of(carried_out) if item.id not in rest)
    tell_replaced(ctx, folder, state, mounted)
    copied = (item for item in plan.folders if not item.mounted or item.id in rest)
    return tuple(copied), changed
