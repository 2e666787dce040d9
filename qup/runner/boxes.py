"""The box that a machine is made from: got into the cache, or found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup import images
from qup.boxes.cache import DISK
from qup.downloads import redact_url
from qup.errors import BoxError, MachineError
from qup.locks import lock
from qup.model.box import Box, BoxSpec, Fetched
from qup.model.events import Progress
from qup.model.state import State
from qup.model.units import format_size
from qup.runner.context import Context
from qup.runner.pins import Pin, check_pin, find_pin, find_pinned, pin_box
from qup.runner.prepare import find_box

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

FETCH_TIMEOUT = 3600.0
"""Seconds to wait for another process that is getting a box."""


def fetch_box(
    ctx: Context, machine: str, spec: BoxSpec, *, again: bool = False, than: Box | None = None
) -> Box:
    """Get a box into the cache, unless another process does so at the moment.

    It has to be the one that the project's ``qup.lock`` says, unless it is fetched again.

    Args:
        ctx: the surroundings.
        machine: on whose behalf, for events.
        spec: which.
        again: make it even if it is there.
        than: with ``again``, the box that isn't new enough: another one that somebody else has
            got meanwhile will do.

    Raises:
        BoxError: it can't be had.
    """
    with (
        ctx.phase(machine, "box", f"getting box {shown(spec)}") as phase,
        lock(
            ctx.boxes.fetch_lock(spec),
            what=f"the cache of boxes (for {shown(spec)})",
            timeout=FETCH_TIMEOUT,
            on_wait=partial(ctx.tell, machine),
        ),
    ):
        box = find_pinned(ctx, spec)
        if again and (than is None or box is None or _are_same(box, than)):
            box = None
        if box is None:
            hold = partial(
                lock, ctx.boxes.lock_path, what="the cache of boxes", timeout=ctx.lock_timeout
            )
            pin = None if again else find_pin(ctx, spec)
            box = ctx.boxes.add(spec, partial(_fetch, ctx, machine, spec, pin), hold)
        phase.result = f"{format_size(box.size)}, {box.digest[:12]}"
    return box


def _are_same(one: Box, other: Box) -> bool:
    return (one.digest, one.created) == (other.digest, other.created)


def _fetch(
    ctx: Context, machine: str, spec: BoxSpec, pin: Pin | None, into: Path
) -> Mapping[str, object] | Fetched:
    source = ctx.plugins.box_sources[spec.source]

    def report(text: str, **numbers: Any) -> None:
        ctx.emit(Progress(machine, text, **numbers))

    details: Mapping[str, object] | Fetched
    if pin is not None and (again := getattr(source, "fetch_pinned", None)) is not None:
        details = again(spec, ctx.project.root, into, report, pin.url, pin.sha256)
    else:
        details = source.fetch(spec, ctx.project.root, into, report)
    check_pin(pin, details.details if isinstance(details, Fetched) else details)
    if spec.disk:
        images.inspect_header(into / DISK, "qcow2")
    return details


def require_box(ctx: Context, config: MachineConfig, state: State | None) -> Box:
    """The box to start a machine with: for a machine that exists, the one it was made from.

    Raises:
        BoxError: it can't be had, or was changed.
        MachineError: the Qupfile now names another box.
    """
    if state is not None and state.box == config.settings.box:
        own = find_own(ctx, state)
        if own is not None:  # wherever it came from may be gone
            ctx.boxes.check(own)
            return own
    spec, box = find_box(ctx, config)
    if state is None:
        if box is None:
            box = fetch_box(ctx, config.name, spec)
        elif find_pin(ctx, spec) is None:
            box = renew_box(ctx, config, box)
        pin_box(ctx, config.name, box)
    else:
        box = _find_own(ctx, config, spec, state)
    ctx.boxes.check(box)
    return box


def find_own(ctx: Context, state: State) -> Box | None:
    """The box in the cache that a machine was made from, by the name that it has there."""
    box = ctx.boxes.get(state.box_digest)
    return box and replace(box, spec=replace(box.spec, name=state.box))


def _find_own(ctx: Context, config: MachineConfig, spec: BoxSpec, state: State) -> Box:
    """The box that a machine was made from."""
    own = find_own(ctx, state)
    if state.box != spec.name:
        told = f"a disk can't change its box: 'qup destroy {config.name}' first"
        if spec.iso and own is not None and own.spec.iso:
            told = f"'qup upgrade {config.name}' boots it from the new one and keeps its disk"
        raise MachineError(
            f"machine {config.name} was made from box {state.box}, and the Qupfile now says"
            f" {spec.name}",
            hint=told,
            machine=config.name,
        )
    if own is not None:
        return own
    found = fetch_box(ctx, config.name, spec)
    if found.digest != state.box_digest and not found.spec.iso:
        raise BoxError(
            f"machine {config.name}: the box its disk is based on ({state.box_digest[:12]}) is no"
            " longer in the cache, and what can be made now is another one",
            hint=f"put it back at {ctx.boxes.folder(state.box_digest)}, or 'qup destroy"
            f" {config.name}' and 'qup up' for a new machine",
        )
    return found


def renew_box(ctx: Context, config: MachineConfig, box: Box) -> Box:
    """For a new machine: what there is newer than a box in the cache, or the box itself."""
    source = ctx.plugins.box_sources[box.spec.source]
    ask = getattr(source, "newer", None)
    if ask is None:
        return box
    try:
        with ctx.phase(config.name, "box", f"asking for the newest {shown(box.spec)}") as phase:
            news = ask(box, ctx.project.root)
            phase.result = news or "it is here already"
        if news is None:
            return box
        return fetch_box(ctx, config.name, box.spec, again=True, than=box)
    except BoxError as exc:
        ctx.tell(
            config.name,
            f"box {shown(box.spec)} is taken from the cache ({describe_box(box)}), and may not be"
            f" the newest: {exc.message}",
            level="warning",
        )
        return box


def shown(spec: BoxSpec) -> str:
    """A box's name for messages: an address without what its query says."""
    return redact_url(spec.name) if "://" in spec.name else spec.name


def describe_box(box: Box) -> str:
    """A box in a few words: its version if it has one, its digest, since when it is here."""
    version = f"{box.spec.version}, " if box.spec.version else ""
    return f"{version}{box.digest[:12]} of {box.created[:10]}"
