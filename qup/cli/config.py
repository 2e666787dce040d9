"""``qup plan``, ``init``, ``validate``, ``schema`` and ``trust``: the Qupfile's commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qup.cli.common import AsJson, Names, print_json, print_table
from qup.cli.main import globals_of
from qup.cli.settings import Overrides, find_risks, load_config, with_settings
from qup.errors import BoxError, ConfigError, QupError
from qup.files import write_atomic
from qup.paths import QUPFILE, runtime_folder

if TYPE_CHECKING:
    from qup.model.config import Config, MachineConfig
    from qup.model.plan import Plan, ProvisionStep
    from qup.model.seed import SeedForm
    from qup.qupfile import Untrusted
    from qup.runner.context import Context

NEW_QUPFILE = """\
# What 'qup up' starts here. Every setting: 'qup schema', or the file Qupfile.example.

[machine]
box    = {box}
cpus   = 1
memory = "{memory}"
disk   = "{disk}"

[machine.network]
forward = []                  # host:guest, such as "8080:80"; a host port of 0 picks a free one
"""


@with_settings
def plan(
    ctx: typer.Context,
    names: Names = None,
    qemu: Annotated[
        bool, typer.Option("--qemu", help="Print QEMU's command line, ready to be pasted.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print where each setting comes from.")
    ] = False,
    seed: Annotated[
        bool,
        typer.Option("--seed", help="Print what the guest is told at its first boot (its seed)."),
    ] = False,
    trust_accelerator: Annotated[
        bool, typer.Option("--trust-accelerator", help="Don't prove the accelerator.")
    ] = False,
    as_json: AsJson = False,
    *,
    overrides: Overrides,
) -> None:
    """Show what `qup up` would do, without doing it.

    Examples: `qup plan`, `qup plan --explain`, `qup plan web --qemu`, `qup plan --seed`,
    `QUP_MEMORY=4G qup plan`
    """
    from qup.cli.up import roster_of

    context = globals_of(ctx).context()
    config = load_config(context, overrides)
    chosen = roster_of(config).choose(names or [])
    if explain:
        _explain(config, chosen, as_json=as_json)
        return
    plans = {name: _plan(context, config.machines[name], trust_accelerator) for name in chosen}
    if seed:
        _print_seeds(context, plans, as_json=as_json)
    elif qemu:
        for name, item in plans.items():
            _print_command(context, name, item, as_json=as_json)
    elif as_json:
        print_json({"machines": {name: item.to_dict() for name, item in plans.items()}})
    else:
        for name, item in plans.items():
            _print_plan(name, item)


def _plan(context: Context, machine: MachineConfig, trust_accelerator: bool) -> Plan:
    from qup.runner.prepare import find_box, identity_of, make_plan, new_identity
    from qup.store import read_state

    state = read_state(context.project.machine(machine.name))
    spec, box = find_box(context, machine)
    identity = identity_of(state) if state else new_identity(machine.name)
    digest = state.box_digest if state else (box.digest if box else None)
    # A box that is here says more than its name.
    known = box.spec if box else spec
    return make_plan(context, machine, identity, known, digest, trust_accelerator=trust_accelerator)


def _print_seeds(context: Context, plans: dict[str, Plan], *, as_json: bool) -> None:
    """The seed's files, with words in the place of keys, which are made at the first start."""
    from qup.model.seed import KeyPair, Seed

    keys = KeyPair("(the host key, made at the first start)", "(its public half)")
    seeds = {
        name: context.plugins.guest_seeders[plan.seed.seeder].files(
            Seed(plan.seed, "(the machine's key for its user, made at the first start)", keys)
        )
        for name, plan in plans.items()
    }
    if as_json:
        print_json({"machines": {name: {"seed": dict(files)} for name, files in seeds.items()}})
        return
    for name, files in seeds.items():
        form = plans[name].seed_form
        kind = _describe_seed(form)
        typer.echo(f"# machine {name}: {f'{kind} with' if files else 'no files'}")
        for path, text in files.items():
            typer.echo(f"# {path}\n{text}")


def _describe_seed(form: SeedForm) -> str:
    """How the seed's files reach the guest."""
    if form.label:
        return f"a CD with the label {form.label}"
    if form.fw_cfg or form.oem_strings:
        return "items of QEMU's fw_cfg" if form.fw_cfg else "SMBIOS strings (type 11)"
    return "a share"


def _explain(config: Config, chosen: list[str], *, as_json: bool) -> None:
    if as_json:
        data = {
            name: {
                key: {"value": _value(config.machines[name], key), "layer": origin.layer,
                      "where": origin.where}
                for key, origin in config.origins[name].items()
            }
            for name in chosen
        }  # fmt: skip
        print_json({"machines": data})
        return
    for name in chosen:
        rows = [
            [key, _show(key, _value(config.machines[name], key)),
             " ".join(filter(None, (origin.layer, origin.where)))]
            for key, origin in config.origins[name].items()
        ]  # fmt: skip
        print_table([f"{name}:", "VALUE", "FROM"], rows)


