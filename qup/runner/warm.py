"""Which way a machine comes up: restored from a template if one fits, booted if not.

Whatever is wrong with a template ends in a boot, with one line that says why: nobody gets a
dead machine because of a file in the cache.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup import images
from qup.boxes.cache import DISK as BOX_DISK
from qup.errors import ConfigError, HostError, StateError, TemplateError
from qup.guest.identity import IdentityPort, Persona, make_identity_script
from qup.guest.keys import ensure_keys
from qup.host import boot_id
from qup.locks import lock
from qup.model import units
from qup.model.box import Box
from qup.model.plan import Plan
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.qemu.argv import Layout, Memory
from qup.qemu.engine import Engine, start
from qup.qemu.migration import load_state
from qup.runner.context import Context
from qup.runner.golden import NoTemplate, make_template
from qup.runner.holding import find_users
from qup.runner.prepare import emulator_for
from qup.templates.key import describe_visible
from qup.templates.template import DISK, RAM, STATE, Template, find_difference

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

QUOTA = 20 * units.GIB
"""Bytes that templates may take up unless ``QUP_TEMPLATES_QUOTA`` says otherwise."""
GRACE = 600.0
"""Seconds after its last use in which a template is not removed to make room: a machine that
is being made from it may not have said so yet."""
OLDER_VERSIONS = 3
"""Templates of earlier versions of the same provisioning steps that are kept."""
RESTORE_TIMEOUT = 20.0
REFRESH_TIMEOUT = 10.0
BECOME_TIMEOUT = 90.0
MAKING_MARGIN = 120.0
"""Seconds to wait for another process beyond the time that its guest may take to boot."""


class Steps(Enum):
    """How a new machine's provisioning steps are done."""

    RUN = "run"
    """They run, as far as they are wanted, and no template comes of it."""
    LOOK = "look"
    """It is restored from a guest in which they have run, if there is one; none is made."""
    TAKE = "take"
    """It is restored from such a guest; if there is none, it becomes one."""
    RENEW = "renew"
    """They run, and what comes of it is the template for others."""


@dataclass(frozen=True)
class Origin:
    """What a machine's start begins with.

    Attributes:
        template: what it is restored from; None if it boots.
        reason: why it boots, in a few words.
        keep: the key of the template that is to be made when its provisioning steps have run.
    """

    template: Template | None = None
    reason: str = ""
    keep: str | None = None


def choose_origin(
    ctx: Context,
    config: MachineConfig,
    plan: Plan,
    box: Box,
    *,
    state: State | None,
    cold: bool = False,
    steps: Steps = Steps.RUN,
) -> Origin:
    """Find the template that fits a machine, or make it.

    A template in which its provisioning steps have run is only looked for: it takes a machine to
    make one.

    Args:
        ctx: the surroundings.
        config: what was asked.
        plan: what is to be started.
        box: what it is made from.
        state: the machine, if it exists.
        cold: the user wants a boot.
        steps: how its provisioning steps are to be done.

    Raises:
        ConfigError: the quota isn't a size.
        GuestError: the guest doesn't come up, template or not.
        StateError: somebody else makes the same template and takes too long.
    """
    if state is not None:
        return Origin(reason="it has a disk of its own")
    if cold:
        return Origin(reason="--cold")
    planned = plan.template
    if planned is None or planned.key is None:
        return Origin(reason=planned.obstacle or "" if planned else "")
    if read_quota() == 0:
        return Origin(reason="the quota for templates is 0")
    name, provisioned = plan.identity.name, planned.provisioned
    if provisioned and steps in (Steps.LOOK, Steps.TAKE):
        found = find_template(ctx, name, box, provisioned)
        if found is not None:
            ctx.templates.touch(found)
            return Origin(found)
    origin = _choose_boot(ctx, config, plan, box, planned.key)
    if origin.template is None or not provisioned or steps in (Steps.RUN, Steps.LOOK):
        return origin
    if steps is Steps.TAKE and (refusal := ctx.templates.refusal(provisioned)):
        ctx.note(name, f"no provisioned template: {refusal}")
        return origin
    return replace(origin, keep=provisioned)


