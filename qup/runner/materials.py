"""What a machine is made of: its box, its disk, its keys, its seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from qup import images
from qup.boxes.cache import DISK
from qup.errors import BoxError, MachineError, StateError
from qup.guest.keys import ensure_keys
from qup.guest.seed import build_files, write_iso
from qup.locks import lock
from qup.model.box import Box, BoxSpec
from qup.model.config import MachineConfig
from qup.model.events import Progress
from qup.model.plan import Plan
from qup.model.state import State
from qup.model.units import format_size
from qup.paths import MachineFolder, SshFolder
from qup.qemu import disk
from qup.runner.context import Context
from qup.runner.drives import prepare_disks
from qup.runner.firmware import prepare_variables
from qup.runner.prepare import find_box, find_firmware

FETCH_TIMEOUT = 3600.0
"""Seconds to wait for another process that is getting a box."""


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
    with (
        ctx.phase(machine, "box", f"getting box {spec.name}") as phase,
        lock(
            ctx.boxes.lock_path,
            what=f"the cache of boxes, for {spec.name},",
            timeout=FETCH_TIMEOUT,
            on_wait=partial(ctx.tell, machine),
        ),
    ):
        box = None if again else ctx.boxes.find(spec)
        if box is None:
            box = ctx.boxes.add(spec, partial(_fetch, ctx, machine, spec))
        phase.result = f"{format_size(box.size)}, {box.digest[:12]}"
    return box


def _fetch(ctx: Context, machine: str, spec: BoxSpec, into: Path) -> Mapping[str, object]:
    source = ctx.plugins.box_sources[spec.source]

    def report(text: str, **numbers: Any) -> None:
        ctx.emit(Progress(machine, text, **numbers))

    details = source.fetch(spec, ctx.project.root, into, report)
    if spec.disk:
        images.inspect_header(into / DISK, "qcow2")
    return details


def require_box(ctx: Context, config: MachineConfig, state: State | None) -> Box:
    """The box to start a machine with: for a machine that exists, the one it was made from.

    Raises:
        BoxError: it can't be had, or was changed.
        MachineError: the Qupfile now names another box.
    """
    spec, box = find_box(ctx, config)
    if state is not None:
        if state.box != spec.name:
            raise MachineError(
                f"machine {config.name} was made from box {state.box}, and the Qupfile now says"
                f" {spec.name}",
                hint=f"a disk can't change its box: 'qup destroy {config.name}' first",
                machine=config.name,
            )
        box = ctx.boxes.get(state.box_digest)
    if box is None:
        box = fetch_box(ctx, config.name, spec)
    if state is not None and box.digest != state.box_digest:
        raise BoxError(
            f"machine {config.name}: the box its disk is based on ({state.box_digest[:12]}) is not"
            " in the cache any more, and what can be made now is another one",
            hint=f"put it back at {ctx.boxes.folder(state.box_digest)}, or 'qup destroy"
            f" {config.name}' and 'qup up' for a new machine",
        )
    ctx.boxes.check(box)
    return box


def prepare(
    ctx: Context, config: MachineConfig, folder: MachineFolder, plan: Plan, box: Box,
    old: State | None,
) -> State:  # fmt: skip
    """Make what is missing of disk, keys and seed, and fit the disk to the plan.

    Returns:
        The state of the machine with these materials; it is not written yet.
    """
    base = ctx.boxes.folder(box.digest) / DISK
    size = plan.disk.size or 0
    with (
        ctx.phase(config.name, "disk", "preparing disk and seed") as phase,
        aside(
            partial(_prepare_disk, config.name, folder.disk, base, size, fresh=old is None)
        ) as made,  # qemu-img works while the keys and the seed are made
    ):
        user_key, host_key = ensure_keys(SshFolder(folder.ssh), config.name)
        write_iso(folder.seed, build_files(plan.seed, user_key, host_key))
        prepare_disks(ctx, config.name, folder, plan)
        if firmware := find_firmware(ctx, plan):
            prepare_variables(ctx, config.name, folder, firmware)
        phase.result = made()
    state = old or State(
        id=plan.identity.id,
        uuid=plan.identity.uuid,
        name=config.name,
        project="",
        created=now(),
        box=plan.box.name,
        box_digest=box.digest,
        user="",
    )
    return replace(state, user=plan.seed.user, project=str(ctx.project.root))


def _prepare_disk(machine: str, path: Path, base: Path, size: int, *, fresh: bool) -> str:
    """Make or grow a machine's disk; returns what was done."""
    if fresh:
        disk.create_overlay(path, base, "qcow2", size)
        return f"{format_size(size)} disk"
    present = check_disk(machine, path, base, size)
    if present < size:
        disk.grow(path, size)
        return f"disk grown to {format_size(size)}"
    return "disk as it was"


def check_disk(machine: str, path: Path, base: Path, size: int) -> int:
    """Make sure that a machine's disk is there, sound, and no larger than what is asked for.

    Returns:
        Its size in bytes.

    Raises:
        StateError: it is gone, damaged, or not based on the box's.
        MachineError: it would have to shrink.
    """
    if not os.path.lexists(path):
        raise StateError(
            f"machine {machine}: its disk is gone: {path}",
            hint=f"put it back, or 'qup destroy {machine}' removes the rest",
        )
    images.check_overlay(path, base)
    present = images.virtual_size(path, "qcow2")
    if present > size:
        raise MachineError(
            f"machine {machine}: its disk has {format_size(present)}, and 'disk' now says"
            f" {format_size(size)}: a disk can't shrink",
            hint=f"write disk = \"{format_size(present)}\", or 'qup destroy {machine}' and start"
            " anew",
        )
    return present


@contextmanager
def aside(work: Callable[[], str]) -> Iterator[Callable[[], str]]:
    """Do something in a thread while the body runs; it has ended when the body has.

    Yields:
        What waits for it and gives its answer, or raises what it raised.
    """
    answers: list[str] = []
    errors: list[BaseException] = []

    def act() -> None:
        try:
            answers.append(work())
        except BaseException as exc:
            errors.append(exc)

    def result() -> str:
        thread.join()
        if errors:
            raise errors[0]
        return answers[0]

    thread = Thread(target=act)
    thread.start()
    try:
        yield result
    finally:
        thread.join()


def now() -> str:
    """This moment in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
