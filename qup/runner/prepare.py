"""From a validated configuration to a plan: the one place where facts are gathered for it."""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qup.api import GuestSeeder, Provisioner
from qup.errors import BoxError, ConfigError, HostError, PluginError
from qup.files import read_text
from qup.model.box import Box, BoxSpec
from qup.model.network import NicPlan, NicRequest
from qup.model.plan import AcceleratorPlan, Firmware, Identity, Plan, ProvisionStep
from qup.model.state import State
from qup.model.user_data import JINJA, MAX_USER_DATA
from qup.planner import AUTO, Facts, add_arguments, arch_of, choose_seeder, plan_machine
from qup.runner.context import Context
from qup.runner.display import settle_display
from qup.runner.drives import read_formats
from qup.runner.folders import gather_facts
from qup.runner.image_digests import digest_images
from qup.runner.pins import find_pinned
from qup.store import find_project_id
from qup.templates.key import Emulator, plan_template
from qup.templates.steps import add_steps

if TYPE_CHECKING:
    from qup.model.config import MachineConfig, NetworkUse

BIOS = "bios"
"""The value of ``qemu.firmware`` that leaves it to QEMU."""
RUNS = ("changed", "once", "always", "never")
"""What ``run`` of a step may say."""


@dataclass(frozen=True)
class Choice:
    """The accelerator that was taken, and why."""

    plan: AcceleratorPlan
    reason: str


def new_identity(name: str) -> Identity:
    """A machine that never was."""
    number = uuid.uuid4()
    return Identity(number.hex[:12], str(number), name)


def identity_of(state: State) -> Identity:
    return Identity(state.id, state.uuid, state.name)


def choose_accelerator(ctx: Context, config: MachineConfig, *, trust: bool = False) -> Choice:
    """Take the accelerator that was asked for, or for ``auto`` the best that is proved.

    Args:
        ctx: the surroundings.
        config: what was asked.
        trust: don't prove the one that was asked for.

    Raises:
        HostError: the one that was asked for doesn't work here, or none does.
    """
    wanted = config.settings.qemu.accelerator
    program = config.settings.qemu.program
    arch = arch_of(program)
    if wanted != AUTO:
        accelerator = ctx.plugins.accelerators[wanted]
        verdict = accelerator.usable(ctx.host, program, arch, prove=not trust)
        if not verdict.usable:
            raise HostError(
                f"machine {config.name}: accelerator {wanted} does not work here: {verdict.reason}",
                hint=verdict.hint
                or 'use accelerator = "auto" or "tcg"; --trust-accelerator skips the proof',
            )
        return Choice(accelerator.plan(arch), verdict.reason)
    reasons: list[str] = []
    for accelerator in sorted(ctx.plugins.accelerators.values(), key=lambda item: -item.priority):
        try:
            verdict = accelerator.usable(ctx.host, program, arch, prove=True)
        except PluginError as exc:
            reasons.append(f"not {accelerator.name}: {exc.message}")
            continue
        if verdict.usable:
            return Choice(accelerator.plan(arch), "; ".join([verdict.reason, *reasons]))
        reasons.append(f"not {accelerator.name}: {verdict.reason}")
    raise HostError(f"machine {config.name}: no accelerator works here", details="\n".join(reasons))


def resolve_box(ctx: Context, reference: str, arch: str) -> tuple[BoxSpec, str]:
    """Say what a box reference means, and which source has it.

    Raises:
        BoxError: no source knows it.
    """
    for source in ctx.plugins.box_sources.values():
        spec = source.resolve(reference, arch, ctx.project.root)
        if spec is not None:
            return spec, source.name
    import difflib  # only for the error

    names = sorted(name for source in ctx.plugins.box_sources.values() for name in source.names())
    close = difflib.get_close_matches(reference, names, n=1, cutoff=0.5)
    missing = ctx.plugins.explain_missing("box source", reference)
    hint = f"did you mean {close[0]!r}? " if close else ""
    hint += "'qup box search' lists those that have a name; or give the path of a disk image"
    if "://" in reference:
        hint = "an address of an image begins with https://, http:// or file://"
    raise BoxError(f"there is no box {reference!r}", hint=f"{hint}; {missing}" if missing else hint)


def find_box(ctx: Context, config: MachineConfig) -> tuple[BoxSpec, Box | None]:
    """What the machine's box is, and the box itself if it is in the cache."""
    spec, _ = resolve_box(ctx, config.settings.box, arch_of(config.settings.qemu.program))
    return spec, find_pinned(ctx, spec)