def _choose_boot(ctx: Context, config: MachineConfig, plan: Plan, box: Box, key: str) -> Origin:
    """Find the template that was only booted, or make it."""
    name = plan.identity.name
    if refusal := ctx.templates.refusal(key):
        return Origin(reason=f"no template: {refusal}")
    with ExitStack() as held:
        try:
            mine = lock(
                ctx.templates.making_lock(key),
                what=f"the template for {name}",
                timeout=plan.boot_timeout + MAKING_MARGIN,
                on_wait=partial(ctx.tell, name),
            )
            held.enter_context(mine)
        except HostError as exc:  # a cache that can't be written to has no use for it
            return Origin(reason=f"no template: {exc.message}")
        return _find_or_make(ctx, config, plan, box, key)


def _find_or_make(ctx: Context, config: MachineConfig, plan: Plan, box: Box, key: str) -> Origin:
    name = plan.identity.name
    ctx.templates.clear_making(key)
    template = find_template(ctx, name, box, key)
    if template is None:
        visible = describe_visible(plan, emulator_for(ctx, plan))
        why = _explain_absence(ctx, visible)
        ctx.tell(name, f"no template fits ({why}): booting one")
        try:
            template = make_template(ctx, config, plan, box, key)
        except NoTemplate as exc:
            ctx.templates.refuse(key, str(exc))
            return Origin(reason=f"no template: {exc}")
        make_room(ctx, keep=template.id)
    ctx.templates.touch(template)
    return Origin(template)


def _explain_absence(ctx: Context, visible: dict[str, Any]) -> str:
    booted = [template for template in ctx.templates.templates() if not template.steps]
    differs = find_difference(visible, booted)
    return f"the nearest differs in {differs}" if differs else "none of this box yet"


def find_template(ctx: Context, machine: str, box: Box, key: str) -> Template | None:
    """The current template of a key, if it is sound; one that isn't is set aside."""
    try:
        template = ctx.templates.current(key)
    except TemplateError as exc:
        ctx.tell(machine, exc.message, level="warning", hint=exc.hint)
        return None
    if template is None:
        return None
    try:
        ctx.templates.check(template, boot_id())
        base = ctx.boxes.folder(box.digest) / BOX_DISK
        images.check_overlay(ctx.templates.folder(template.id) / DISK, base)
    except (TemplateError, StateError) as exc:
        set_aside(ctx, machine, template, exc.message)
        return None
    return template


def set_aside(ctx: Context, machine: str, template: Template, reason: str) -> None:
    """Let no machine be made from a template any more, and say so."""
    ctx.tell(machine, f"template {template.id} is set aside: {reason}", level="warning")
    with (
        suppress(HostError),  # a cache that can't be written to
        lock(ctx.templates.lock_path, what="the cache of templates", timeout=ctx.lock_timeout),
    ):
        ctx.templates.set_aside(template, reason)
        if not find_users(ctx.templates, template):
            ctx.templates.remove(template)


# --- using one --------------------------------------------------------------------------------


