"""What a machine is made of: its box, its disk, its keys, its seed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from qup import images
from qup.api import Problem
from qup.boxes.cache import DISK
from qup.downloads import redact_url
from qup.errors import BoxError, ConfigError, MachineError, StateError
from qup.files import write_atomic
from qup.guest.cd import write_cd
from qup.guest.keys import ensure_keys
from qup.guest.takeover import write_known_keys
from qup.locks import lock
from qup.model.box import Box, BoxSpec, Fetched
from qup.model.events import Progress
from qup.model.plan import Plan
from qup.model.seed import Seed, SeedForm
from qup.model.state import State
from qup.model.units import format_size
from qup.paths import MachineFolder, SshFolder, make_private
from qup.qemu import disk
from qup.runner.context import Context
from qup.runner.drives import prepare_disks
from qup.runner.firmware import find_firmware, prepare_variables
from qup.runner.pins import Pin, check_pin, find_pin, find_pinned, pin_box
from qup.runner.prepare import find_box
from qup.runner.snapshots import forget_origin
from qup.runner.suspended import discard

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
            f"machine {config.name}: the box its disk is based on ({state.box_digest[:12]}) is not"
            " in the cache any more, and what can be made now is another one",
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


def prepare(
    ctx: Context, config: MachineConfig, folder: MachineFolder, plan: Plan, box: Box,
    old: State | None, base: Path | None, template: str | None = None,
    title: str = "preparing disk and seed",
) -> State:  # fmt: skip
    """Make what is missing of disk, keys and seed, and fit the disk to the plan.

    Args:
        ctx: the surroundings.
        config: what was asked.
        folder: the machine's folder.
        plan: what is to be started.
        box: what the machine is made from.
        old: the machine, if it exists.
        base: the image that its disk is an overlay of; None for a disk of its own.
        template: the id of the template that the image belongs to, for a new machine.
        title: what is done, for people.

    Returns:
        The state of the machine with these materials; it is not written yet.
    """
    stock = find_stock(ctx, old.template if old else template)
    user_key, host_key = ensure_keys(SshFolder(folder.ssh), config.name)
    seeder = ctx.plugins.guest_seeders[plan.seed.seeder]
    seed = Seed(plan.seed, user_key.public, host_key)
    if old is None:
        _begin_trust(ctx, SshFolder(folder.ssh), plan)
    # A disk that is there has had its message, and the key in it may have been replaced since.
    fresh = old is None and plan.seed_form.payload
    payload = seeder.payload(seed) if fresh else b""
    wanted = _Disk(config.name, folder.disk, base, plan.disk.size or 0, payload)
    with (
        ctx.phase(config.name, "disk", title) as phase,
        aside(wanted.make if old is None else wanted.fit) as made,
        # qemu-img works while the seed is made
    ):
        write_seed(folder, plan.seed_form, seeder.files(seed))
        prepare_disks(ctx, config.name, folder, plan, stock=stock, fresh=old is None)
        if firmware := find_firmware(ctx, plan):
            prepare_variables(ctx, config.name, folder, firmware, stock=stock, fresh=old is None)
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
        template=template,
    )
    return replace(state, user=plan.seed.user, project=str(ctx.project.home), box_digest=box.digest)


def _begin_trust(ctx: Context, keys: SshFolder, plan: Plan) -> None:
    """For a guest that has never booted: forget the host key that it had before, and get ready
    the keys that it takes at first.
    """
    form = plan.seed_form
    if not form.host_key:
        keys.known_hosts.unlink(missing_ok=True)
    if form.known_key:
        ask = getattr(ctx.plugins.guest_seeders[plan.seed.seeder], "known_keys", tuple)
        write_known_keys(keys, ask())


def find_stock(ctx: Context, template: str | None) -> Path | None:
    """The folder of the template that a machine's disks are based on; None for none."""
    return ctx.templates.folder(template) if template else None


def discard_disks(folder: MachineFolder) -> None:
    """Forget what a machine's guest has written, and that it ever ran; its keys stay.

    The state goes first: without it the rest counts as never made; but before that the memory
    of a guest that was suspended, which fits these disks alone.
    """
    discard(folder)
    folder.state.unlink(missing_ok=True)
    for path in (folder.disk, folder.firmware_vars, *folder.disks.glob("*.qcow2")):
        path.unlink(missing_ok=True)
    forget_origin(folder)


def check_seed(ctx: Context, config: MachineConfig, plan: Plan) -> None:
    """Make sure that the guest can be told what the Qupfile wants it to be told.

    Raises:
        ConfigError: it can't.
    """
    problems = list(ctx.plugins.guest_seeders[plan.seed.seeder].problems(plan.seed))
    if plan.provision and not plan.seed_form.login:
        problems.append(
            Problem(
                f"seeder {plan.seed.seeder!r} gets nobody into the guest, and provisioning"
                " needs ssh",
                "remove the steps, or say how the guest learns its key: 'seeder'",
            )
        )
    if problems:
        raise ConfigError(
            f"machine {config.name}: " + "; ".join(problem.message for problem in problems),
            hint="; ".join(problem.hint for problem in problems if problem.hint) or None,
            machine=config.name,
        )


def write_seed(folder: MachineFolder, form: SeedForm, files: Mapping[str, str]) -> None:
    """Write what the guest reads at its first boot: a CD, a folder to share, or files whose
    content QEMU hands on.
    """
    if form.label is not None:
        write_cd(folder.seed, form.label, files)
    if form.share is not None or form.fw_cfg or form.oem_strings:
        shutil.rmtree(folder.seed_share, ignore_errors=True)  # another seeder may have been there
        make_private(folder.seed_share)
        for name, text in files.items():
            path = folder.seed_share / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, text, durable=False)


@dataclass(frozen=True)
class _Disk:
    """A machine's disk as it should be.

    Attributes:
        machine: whose it is.
        path: where it is.
        base: the box's disk that it is laid over; None for a disk of its own.
        size: bytes.
        payload: what a new one begins with.
    """

    machine: str
    path: Path
    base: Path | None
    size: int
    payload: bytes

    def make(self) -> str:
        """Make it; returns what was done."""
        if self.base is not None:
            disk.create_overlay(self.path, self.base, "qcow2", self.size)
        else:
            disk.create_blank(self.path, self.size, self.payload)
        return f"{format_size(self.size)} disk"

    def fit(self) -> str:
        """Make it larger if it is too small; returns what was done."""
        present = check_disk(self.machine, self.path, self.base, self.size)
        if present < self.size:
            disk.grow(self.path, self.size)
            return f"disk grown to {format_size(self.size)}"
        return "disk as it was"


def check_disk(machine: str, path: Path, base: Path | None, size: int) -> int:
    """Make sure that a machine's disk is there, sound, and no larger than what is asked for.

    Args:
        machine: whose it is.
        path: the disk.
        base: the box's disk that it must be laid over; None for a disk of its own.
        size: bytes.

    Returns:
        Its size in bytes.

    Raises:
        StateError: it is gone, damaged, or not based on what it should be.
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
