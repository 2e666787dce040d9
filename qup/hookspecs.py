"""The hooks. Their docstrings are the reference page ``docs/reference/hooks.md``.

There are three kinds. *Registrations* take nothing, touch nothing, and return typed objects
with a ``name``; a name given twice is an error that says which plugins gave it. *Contributions*
are pure functions that add to a plan. *Observations* are told what happens; what they raise is
logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from qup.api import (
        Accelerator,
        BoxSource,
        Check,
        Command,
        Event,
        ExtraArguments,
        FolderType,
        GuestSeeder,
        Host,
        MachineConfig,
        NetworkMode,
        Plan,
        Provisioner,
    )

hookspec = pluggy.HookspecMarker("qup")


@hookspec
def qup_network_modes() -> Iterable[NetworkMode]:  # type: ignore[empty-body]
    """Register ways to connect a machine: values of ``network.mode``.

    Called when a Qupfile is loaded. Built in: ``user``, ``tap``,
    ``bridge``, ``private``.
    """


@hookspec
def qup_accelerators() -> Iterable[Accelerator]:  # type: ignore[empty-body]
    """Register ways to run a guest's instructions: values of ``qemu.accelerator``.

    Called when a plan is made and by ``doctor``. Built in: ``kvm``, ``hvf``, ``whpx``, ``tcg``.
    """


@hookspec
def qup_box_sources() -> Iterable[BoxSource]:  # type: ignore[empty-body]
    """Register where boxes come from.

    Called when a box is looked up. Built in: ``tiny`` and ``debian`` (made from the host's own
    packages), ``image`` and ``web`` (a disk image's path and address), ``vagrant`` (a catalog of
    Vagrant's), ``iso`` (an ISO's path or address, or a releases
    API), ``boot2docker`` and ``rancheros``. A source with a method ``newer`` is a
    :class:`ChangingSource`, one with ``fetch_pinned`` a :class:`RepeatingSource`.
    """


@hookspec
def qup_guest_seeders() -> Iterable[GuestSeeder]:  # type: ignore[empty-body]
    """Register ways to tell a guest its name, user and keys before it first boots: values of
    ``seeder``.

    Called when a Qupfile is loaded. Built in: ``nocloud`` (cloud-init's CD), ``config-2``
    (OpenStack's configuration drive as a CD) and ``config-2-9p`` (the same as a share),
    ``format-me`` (boot2docker's message on the empty disk), ``rancheros`` (that, and user data
    by ``config-2``), ``ignition`` (by QEMU's fw_cfg), ``systemd-credentials`` (by SMBIOS),
    ``vagrant`` (a key that everybody knows, replaced at the first login) and ``none``. One with
    a method ``known_keys`` is a :class:`KnowingSeeder`.
    """


@hookspec
def qup_folder_types() -> Iterable[FolderType]:  # type: ignore[empty-body]
    """Register ways to bring a folder of this computer into a guest: values of ``type`` in
    ``[[machine.folders]]``.

    Called when a Qupfile with folders is loaded. Built in: ``virtiofs``, ``9p``, ``rsync``,
    ``tar`` and ``sftp``. One with a method ``share`` mounts and is a :class:`MountingType`, one
    with ``send`` copies and is a :class:`CopyingType`.
    """


@hookspec
def qup_provisioners() -> Iterable[Provisioner]:  # type: ignore[empty-body]
    """Register ways to set a guest up: keys of ``[[machine.provision]]``.

    Called when a Qupfile is loaded. Built in: ``shell``.
    """


@hookspec
def qup_commands() -> Iterable[Command]:  # type: ignore[empty-body]
    """Register commands of ``qup``.

    Called for ``qup --help`` and for a word that isn't a command of qup's own. A command can't
    take the name of a built-in one.
    """


@hookspec
def qup_checks() -> Iterable[Check]:  # type: ignore[empty-body]
    """Register things for ``qup doctor`` to look at.

    A check that raises is reported as a warning that names its plugin.
    """


@hookspec
def qup_amend_plan(config: MachineConfig, host: Host, plan: Plan) -> ExtraArguments | None:
    """Contribute words to QEMU's command line.

    Called once for every plan, after everything else is settled. Pure: it must give the same
    answer for the same arguments. Return None to add nothing. ``origin`` of the answer is
    replaced by the plugin's name.
    """


@hookspec
def qup_event(event: Event) -> None:
    """Be told what happens to machines: phases, messages, the end of a verb.

    May do anything that doesn't take long; an exception is logged with the plugin's name.
    """
