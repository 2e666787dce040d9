"""Making a template: a guest is booted as nobody in particular, made to wait, and saved.

The golden machine has an identity that is thrown away: its keys never were anybody's, so what
is left of them in a template's memory opens nothing. It ends with this process, however that
ends; a folder that was left half-made is replaced by the next one who tries.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qup.boxes.cache import DISK as BOX_DISK
from qup.errors import GuestError, HostError, MachineError
from qup.files import explain_os_error, rotate_file
from qup.guest import identity, ssh
from qup.guest.discovery import Place
from qup.guest.identity import (
    IdentityFailure,
    IdentityPort,
    Persona,
    make_waiting_script,
)
from qup.guest.keys import ensure_keys
from qup.host import boot_id
from qup.model.box import Box
from qup.model.display import NONE
from qup.model.network import make_mac
from qup.model.plan import DisplayPlan, Nic, NicSeed, Plan
from qup.model.state import Launch, State
from qup.model.text import clean_line
from qup.model.units import MIB, format_size
from qup.ownership import make_private
from qup.paths import MachineFolder, Project, RuntimeFolder, SshFolder, runtime_folder
from qup.qemu.argv import Memory
from qup.qemu.cards import unplug_networks
from qup.qemu.engine import Engine, start
from qup.qemu.idleness import await_idleness
from qup.qemu.migration import save_state
from qup.qemu.qmp import MonitorClosed, MonitorError
from qup.runner.context import Context
from qup.runner.drives import find_image, further_disks
from qup.runner.firmware import find_firmware
from qup.runner.forwards import open_way_in
from qup.runner.layout import layout_for
from qup.runner.materials import now, prepare
from qup.runner.prepare import emulator_for, new_identity
from qup.runner.ready import find_and_log_in
from qup.runner.whereabouts import note_place
from qup.templates.key import describe_visible
from qup.templates.stand_in import USER, hide_addresses, make_stand_in
from qup.templates.template import RAM, STATE, Template, is_kept, name_image

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

HOSTNAME = "qup-template"
SAVE_TIMEOUT = 60.0
WAIT_TIMEOUT = 30.0
QUIT_TIMEOUT = 20.0
IDLE_LIMIT = 10.0
"""Seconds to wait for a guest that is never idle."""
SPARE = 512 * MIB
"""Bytes that must stay free on the cache's file system: a full one kills the golden QEMU."""


class NoTemplate(Exception):
    """A template could not be made, and the machine boots as if there were none."""


def plan_golden(plan: Plan) -> Plan:
    """The plan of the golden machine for a machine's plan: the same hardware, another identity."""
    fresh = new_identity(plan.identity.name)
    # User data may depend on the name; it is a part of the key then.
    hostname = plan.seed.hostname if plan.seed.user_data else HOSTNAME
    taken: set[str] | None = None if plan.seed.user_data else set()
    nics = tuple(_anonymous(nic, fresh.id, index, taken) for index, nic in enumerate(plan.nics))
    told = tuple(NicSeed(nic.mac, nic.plan.address) for nic in nics)
    seed = replace(plan.seed, instance_id=fresh.uuid, hostname=hostname, nics=told)
    # The card is there, and nobody looks.
    display = plan.display and DisplayPlan(NONE, NONE)
    folders = tuple(replace(folder, tag=folder.id) for folder in plan.folders)
    return replace(
        plan, identity=fresh, nics=nics, seed=seed, display=display, provision=(), folders=folders
    )


def _anonymous(nic: Nic, machine_id: str, index: int, taken: set[str] | None) -> Nic:
    """The card of the golden machine for a machine's.

    Args:
        nic: the machine's.
        machine_id: the golden machine's.
        index: which card it is.
        taken: addresses that it can't have; None if it has the machine's own.
    """
    plan = nic.plan
    if "hostname" in plan.netdev:
        plan = replace(plan, netdev={**plan.netdev, "hostname": HOSTNAME})
    if taken is not None and plan.netdev.get("type") != USER:
        plan = replace(plan, address=hide_addresses(plan.address, taken))
    return replace(nic, mac=make_mac(machine_id, index), plan=make_stand_in(plan, index))


