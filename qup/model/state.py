"""What qup remembers of a machine. Whether it runs is never written down: QEMU is asked."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

STATE_SCHEMA = 1

_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True)
class TapLink:
    """A tap that QEMU was given, and the bridge it was on at that time."""

    interface: str
    bridge: str | None = None


@dataclass(frozen=True)
class Launch:
    """The newest start of QEMU.

    Attributes:
        boot_id: the host's boot it happened in.
        started: when, in ISO 8601, UTC.
        plan: digest of the plan that was carried out.
        runtime: the folder of the sockets.
        ssh_address: where ssh finds the guest, once known.
        ssh_port: the port there.
        ready: ssh answered with the right host key.
        ssh_source: what told ssh_address, for a guest with an address of its own; None for one
            that is reached through a forward.
        restored: it was restored from a template instead of being booted.
        taps: interfaces of the host that the machine is connected to.
        login: the guest has been told qup's key, so that ssh is waited for.
        of_template: it was restored from a snapshot of a guest that had been restored from a
            template: its memory is named as such a guest's is.
    """

    boot_id: str
    started: str
    plan: str
    runtime: str
    ssh_address: str | None = None
    ssh_port: int | None = None
    ready: bool = False
    ssh_source: str | None = None
    restored: bool = False
    taps: tuple[TapLink, ...] = ()
    login: bool = True
    of_template: bool = False

    @property
    def templated(self) -> bool:
        """Whether the guest that runs was a template's once."""
        return self.restored or self.of_template


@dataclass(frozen=True)
class State:
    """A machine's identity, what it is made of, and its newest start.

    Attributes:
        id: names the folder of its sockets; see :class:`qup.model.plan.Identity`.
        uuid: the SMBIOS UUID.
        name: the machine's name.
        project: the folder it was last started in.
        created: when, in ISO 8601, UTC.
        box: the box's name in the Qupfile.
        box_digest: the box that it boots from; its disk is an overlay of that, unless it is an
            ISO.
        user: the account that ssh uses.
        template: the id of the template that its disk is an overlay of, if it is of one.
        launch: the newest start, or None before the first and after a clean stop.
        provisioned: digests of the provisioning steps that succeeded.
    """

    id: str
    uuid: str
    name: str
    project: str
    created: str
    box: str
    box_digest: str
    user: str
    template: str | None = None
    launch: Launch | None = None
    provisioned: tuple[str, ...] = ()

    def with_launch(self, launch: Launch | None) -> State:
        return replace(self, launch=launch)

    def to_dict(self) -> dict[str, Any]:
        """The state as ``state.json`` holds it."""
        return {"schema": STATE_SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> State:
        """Read what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError: the data isn't a state.
        """
        known = {key: value for key, value in data.items() if key != "schema"}
        if known.get("launch") is not None:
            launch = dict(known["launch"])
            links = launch.pop("taps", ())
            known["launch"] = Launch(**launch, taps=tuple(TapLink(**link) for link in links))
        known["provisioned"] = tuple(known["provisioned"])
        state = cls(**known)
        if not _ID.fullmatch(state.id) or not isinstance(state.uuid, str):
            raise TypeError("not an identity")
        return state