def make_plan(
    ctx: Context,
    config: MachineConfig,
    identity: Identity,
    spec: BoxSpec,
    digest: str | None,
    *,
    trust_accelerator: bool = False,
) -> Plan:
    """The plan for a machine, with what plugins add to it.

    Raises:
        HostError: QEMU, the machine type, or an accelerator that works is missing.
        PluginError: a plugin failed.
    """
    settings = config.settings
    machine_type = ctx.host.machine_type(settings.qemu.program, settings.qemu.machine)

    def plan_nic(use: NetworkUse, request: NicRequest) -> NicPlan:
        return ctx.plugins.network_modes[use.mode].plan(use.options, request)

    accelerator = choose_accelerator(ctx, config, trust=trust_accelerator).plan
    facts = Facts(
        machine_type=machine_type,
        accelerator=accelerator,
        box=spec,
        box_digest=digest,
        provision=_steps(ctx, config),
        user_data=_user_data(ctx, config),
        display=settle_display(ctx.host, config),
        formats=read_formats(ctx.project, config),
        firmware=_firmware(ctx, config, spec, machine_type),
        folders=gather_facts(ctx, config, accelerator.name),
        project=find_project_id(ctx.project) or secrets.token_hex(16),
        resolvers=ctx.host.resolvers,
        project_name=ctx.project.root.name,
        ports=_ports(ctx, config),
    )
    seeder = _find_seeder(ctx, config, spec)
    plan = plan_machine(config, facts, identity, plan_nic, seeder.form)
    _refuse_templates(config.name, plan, spec)
    plan = add_arguments(plan, ctx.plugins.amend(config, ctx.host, plan))
    emulator, system = emulator_for(ctx, plan), ctx.host.system
    template = plan_template(plan, emulator, wanted=settings.templates, system=system)
    if template.key and plan.provision:
        template = add_steps(template, plan, emulator, after=settings.after)
    return replace(plan, template=template)


def _find_seeder(ctx: Context, config: MachineConfig, spec: BoxSpec) -> GuestSeeder:
    name = choose_seeder(config, spec)
    found = ctx.plugins.guest_seeders.get(name)
    if found is None:  # the Qupfile's own was looked at when it was read
        known = f"there are {', '.join(ctx.plugins.guest_seeders)}: say one as 'seeder'"
        raise PluginError(
            f"machine {config.name}: box {spec.name} wants the guest seeder {name!r}, which is not"
            " here",
            hint=ctx.plugins.explain_missing("guest seeder", name) or known,
            machine=config.name,
        )
    return found


def emulator_for(ctx: Context, plan: Plan) -> Emulator:
    """What runs the guest of a plan."""
    qemu, processor = ctx.host.emulator(plan.program, plan.accelerator.name)
    return Emulator(qemu, processor, digest_images(ctx.project, ctx.templates.root, plan))


def _firmware(
    ctx: Context, config: MachineConfig, box: BoxSpec, machine_type: str
) -> Firmware | None:
    if config.settings.qemu.firmware == BIOS:
        return None
    if box.kernel and not box.efi:
        raise ConfigError(
            f"machine {config.name}: box {box.name} has a kernel that UEFI firmware can't start",
            hint='leave qemu.firmware out, or write "bios"',
        )
    try:
        found = ctx.host.firmware(config.settings.qemu.program, machine_type)
    except HostError as exc:
        raise HostError(f"machine {config.name}: {exc.message}", hint=exc.hint) from exc
    return Firmware(found.description, found.code_format)


def _user_data(ctx: Context, config: MachineConfig) -> str | None:
    """What the file of ``userdata`` says."""
    if config.settings.userdata is None:
        return None
    path = ctx.project.root / config.settings.userdata
    return read_text(path, f"machine {config.name}: userdata", limit=MAX_USER_DATA)


def _refuse_templates(name: str, plan: Plan, box: BoxSpec) -> None:
    """User data for cloud-init to fill in is for guests with cloud-init."""
    if box.cloud_init or not (plan.seed.user_data or "").startswith(JINJA):
        return
    raise ConfigError(
        f"machine {name}: box {box.name} has no cloud-init, which fills in user data that"
        f" begins with {JINJA!r}",
        hint="with 'user-data-variables = true' qup itself fills in {{ hostname }} and a few more;"
        " box debian/12 has cloud-init",
        machine=name,
    )


def _steps(ctx: Context, config: MachineConfig) -> tuple[ProvisionStep, ...]:
    steps = []
    for number, use in enumerate(config.provision, 1):
        provisioner = ctx.plugins.provisioners[use.name]
        inputs = provisioner.digest(use.options, ctx.project.root)
        options = use.options.model_dump(mode="json", by_alias=True)
        on_host = bool(getattr(provisioner, "on_host", False))
        seen = [config.settings.env] if config.settings.env and not on_host else []
        text = json.dumps([use.name, options, inputs, *seen], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        steps.append(
            ProvisionStep(
                use.name,
                options,
                digest,
                name=use.title(number),
                run=use.step.run or _default_run(provisioner, on_host=on_host),
                on=use.step.on,
                timeout=use.step.timeout,
                on_host=on_host,
                by_content=bool(getattr(provisioner, "by_content", False)),
                share=use.step.share or "",
            )
        )
    return tuple(steps)


def _default_run(provisioner: Provisioner, *, on_host: bool) -> str:
    word = getattr(provisioner, "default_run", "always" if on_host else "changed")
    return word if word in RUNS else "changed"


def _ports(ctx: Context, config: MachineConfig) -> tuple[int, ...]:
    """The ports of the guest that its provisioners want to be reached."""
    found: list[int] = []
    for use in config.provision:
        provisioner = ctx.plugins.provisioners[use.name]
        if (ports := getattr(provisioner, "ports", None)) is not None:
            found += ports(use.options)
    return tuple(dict.fromkeys(found))
