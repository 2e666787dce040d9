"""``qup box export``: a machine that is to be a box for others.

The machine itself is not touched. What made it that machine is removed in a copy: a layer over
its disk, booted once, cleaned over ssh, and thrown away when the image has been made of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qup import images
from qup.boxes.cache import DISK as BOX_DISK
from qup.boxes.package import write_package
from qup.errors import BoxError, GuestError, HostError, MachineError, QupError
from qup.files import rotate_file
from qup.guest import ssh
from qup.guest.cleaning import clean_guest, make_cleaning_script
from qup.guest.discovery import GIVEN, Place
from qup.guest.keys import ensure_keys, public_half
from qup.host import boot_id
from qup.model.box import Box
from qup.model.drives import FURTHER
from qup.model.events import Finished
from qup.model.network import SSH_PORT
from qup.model.package import EFI_KERNEL, IMAGE, INITRD, KERNEL, write_metadata
from qup.model.plan import Plan
from qup.model.seed import Seed
from qup.model.state import Launch, State
from qup.model.units import format_size
from qup.ownership import make_private
from qup.paths import MachineFolder, RuntimeFolder, SshFolder, runtime_folder
from qup.qemu import disk
from qup.qemu.engine import Engine, start
from qup.qemu.qmp import MonitorClosed
from qup.runner.boxes import require_box
from qup.runner.context import Context
from qup.runner.firmware import find_firmware, prepare_variables
from qup.runner.forwards import open_way_in
from qup.runner.layout import layout_for
from qup.runner.materials import check_disk, now, write_seed
from qup.runner.observe import SUSPENDED, observe
from qup.runner.peers import BEGIN, END
from qup.runner.prepare import identity_of, make_plan
from qup.runner.ready import find_and_log_in
from qup.runner.warm import find_base
from qup.runner.whereabouts import forget_place, note_place
from qup.store import is_copy, read_state
from qup.templates.template import DISK as TEMPLATE_DISK

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

CLEAN_TIMEOUT = 600.0
CLUSTER = 4096
"""Bytes of a block of most file systems: with larger ones, what was in a deleted file could stay
in the image, as a guest can give back whole clusters only."""
POWEROFF_TIMEOUT = 120.0
QUIT_TIMEOUT = 20.0


@dataclass(frozen=True)
class Wish:
    """What is to be made of a machine.

    Attributes:
        target: the file.
        as_is: don't boot and clean a copy: all that is on the disk goes into the box.
        force: replace the file.
    """

    target: Path
    as_is: bool = False
    force: bool = False


def export(ctx: Context, config: MachineConfig, wish: Wish) -> None:
    """Write a box that is made of a stopped machine.

    Args:
        ctx: the surroundings.
        config: the machine.
        wish: what is to be made of it.

    Raises:
        MachineError: it runs, or was never up.
        BoxError: it can't be a box.
        GuestError: its copy doesn't come up, or can't be cleaned.
        HostError: there is no room, or the file can't be written.
    """
    began = time.monotonic()
    _check_target(wish)
    folder = ctx.project.machine(config.name)
    if not folder.root.is_dir():
        raise _never_up(config.name)
    with ctx.lock(folder):
        state = _require_stopped(ctx, folder)
        work = _Export(ctx, config, folder, state, require_box(ctx, config, state))
        with _workplace(folder) as place:
            digest, size = work.run(wish, place)
    data = {"file": str(wish.target), "sha256": digest, "size": size, "cleaned": not wish.as_is}
    ctx.emit(Finished(config.name, "export", True, time.monotonic() - began, data))


def _check_target(wish: Wish) -> None:
    if os.path.lexists(wish.target) and not wish.force:
        raise HostError(
            f"{wish.target} exists", hint="name another file, or replace this one with --force"
        )
    if not wish.target.parent.is_dir():
        raise HostError(f"there is no folder {wish.target.parent}", hint="make it, or name another")


def _never_up(name: str) -> MachineError:
    return MachineError(
        f"machine {name} was never up here: there is no disk to make a box of",
        hint=f"'qup up {name}' makes it",
        machine=name,
    )


def _require_stopped(ctx: Context, folder: MachineFolder) -> State:
    state = read_state(folder)
    if state is None or is_copy(state, folder):
        raise _never_up(folder.name)
    seen = observe(folder)
    if seen.status == SUSPENDED:
        raise MachineError(
            f"machine {folder.name} is suspended: what its guest has in memory is not on its disk",
            hint=f"'qup resume {folder.name}' and 'qup down {folder.name}' first",
            machine=folder.name,
        )
    if seen.alive:
        raise MachineError(
            f"machine {folder.name} is {seen.status}: a disk that is being written to can't become"
            " a box",
            hint=f"'qup down {folder.name}' first",
            machine=folder.name,
        )
    if state.launch is not None:
        ctx.tell(
            folder.name,
            "was not shut down: what its guest had not written to its disk is not in the box",
            level="warning",
        )
    return state


@contextmanager
def _workplace(folder: MachineFolder) -> Iterator[MachineFolder]:
    """A folder for the copy, of the machine's name; nothing is left of it."""
    shutil.rmtree(folder.export, ignore_errors=True)  # one that was cut off by SIGKILL
    copy = MachineFolder(make_private(folder.export) / folder.name)
    try:
        make_private(copy.root)
        copy.logs.symlink_to(folder.logs)
        yield copy
    finally:
        shutil.rmtree(folder.export, ignore_errors=True)


