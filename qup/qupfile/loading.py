"""From a document to a :class:`~qup.model.config.Config`: every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qup.model.config import (
    Config,
    MachineConfig,
    MachineSettings,
    Origin,
)
from qup.qupfile import rules
from qup.qupfile.document import Document
from qup.qupfile.drive_rules import check_drives
from qup.qupfile.folder_rules import check_folders
from qup.qupfile.layers import (
    Stack,
    read_environment,
    read_overrides,
    stack_layers,
)
from qup.qupfile.machine import Draft, MachineReader
from qup.qupfile.neighbours import check_addresses, check_taps, find_seats, plan_nics
from qup.qupfile.outer import Outer
from qup.qupfile.problems import Collector
from qup.qupfile.registry import Registry
from qup.qupfile.tables import read_tables, walk_model
from qup.qupfile.user_data_rules import check_user_data
from qup.toml_positions import KeyPath

if TYPE_CHECKING:
    from pydantic import BaseModel


def load(
    document: Document,
    *,
    registry: Registry,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
) -> Config:
    """Make the configuration of a document, the environment and the command line.

    Args:
        document: the Qupfile.
        registry: what plugins brought.
        environment: variables; those of ``SETTINGS`` count.
        overrides: values by dotted key, from options such as ``--memory``; None is "not given".
        assignments: the words of ``--set``, each ``KEY=VALUE``.

    Raises:
        QupfileErrors: something is wrong; it has every problem.
        PluginError: a plugin broke while it looked at its options.
    """
    problems = Collector()
    outer = Outer(
        (
            read_environment(environment or {}, problems),
            read_overrides(overrides or {}, assignments, problems),
        )
    )
    base, tables = read_tables(document, problems)
    for layer in (base, *tables.values()):
        MachineReader(stack_layers(document, [layer]), registry, problems).check_alone()
    stacks: dict[str, Stack] = {}
    drafts: dict[str, Draft] = {}
    for name, table in tables.items():
        stacks[name] = outer.stack_on(document, (base, table), registry)
        drafts[name] = MachineReader(stacks[name], registry, problems).build()
    check_together(drafts, stacks, problems)
    notes = outer.judge_unused(problems)
    problems.check()
    machines = {name: draft.finish(name) for name, draft in drafts.items()}
    nics = plan_nics(machines, registry)
    check_addresses(nics, stacks, problems)
    check_taps(nics, stacks, problems)
    problems.check()
    seats = find_seats(machines, nics)
    machines = {name: replace(machine, seats=seats) for name, machine in machines.items()}
    origins = {name: find_origins(machines[name], stacks[name]) for name in machines}
    return Config(machines, origins, document.digest, notes)


def check_together(
    drafts: Mapping[str, Draft], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """Look for what no table shows by itself: what can't go together."""
    rules.check_primary(stacks, problems)
    rules.check_order(stacks, problems)
    rules.check_ports({name: draft.nics for name, draft in drafts.items()}, stacks, problems)
    rules.check_displays({name: draft.display for name, draft in drafts.items()}, stacks, problems)
    settings = {name: draft.settings for name, draft in drafts.items()}
    for check in (check_drives, check_folders, check_user_data):
        check(settings, stacks, problems)


def find_origins(machine: MachineConfig, stack: Stack) -> dict[str, Origin]:
    """Where each of a machine's values came from, by dotted key; defaults are among them."""
    paths: list[KeyPath] = [
        path for path in walk_model(MachineSettings) if path[0] not in _TABLES or len(path) > 1
    ]
    options = type(machine.network).model_fields
    paths += [("network", field.alias or name) for name, field in options.items()]
    for index, use in enumerate(machine.networks):
        keys = ("mode", *(field.alias or name for name, field in _fields(use.options).items()))
        paths += [("networks", index, key) for key in keys]
    return {".".join(map(str, path)): stack.origin(path) for path in paths}


def _fields(options: BaseModel) -> Mapping[str, Any]:
    return type(options).model_fields


_TABLES = ("ssh", "network", "networks", "qemu")