def _show(key: str, value: Any) -> str:
    """A value as a person would write it in a Qupfile."""
    from qup.model.network import Forward
    from qup.model.units import format_size

    if value is None:
        return "-"
    if key.endswith(".forward"):
        value = [str(Forward(**item)) for item in value]
    return json.dumps(format_size(value) if key in ("memory", "disk") else value, default=str)


def _value(machine: MachineConfig, key: str) -> Any:
    """The value of a dotted key, in JSON's types."""
    data: Any = machine.settings.model_dump(mode="json", by_alias=True)
    data["network"], *others = (
        {"mode": use.mode, **use.options.model_dump(mode="json", by_alias=True)}
        for use in machine.nics
    )
    data["networks"] = {str(index): other for index, other in enumerate(others)}
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _print_plan(name: str, item: Plan) -> None:
    from qup.model.units import MIB, format_size

    size = item.disk.size or 0
    box = f"{item.box.name} ({item.box_digest[:12] if item.box_digest else 'not here yet'})"
    typer.echo(f"{name}:")
    rows = {
        "box": box,
        "cpus": str(item.cpus),
        "memory": format_size(item.memory_mib * MIB),
        "disk": format_size(size),
        **_describe_drives(item),
        **_describe_folders(item),
        "hostname": item.seed.hostname,
        **_nic_rows(item),
        "ssh": f"as {item.seed.user}",
        "qemu": f"{item.program}, {item.machine_type}, {item.accelerator.name}, cpu {item.cpu}",
        "display": item.display.value if item.display else "none",
        "boot-timeout": f"{item.boot_timeout:g}s",
    }
    if item.provision:
        rows["provision"] = ", ".join(map(_describe_step, item.provision))
        rows["templates"] = _describe_templates(item)
    for extra in item.extra:
        rows[extra.origin] = " ".join(extra.words)
    for key, value in rows.items():
        typer.echo(f"  {key:<13} {value}")


def _describe_templates(item: Plan) -> str:
    """Which steps a new machine need not run, where others have run them, and why no more."""
    known = item.template
    if known is None or known.obstacle or not known.steps:
        reason = known and (known.obstacle or known.steps_obstacle)
        return "no step comes with one" + (f": {reason}" if reason else "")
    names = ", ".join(item.provision[number - 1].name for number in known.steps)
    return f"{names} can come with one" + (
        f", no more: {known.steps_obstacle}" if known.steps_obstacle else ""
    )


def _describe_step(step: ProvisionStep) -> str:
    """A step's name, and what is special about it; that it runs here above all."""
    words = [step.on] * (step.on != "up") + ["on this computer"] * step.on_host
    words += [step.run] * (step.run not in ("changed", "always" if step.on_host else ""))
    return f"{step.name} ({', '.join(words)})" if words else step.name


def _nic_rows(item: Plan) -> dict[str, str]:
    """A row for each NIC: what it is connected to, and what the guest is told."""
    from qup.model.network import SSH_MODE

    rows = {}
    for index, nic in enumerate(item.nics):
        words = [f"{nic.mode} ({nic.mac})", *nic.plan.address.addresses]
        if nic.plan.forwards or nic.mode == "user":
            words.append(f"forwards: {', '.join(map(str, nic.plan.forwards)) or 'none'}")
        key = "network" if index == 0 else f"networks.{index - 1}"
        rows["(for ssh)" if nic.mode == SSH_MODE else key] = ", ".join(words)
    return rows


def _describe_drives(item: Plan) -> dict[str, str]:
    """What is to be said of further disks and of firmware, if there are any."""
    from qup.planner import words_of

    words = words_of(item)
    rows = {"disks": words["disks"]} if words["disks"] != "none" else {}
    return rows | ({"firmware": item.firmware.description} if item.firmware else {})


def _describe_folders(item: Plan) -> dict[str, str]:
    """A row for each folder: what it is, and why it is of its type."""
    return {
        f"folders.{index}": f"{folder}{f'; {folder.reason}' if folder.reason else ''}"
        for index, folder in enumerate(item.folders)
    }