@dataclass
class _Export:
    ctx: Context
    config: MachineConfig
    folder: MachineFolder
    state: State
    box: Box

    @property
    def name(self) -> str:
        return self.config.name

    def run(self, wish: Wish, copy: MachineFolder) -> tuple[str, int]:
        """Make the archive; returns its digest and its size in bytes."""
        if self.box.spec.iso:
            raise BoxError(
                f"machine {self.name} boots from the CD of box {self.box.spec.name}: its disk alone"
                " would not boot"
            )
        plan = self._plan()
        if getattr(self.ctx.plugins.guest_seeders[plan.seed.seeder], "once", False):
            self.ctx.tell(
                self.name,
                f"seeder {plan.seed.seeder} tells a disk something at its first boot only: machines"
                " of this box keep this one's user and name, and get no key from it",
                level="warning",
            )
        self._check_disks()
        source = self.folder.disk
        if not wish.as_is:
            self._clean(plan, copy)
            source = copy.disk
        with self.ctx.phase(self.name, "export", f"writing {wish.target.name}") as phase:
            digest, size = self._write(plan, source, copy.root / IMAGE, wish.target)
            phase.result = f"{format_size(size)}, sha256 {digest[:12]}"
        return digest, size

    def _plan(self) -> Plan:
        """The plan of the copy: the same machine, and nothing but what lets qup in."""
        spec = self.box.spec
        plan = make_plan(
            self.ctx, self.config, identity_of(self.state), spec, self.state.box_digest
        )
        nics = tuple(
            replace(nic, plan=replace(nic.plan, forwards=(), ports=None)) for nic in plan.nics
        )
        disks = tuple(disk for disk in plan.disks if not disk.role.startswith(FURTHER))
        if len(disks) < len(plan.disks):
            self.ctx.tell(self.name, "its further disks are not part of the box")
        return replace(
            plan, nics=nics, disks=disks, provision=(), folders=(), extra=(), display=None,
            nographic=False, template=None,
        )  # fmt: skip

    def _check_disks(self) -> None:
        """What is read must be the machine's own disk, over what qup put below it."""
        base = find_base(self.ctx, self.box, self.state)
        check_disk(self.name, self.folder.disk, base, 1 << 62)
        if self.state.template is not None:
            below = self.ctx.templates.folder(self.state.template) / TEMPLATE_DISK
            images.check_overlay(below, self.ctx.boxes.folder(self.box.digest) / BOX_DISK)

    # --- the copy ---

    def _clean(self, plan: Plan, copy: MachineFolder) -> None:
        if not plan.seed_form.login:
            raise BoxError(
                f"machine {self.name}: nobody can log in to clean a copy of it",
                hint="--as-is exports the disk with all that is on it: host keys, logs and so on",
            )
        runtime = runtime_folder(self.state.id)
        self._prepare(plan, copy)
        engine = self._launch(plan, copy, runtime)
        try:
            self._boot(plan, copy, runtime, engine)
            with self.ctx.phase(self.name, "clean", "removing what makes it this machine") as phase:
                closed = clean_guest(
                    SshFolder(copy.ssh), self.name, self._script(plan), timeout=CLEAN_TIMEOUT
                )
                ssh.close_master(SshFolder(copy.ssh), runtime, self.name)
                _switch_off(self.name, engine, closed=closed)
                phase.result = "keys, machine id, first boot, leases, logs"
        finally:
            engine.kill()
            runtime.remove()

    def _prepare(self, plan: Plan, copy: MachineFolder) -> None:
        shutil.copytree(self.folder.ssh, copy.ssh)
        user_key, host_key = ensure_keys(SshFolder(copy.ssh), self.name)
        seeder = self.ctx.plugins.guest_seeders[plan.seed.seeder]
        files = seeder.files(Seed(plan.seed, user_key.public, host_key))
        write_seed(copy, plan.seed_form, files)
        size = images.virtual_size(self.folder.disk, "qcow2")
        disk.create_overlay(copy.disk, self.folder.disk, "qcow2", size, cluster=CLUSTER)
        if firmware := find_firmware(self.ctx, plan):
            if self.folder.firmware_vars.exists():
                shutil.copyfile(self.folder.firmware_vars, copy.firmware_vars)
            prepare_variables(self.ctx, self.name, copy, firmware)

    def _launch(self, plan: Plan, copy: MachineFolder, runtime: RuntimeFolder) -> Engine:
        program = self.ctx.host.which(plan.program)
        if program is None:
            raise HostError(
                f"machine {self.name}: {plan.program} is missing", hint="'qup doctor' says more"
            )
        rotate_file(self.folder.log("serial"))
        firmware = find_firmware(self.ctx, plan)
        box = self.ctx.boxes.folder(self.box.digest)
        layout = layout_for(plan, copy, box, program, firmware=firmware.code if firmware else None)
        with self.ctx.phase(self.name, "launch", "starting QEMU for a copy of it") as phase:
            engine = start(plan, layout, copy, runtime, copy.root, mortal=True)
            phase.result = f"{plan.accelerator.name}, pid {engine.process.pid}"
        return engine

    def _boot(
        self, plan: Plan, copy: MachineFolder, runtime: RuntimeFolder, engine: Engine
    ) -> None:
        launch = Launch(boot_id(), now(), plan.digest(), str(runtime.root))
        state = replace(self.state, launch=launch)
        with self.ctx.phase(self.name, "boot", "booting a copy of it"):
            try:
                nic = plan.nics[plan.ssh_nic].plan
                place = Place(nic.ssh_address or "", SSH_PORT, GIVEN)
                if not nic.ssh_address and not nic.discover:
                    held = open_way_in(engine.control, plan)
                    place = Place(held.address, held.host)
                engine.control.execute("cont")
                note = note_place if place.address else _note_nowhere
                state = note(copy, state, place, plan)
                find_and_log_in(self.ctx, copy, plan, state, engine.events)
            except MonitorClosed as exc:
                raise MachineError(
                    f"machine {self.name}: QEMU died while the copy booted:"
                    f" {engine.describe_death()}",
                    machine=self.name,
                ) from exc
            except GuestError as exc:
                exc.hint = f"does 'qup up {self.name}' work? --as-is exports the disk as it is"
                raise

    def _script(self, plan: Plan) -> str:
        key = ensure_keys(SshFolder(self.folder.ssh), self.name)[0].public
        known: list[str] = []
        if plan.seed_form.known_key:
            ask = getattr(self.ctx.plugins.guest_seeders[plan.seed.seeder], "known_keys", tuple)
            known = [f"{public_half(text)} known to everybody" for text in ask()]
        return make_cleaning_script(key, known, (BEGIN, END))

    # --- the archive ---

    def _write(self, plan: Plan, source: Path, image: Path, target: Path) -> tuple[str, int]:
        disk.flatten(source, image)
        spec, box = self.box.spec, self.ctx.boxes.folder(self.box.digest)
        names = (KERNEL, INITRD) * spec.kernel + (EFI_KERNEL,) * spec.efi
        metadata = write_metadata(
            spec,
            user=self.state.user,
            seeder=plan.seed.seeder,
            size=images.virtual_size(image, "qcow2"),
            made=now()[:10],
        )
        return write_package(
            target, metadata, {IMAGE: image, **{name: box / name for name in names}}
        )


def _note_nowhere(folder: MachineFolder, state: State, place: Place, plan: Plan) -> State:  # noqa: ARG001  as note_place
    return forget_place(folder, state)


def _switch_off(machine: str, engine: Engine, *, closed: bool) -> None:
    """End the copy's QEMU, with its guest's disk written.

    Raises:
        MachineError: the guest doesn't power off.
    """
    try:
        if closed:
            engine.control.execute("quit")
        else:
            engine.control.execute("system_powerdown")
        engine.process.wait(QUIT_TIMEOUT if closed else POWEROFF_TIMEOUT)
    except (QupError, subprocess.TimeoutExpired) as exc:
        raise MachineError(
            f"machine {machine}: the copy does not power off: {exc}", machine=machine
        ) from exc