def make_template(ctx: Context, config: MachineConfig, plan: Plan, box: Box, key: str) -> Template:
    """Make the template for a plan; the caller holds the lock of its key, and has cleared the
    folder that it is made in.

    Raises:
        GuestError: the guest doesn't come up; it would not without a template either.
        NoTemplate: it came up, but can't be made a template; the message says why.
    """
    making = make_private(ctx.templates.making_folder(key))
    folder = MachineFolder(making / plan.identity.name)
    work = _Making(ctx, config, _find_images(ctx.project, plan_golden(plan)), box, folder)
    try:
        check_space(making, plan.memory_mib * MIB)
        ctx.templates.note_sockets(key, work.runtime)
        return work.run(plan, key)
    except OSError as exc:
        raise NoTemplate(str(explain_os_error("make a template in", making, exc))) from exc
    finally:
        work.runtime.remove()
        ctx.templates.clear_making(key)


def _find_images(project: Project, golden: Plan) -> Plan:
    """The plan with paths of the user's images that are right in any folder."""
    disks = tuple(
        replace(disk, image=str(find_image(project, disk.image))) if disk.image else disk
        for disk in golden.disks
    )
    return replace(golden, disks=disks)


def check_space(folder: Path, memory: int) -> None:
    """Make sure that a template fits onto its file system.

    Raises:
        NoTemplate: it might not.
    """
    free = shutil.disk_usage(folder).free
    if free < memory + SPARE:
        raise NoTemplate(f"only {format_size(free)} are free in the cache")