def restore(
    ctx: Context,
    plan: Plan,
    layout: Layout,
    folder: MachineFolder,
    runtime: RuntimeFolder,
    template: Template,
    *,
    mortal: bool = False,
    shared: Path | None = None,
) -> Engine:
    """Start a QEMU that goes on where a template's left off; its guest is still stopped.

    Its memory is the template's, of which it has the pages that it writes for itself; or
    ``shared``, a copy of it that it writes to: then it can be saved as a template, too.

    The memory is opened here, so that QEMU gets the file that was checked or none; QEMU itself
    would make an empty one in its place.

    Raises:
        MachineError: QEMU doesn't start, or doesn't take the state.
        TemplateError: a file of the template is gone.
    """
    files = ctx.templates.folder(template.id)
    try:
        handle = os.open(shared or files / RAM, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as exc:
        raise TemplateError(f"{RAM} can't be opened: {exc.strerror}") from exc
    try:
        layout = replace(
            layout,
            memory=Memory(f"/proc/self/fd/{handle}", share=shared is not None),
            incoming=True,
            unpluggable=shared is not None,
            inherit=(handle,),
        )
        engine = start(plan, layout, folder, runtime, ctx.project.root, mortal=mortal)
    finally:
        os.close(handle)
    ctx.watch.lap("launch")
    try:
        load_state(engine.control, files / STATE, timeout=RESTORE_TIMEOUT)
    except BaseException:
        engine.kill()
        raise
    return engine


def become(
    ctx: Context, folder: MachineFolder, plan: Plan, template: Template, runtime: RuntimeFolder
) -> None:
    """Make a guest that was just let go this machine.

    Raises:
        IdentityFailure: it is nobody's now and has to end.
    """
    user_key, host_key = ensure_keys(SshFolder(folder.ssh), folder.name)
    persona = Persona.of(plan, user_key)
    with (
        ctx.phase(folder.name, "identity", "becoming a machine of its own") as phase,
        IdentityPort(runtime.identity, folder.name) as port,
    ):
        before = port.set_cards(Persona.read(template.persona), persona, REFRESH_TIMEOUT)
        error = port.refresh(REFRESH_TIMEOUT)
        phase.result = f"clock right within {error * 1000:.0f} ms"
        script = make_identity_script(before, persona, host_key, uuid.uuid4().hex)
        port.run(script, BECOME_TIMEOUT)


# --- keeping them -----------------------------------------------------------------------------


def read_quota() -> int:
    """How many bytes templates may take up.

    Raises:
        ConfigError: the variable isn't a size.
    """
    text = os.environ.get("QUP_TEMPLATES_QUOTA", "")
    if not text:
        return QUOTA
    try:
        return units.parse_size(text, low=0, high=1 << 60)
    except ValueError as exc:
        raise ConfigError(f"QUP_TEMPLATES_QUOTA: {exc}") from exc


def make_room(ctx: Context, *, keep: str) -> None:
    """Remove templates that were not used for longest, until the quota is kept.

    Args:
        ctx: the surroundings.
        keep: the id of the one that it is done for.
    """
    with lock(ctx.templates.lock_path, what="the cache of templates", timeout=ctx.lock_timeout):
        ctx.templates.remove_leftovers()
        templates = sorted(ctx.templates.templates(), key=ctx.templates.last_used)
        total = sum(map(ctx.templates.size, templates))
        for template in templates:
            if total <= read_quota():
                break
            # A time to come is one of a clock that was wrong.
            recent = 0 <= time.time() - ctx.templates.last_used(template) < GRACE
            if template.id == keep or recent or find_users(ctx.templates, template):
                continue
            total -= ctx.templates.size(template)
            ctx.templates.remove(template)
            ctx.note("", f"template {template.id} removed to make room")


def remove_older(ctx: Context, template: Template) -> None:
    """Remove what earlier versions of a template's steps have left, but for a few: whoever works
    on a script would have a template of each try.
    """
    alike = {key: value for key, value in template.visible.items() if key != "steps"}
    with lock(ctx.templates.lock_path, what="the cache of templates", timeout=ctx.lock_timeout):
        found = [
            item
            for item in ctx.templates.templates()
            if item.steps
            and alike == {key: value for key, value in item.visible.items() if key != "steps"}
            and item.id != template.id
        ]
        found.sort(key=ctx.templates.last_used, reverse=True)
        for item in found[OLDER_VERSIONS:]:
            recent = time.time() - ctx.templates.last_used(item) < GRACE
            if not recent and not find_users(ctx.templates, item):
                ctx.templates.remove(item)
                ctx.note("", f"template {item.id} removed: its steps have changed since")


def find_base(
    ctx: Context, box: Box, state: State | None, template: Template | None = None
) -> Path | None:
    """The image that a machine's disk is an overlay of; None for a disk of its own.

    Args:
        ctx: the surroundings.
        box: what the machine is made from.
        state: the machine, if it exists.
        template: what a new machine is restored from, if it is.

    Raises:
        StateError: it was a template's, and that is gone.
    """
    if state is None and template is not None:
        return ctx.templates.folder(template.id) / DISK
    if state is None or state.template is None:
        return ctx.boxes.folder(box.digest) / BOX_DISK if box.spec.disk else None
    base = ctx.templates.folder(state.template) / DISK
    if not base.exists():
        raise StateError(
            f"machine {state.name}: the template that its disk is based on is gone: {base.parent}",
            hint=f"put it back, or 'qup destroy {state.name}' and 'qup up' for a new machine",
            machine=state.name,
        )
    return base
