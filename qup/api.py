"""The module that plugins import, and the only one.

A plugin is an installed distribution with an entry point in the group ``qup`` that names a
module (or object) with hook implementations::

    # pyproject.toml:  [project.entry-points.qup]
    #                  weather = "qup_weather"

    from qup.api import Check, Finding, hookimpl


    @hookimpl
    def qup_checks():
        return [Check("weather", "The sky", lambda host: [Finding("ok", "It is clear.")])]

The hooks are in :mod:`qup.hookspecs`. What a plugin returns is typed by the protocols and
records of :mod:`qup.protocols`, :mod:`qup.box_sources`, :mod:`qup.folder_types` and
:mod:`qup.commands`; what it is given (a :class:`Host`, a :class:`Guest`) it uses through the
protocols there and nothing else. All of them are imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from qup.box_sources import BoxSource, ChangingSource, Offer, Offering, RepeatingSource
from qup.commands import Command, ProjectMachine, ProjectMachines, complete_machines, machines_of
from qup.downloads import (
    Digest,
    Downloaded,
    OfflineError,
    Report,
    check_url,
    download,
    fetch_json,
    fetch_text,
    find_digest,
    has_changed,
    is_offline,
    parse_sums,
    redact_url,
)
from qup.errors import (
    BoxError,
    ConfigError,
    GuestError,
    HostError,
    MachineError,
    PluginError,
    ProvisionError,
    QupError,
)
from qup.files import is_outside, write_atomic
from qup.folder_types import (
    CopyingType,
    FolderGuest,
    FolderType,
    MountingType,
    Parcel,
)
from qup.images import inspect_image, inspect_iso
from qup.interfaces import (
    Interface,
    TapFacts,
    find_bridge_helper,
    find_holder,
    is_own_address,
    may_administrate,
    read_interface,
)
from qup.model.box import Box, BoxFile, BoxSpec, Fetched
from qup.model.events import Event
from qup.model.folders import FolderRequest, Server, Share
from qup.model.network import (
    AddressPlan,
    Forward,
    HostAction,
    NicPlan,
    NicRequest,
    PortRange,
    Tap,
    parse_forward,
    parse_port_range,
)
from qup.model.package import Packaged
from qup.model.plan import (
    AcceleratorPlan,
    ExtraArguments,
    NicSeed,
    Plan,
    SeedPlan,
)
from qup.model.reference import Reference, parse_reference
from qup.model.seed import KeyPair, Seed, SeedForm
from qup.paths import config_root
from qup.process import Result, TooLong, describe_exit, explain_start, follow, run
from qup.protocols import (
    Accelerator,
    Check,
    Finding,
    Guest,
    GuestSeeder,
    Host,
    KnowingSeeder,
    NetworkMode,
    Problem,
    Provisioner,
    Verdict,
)
from qup.unpacking import Made, make_disk

if TYPE_CHECKING:
    from qup.model.config import MachineConfig
    from qup.model.fields import Settings

__all__ = [
    "Accelerator",
    "AcceleratorPlan",
    "AddressPlan",
    "Box",
    "BoxError",
    "BoxFile",
    "BoxSource",
    "BoxSpec",
    "ChangingSource",
    "Check",
    "Command",
    "ConfigError",
    "CopyingType",
    "Digest",
    "Downloaded",
    "Event",
    "ExtraArguments",
    "Fetched",
    "Finding",
    "FolderGuest",
    "FolderRequest",
    "FolderType",
    "Forward",
    "Guest",
    "GuestError",
    "GuestSeeder",
    "Host",
    "HostAction",
    "HostError",
    "Interface",
    "KeyPair",
    "KnowingSeeder",
    "MachineConfig",
    "MachineError",
    "Made",
    "MountingType",
    "NetworkMode",
    "NicPlan",
    "NicRequest",
    "NicSeed",
    "Offer",
    "Offering",
    "OfflineError",
    "Packaged",
    "Parcel",
    "Plan",
    "PluginError",
    "PortRange",
    "Problem",
    "ProjectMachine",
    "ProjectMachines",
    "ProvisionError",
    "Provisioner",
    "QupError",
    "Reference",
    "RepeatingSource",
    "Report",
    "Result",
    "Seed",
    "SeedForm",
    "SeedPlan",
    "Server",
    "Settings",
    "Share",
    "Tap",
    "TapFacts",
    "TooLong",
    "Verdict",
    "check_url",
    "complete_machines",
    "config_root",
    "describe_exit",
    "download",
    "explain_start",
    "fetch_json",
    "fetch_text",
    "find_bridge_helper",
    "find_digest",
    "find_holder",
    "follow",
    "has_changed",
    "hookimpl",
    "inspect_image",
    "inspect_iso",
    "is_offline",
    "is_outside",
    "is_own_address",
    "machines_of",
    "make_disk",
    "may_administrate",
    "parse_forward",
    "parse_port_range",
    "parse_reference",
    "parse_sums",
    "read_interface",
    "redact_url",
    "run",
    "write_atomic",
]

hookimpl = pluggy.HookimplMarker("qup")
"""Marks a function of a plugin as the implementation of the hook of the same name."""


def __getattr__(name: str) -> Any:
    # They need pydantic: it is imported when a plugin asks for one of them, not before.
    match name:
        case "MachineConfig":
            from qup.model import config

            return config.MachineConfig
        case "Settings" | "UserName":
            from qup.model import fields

            return fields.Settings if name == "Settings" else fields.User
    raise AttributeError(f"module 'qup.api' has no attribute {name!r}")