@dataclass
class _Making:
    ctx: Context
    config: MachineConfig
    golden: Plan
    box: Box
    folder: MachineFolder

    @property
    def name(self) -> str:
        return self.golden.identity.name

    @property
    def runtime(self) -> RuntimeFolder:
        return runtime_folder(self.golden.identity.id)

    def run(self, plan: Plan, key: str) -> Template:
        began = time.monotonic()
        self._prepare()
        engine = self._launch()
        try:
            self._boot(engine)
            persona = self._make_wait()
            # What it is busy with now would keep each restored guest busy: the end of the login,
            # the new time.
            await_idleness(engine.process.pid, limit=IDLE_LIMIT)
            with self.ctx.phase(self.name, "template", "saving the template") as phase:
                self._save(engine)
                template = Template(
                    id=self.golden.identity.id,
                    key=key,
                    visible=describe_visible(plan, emulator_for(self.ctx, plan)),
                    box=self.box.spec.name,
                    box_digest=self.box.digest,
                    persona=asdict(persona),
                    boot_id=boot_id(),
                    seconds=round(time.monotonic() - began, 2),
                )
                made = self._publish(template)
                phase.result = f"{format_size(self.ctx.templates.size(made))}, {made.id}"
        finally:
            engine.kill()
        return made

    def _prepare(self) -> None:
        make_private(self.folder.root)
        make_private(self.folder.ssh)
        # What the guest says belongs to the machine it is booted for.
        self.folder.logs.symlink_to(self.ctx.project.machine(self.name).logs)
        base = self.ctx.boxes.folder(self.box.digest) / BOX_DISK
        prepare(
            self.ctx, self.config, self.folder, self.golden, self.box, None, base,
            title="preparing a template's disk and seed",
        )  # fmt: skip
        with (self.folder.root / RAM).open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(self.golden.memory_mib * MIB)

    def _launch(self) -> Engine:
        program = self.ctx.host.which(self.golden.program)
        assert program is not None
        rotate_file(self.folder.log("serial"))
        box = self.ctx.boxes.folder(self.box.digest)
        firmware = find_firmware(self.ctx, self.golden)
        layout = layout_for(
            self.golden, self.folder, box, program, firmware=firmware and firmware.code
        )
        memory = Memory(str(self.folder.root / RAM), share=True)
        # Who mounts a folder before the guest is somebody sees an empty one.
        empty = make_private(self.folder.root / "folders")
        places = {item.id: empty for item in self.golden.folders}
        layout = replace(layout, memory=memory, unpluggable=True, folders=places)
        with self.ctx.phase(self.name, "launch", "starting QEMU for a template") as phase:
            cwd = self.folder.root
            engine = start(self.golden, layout, self.folder, self.runtime, cwd, mortal=True)
            phase.result = f"{self.golden.accelerator.name}, pid {engine.process.pid}"
        return engine

    def _boot(self, engine: Engine) -> None:
        held = open_way_in(engine.control, self.golden)
        engine.control.execute("cont")
        place = Place(held.address, held.host)
        state = note_place(self.folder, self._state(), place, self.golden)
        with self.ctx.phase(self.name, "boot", "booting a template"):
            try:
                find_and_log_in(self.ctx, self.folder, self.golden, state, engine.events)
            except MonitorClosed as exc:
                raise NoTemplate(f"QEMU died while it booted: {engine.describe_death()}") from exc
            except GuestError as exc:
                exc.hint = f"{exc.hint or ''}; 'qup up --cold {self.name}' starts it without a"
                exc.hint += " template, and leaves it for a look inside"
                raise

    def _state(self) -> State:
        launch = Launch(boot_id(), now(), "", str(self.runtime.root))
        return State(
            id=self.golden.identity.id,
            uuid=self.golden.identity.uuid,
            name=self.name,
            project=str(self.ctx.project.root),
            created=now(),
            box=self.box.spec.name,
            box_digest=self.box.digest,
            user=self.golden.seed.user,
            launch=launch,
        )

    def _make_wait(self) -> Persona:
        """Have the guest wait for its identity, once its first boot is over."""
        keys = SshFolder(self.folder.ssh)
        with self.ctx.phase(self.name, "settle", "waiting for the end of the first boot"):
            try:
                done = ssh.run_in_guest(
                    keys,
                    self.name,
                    ssh.AS_ROOT,
                    input=make_waiting_script(hold=True),
                    timeout=self.golden.boot_timeout,
                )
            except HostError as exc:
                raise NoTemplate(exc.message) from exc
        ssh.close_master(keys, self.runtime, self.name)
        if identity.WAITING not in done.stdout:
            said = (done.stdout.strip() or done.stderr.strip()).splitlines()
            reason = clean_line(said[-1]) if said else done.outcome
            raise NoTemplate(f"the guest can't be made to wait: {reason}")
        try:
            with IdentityPort(self.runtime.identity, self.name) as port:
                port.refresh(WAIT_TIMEOUT)  # it waits for the next one now, and is proved to
        except IdentityFailure as exc:
            raise NoTemplate(f"the guest does not wait: {exc.message}") from exc
        user_key, _ = ensure_keys(keys, self.name)
        return Persona.of(self.golden, user_key)

    def _save(self, engine: Engine) -> None:
        try:
            unplug_networks(engine.control, self.golden)
            save_state(engine.control, self.folder.root / STATE, timeout=SAVE_TIMEOUT)
            engine.control.execute("quit")
            engine.process.wait(QUIT_TIMEOUT)
        except (MachineError, MonitorError) as exc:
            raise NoTemplate(f"it could not be saved: {exc.message}") from exc
        except Exception as exc:
            raise NoTemplate(f"it could not be saved: {exc}") from exc

    def _publish(self, template: Template) -> Template:
        """Keep what is a part of the template, and nothing that was a part of the machine."""
        for disk in further_disks(self.golden):
            if disk.image:
                continue
            place = self.folder.root / name_image(disk.role)
            self.folder.further_disk(disk.serial).replace(place)
        for path in self.folder.root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not is_kept(path.name):
                path.unlink()
        return self.ctx.templates.publish(self.folder.root, template)