def _print_command(context: Context, name: str, item: Plan, *, as_json: bool) -> None:
    from qup.qemu.argv import build, shell_command
    from qup.runner.firmware import find_firmware
    from qup.runner.layout import layout_for

    runtime = runtime_folder(item.identity.id)
    folder = context.project.machine(name)
    if item.box_digest is None and not as_json:
        typer.echo(f"# box {item.box.name} is not here yet: 'qup box build {item.box.name}'")
    box = context.boxes.folder(item.box_digest or "not-here-yet")
    program = context.host.which(item.program) or Path(item.program)
    sockets = {"control": runtime.control, "events": runtime.events, "console": runtime.console,
               "agent": runtime.agent, "identity": runtime.identity,
               "vnc": runtime.vnc}  # fmt: skip
    firmware = find_firmware(context, item)
    layout = layout_for(
        item, folder, box, program, sockets=sockets, firmware=firmware and firmware.code
    )
    folders = {one.id: context.project.root / one.host for one in item.folders}
    sockets |= {one.id: runtime.server for one in item.folders if one.vhost}
    arguments = build(item, replace(layout, folders=folders))
    if as_json:
        print_json(
            {"machine": name, "arguments": [{"words": a.words, "origin": a.origin}
                                            for a in arguments]}
        )  # fmt: skip
        return
    typer.echo(f"# machine {name}; qup hands the sockets over as open descriptors instead")
    for nic in item.nics:
        if nic.plan.tap is not None:
            typer.echo(f"# and {nic.plan.tap.interface} as well: it has to be there for this line")
    typer.echo(shell_command(arguments))
    typer.echo("")
    for argument in arguments:
        typer.echo(f"# {argument.words[0]:<11} {argument.origin}")


def init(
    ctx: typer.Context,
    box: Annotated[str, typer.Option(help="What the machine boots from.")] = "tiny",
    force: Annotated[bool, typer.Option("--force", help="Replace a Qupfile.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a Qupfile here, or in the folder of -C, without asking anything.

    Examples: `qup init`, `qup init --box ./debian-12.qcow2`
    """
    folder = globals_of(ctx).directory.absolute()
    if not folder.is_dir():
        raise ConfigError(f"the folder {folder} does not exist")
    path = folder / QUPFILE
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", hint="remove it first")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already", hint="--force replaces it")
    small = box == "tiny"
    text = NEW_QUPFILE.format(
        box=json.dumps(box), memory="256M" if small else "1G", disk="2G" if small else "20G"
    )
    write_atomic(path, text, mode=0o644)
    if as_json:
        print_json({"path": str(path)})
    else:
        typer.echo(f"wrote {path}; now 'qup up' starts the machine")


@with_settings
def validate(ctx: typer.Context, as_json: AsJson = False, *, overrides: Overrides) -> None:
    """Check the Qupfile and report all problems at once, each with its place and a remedy.

    Example: `qup validate`
    """
    context = globals_of(ctx).context()
    config = load_config(context, overrides)
    for machine in config.machines.values():
        _check_box(context, machine)
    names = list(config.machines)
    needs_trust = [f"{item.machine}: {item.key}" for item in find_risks(context, config)]
    if as_json:
        print_json({"valid": True, "machines": names, "needs_trust": needs_trust})
        return
    typer.echo(f"{context.project.qupfile} is fine: {', '.join(names)}")
    if needs_trust:
        typer.echo(f"it needs 'qup trust' for {', '.join(needs_trust)}")


def _check_box(context: Context, machine: MachineConfig) -> None:
    """Make sure that somebody knows the box, without fetching it."""
    from qup.runner.prepare import find_box

    try:
        find_box(context, machine)
    except BoxError as exc:
        raise BoxError(f"machine {machine.name}: {exc.message}", hint=exc.hint) from exc


def schema(ctx: typer.Context) -> None:
    """Print the Qupfile's JSON Schema for editors, including what your plugins add.

    Example: `qup schema > qupfile.schema.json`
    """
    from qup.plugins import Plugins
    from qup.qupfile import schema as build_schema

    del ctx
    typer.echo(json.dumps(build_schema(Plugins()), indent=2))


def trust(
    ctx: typer.Context,
    remove: Annotated[bool, typer.Option("--remove", help="Withdraw your trust.")] = False,
    as_json: AsJson = False,
) -> None:
    """Allow this project's Qupfile, with exactly its present content, to run programs on this
    computer.

    Only Qupfiles with raw `qemu.args`, an unusual `qemu.program`, a folder or a disk image
    outside the project, a raw image that the machine writes to, or the like need this. If the
    Qupfile changes, it needs your trust again.
    """
    from qup import trust as store
    from qup.qupfile import read

    context = globals_of(ctx).context()
    root = context.project.root
    if remove:
        store.distrust(root)
        needs: list[Untrusted] = []
    else:
        document = read(context.project)
        needs = _what_needs_trust(context)
        store.trust(root, document.digest)
    if as_json:
        print_json({"trusted": not remove, "needs_trust": [item._asdict() for item in needs]})
        return
    for item in needs:
        typer.echo(f"machine {item.machine}: {item.key} = {item.description}")
    if remove:
        typer.echo(f"{root} is not trusted any more")
    else:
        typer.echo(f"{context.project.qupfile} is trusted as it is now")


def _what_needs_trust(context: Context) -> list[Untrusted]:
    """What a Qupfile could run; nothing, as long as it can't even be read."""
    try:
        return find_risks(context, load_config(context, Overrides()))
    except QupError:
        return []
