"""What a machine has of its own: its disk, its keys, its seed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from qup import images
from qup.errors import ConfigError, MachineError, StateError
from qup.files import write_atomic
from qup.guest.cd import write_cd
from qup.guest.keys import ensure_keys
from qup.guest.takeover import write_known_keys
from qup.model.box import Box
from qup.model.plan import Plan
from qup.model.seed import Seed, SeedForm
from qup.model.state import State
from qup.model.units import format_size
from qup.ownership import make_private
from qup.paths import MachineFolder, SshFolder
from qup.protocols import Problem
from qup.qemu import disk
from qup.runner.context import Context
from qup.runner.drives import prepare_disks
from qup.runner.firmware import find_firmware, prepare_variables
from qup.runner.snapshots import forget_origin
from qup.runner.suspended import discard

if TYPE_CHECKING:
    from qup.model.config import MachineConfig


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
