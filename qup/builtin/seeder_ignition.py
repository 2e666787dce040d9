"""The guest seeder ``ignition``: what Fedora CoreOS and Flatcar read at their first boot.

Ignition takes its configuration from the item ``opt/com.coreos/config`` of QEMU's fw_cfg
("Supported platforms" in its documentation). The form is that of its specification 3.0.0, which
every Ignition since 2.0 reads. A configuration of the user's is merged over it by Ignition itself.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from qup.api import GuestSeeder, NicSeed, Problem, Seed, SeedForm, SeedPlan, hookimpl

ITEM = "opt/com.coreos/config"
VERSION = "3.0.0"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
SUDOERS = "/etc/sudoers.d/qup"
CONNECTIONS = "/etc/NetworkManager/system-connections"
NETWORKS = "/etc/systemd/network"


class Ignition:
    """Ignition's configuration as an item of QEMU's fw_cfg."""

    name = "ignition"
    summary = "Ignition by QEMU's fw_cfg, for Fedora CoreOS and Flatcar"
    once = True

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:
        reason = _find_fault(seed.user_data) if seed.user_data is not None else None
        if reason is None:
            return []
        return [
            Problem(
                f"the user data is not an Ignition configuration: {reason}",
                "it has to be JSON of Ignition's specification 3, as Butane writes it",
            )
        ]

    def form(self, seed: SeedPlan) -> SeedForm:  # noqa: ARG002  it is always the same
        return SeedForm(fw_cfg=(ITEM,))

    def files(self, seed: Seed) -> Mapping[str, str]:
        return {ITEM: json.dumps(build_config(seed), indent=2) + "\n"}

    def payload(self, seed: Seed) -> bytes:  # noqa: ARG002  there is none
        return b""


def build_config(seed: Seed) -> dict[str, Any]:
    """The configuration. It holds the private host key."""
    plan = seed.plan
    files = [
        _file("/etc/hostname", 0o644, f"{plan.hostname}\n"),
        _file(HOST_KEY, 0o600, seed.host_key.private),
        _file(f"{HOST_KEY}.pub", 0o644, f"{seed.host_key.public.strip()}\n"),
    ]
    if plan.user != "root":
        files.append(_file(SUDOERS, 0o440, f"{plan.user} ALL=(ALL) NOPASSWD:ALL\n"))
    for index, nic in enumerate(plan.nics):
        files += _network_files(f"qup-{index}", nic)
    ignition: dict[str, Any] = {"version": VERSION}
    if plan.user_data is not None:
        ignition["config"] = {"merge": [{"source": _data(plan.user_data)}]}
    return {
        "ignition": ignition,
        "passwd": {"users": [{"name": plan.user, "sshAuthorizedKeys": [seed.user_key.strip()]}]},
        "storage": {"files": files},
    }


def _file(path: str, mode: int, text: str) -> dict[str, Any]:
    return {"path": path, "mode": mode, "overwrite": True, "contents": {"source": _data(text)}}


def _data(text: str) -> str:
    """A URL that is its own content (RFC 2397)."""
    return "data:;base64," + base64.b64encode(text.encode()).decode()


def _network_files(name: str, nic: NicSeed) -> Iterator[dict[str, Any]]:
    """Fixed addresses, for NetworkManager and for networkd: which of them there is is unknown."""
    address = nic.address
    if address.dhcp and not address.nameservers:
        return
    yield _file(f"{CONNECTIONS}/{name}.nmconnection", 0o600, _connection(name, nic))
    lines = ["[Match]", f"MACAddress={nic.mac}", "", "[Network]"]
    lines += ["DHCP=ipv4"] if address.dhcp else []
    lines += [f"Address={text}" for text in address.addresses]
    lines += [f"Gateway={address.gateway}"] if address.gateway is not None else []
    lines += [f"DNS={server}" for server in address.nameservers]
    yield _file(f"{NETWORKS}/10-{name}.network", 0o644, "\n".join(lines) + "\n")


def _connection(name: str, nic: NicSeed) -> str:
    """A profile as in nm-settings-keyfile(5)."""
    address = nic.address
    lines = ["[connection]", f"id={name}", "type=ethernet", "", "[ethernet]"]
    lines += [f"mac-address={nic.mac}"]
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        own = [it for it in address.addresses if ipaddress.ip_interface(it).version == version]
        dhcp = address.dhcp and version == 4
        method = "manual" if own else "auto" if dhcp else "disabled"
        lines += ["", f"[{section}]", f"method={method}"]
        for number, text in enumerate(own, 1):
            gateway = address.gateway if number == 1 and _is(address.gateway, version) else None
            lines.append(f"address{number}={text}{f',{gateway}' if gateway else ''}")
        servers = [server for server in address.nameservers if _is(server, version)]
        lines += [f"dns={';'.join(servers)};"] if servers and method != "disabled" else []
    return "\n".join(lines) + "\n"


def _is(address: str | None, version: int) -> bool:
    return address is not None and ipaddress.ip_address(address).version == version


def _find_fault(text: str) -> str | None:
    """Why a text is no configuration for Ignition 3, or None."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        return f"it is not JSON ({exc})"
    version = data.get("ignition", {}) if isinstance(data, dict) else None
    version = version.get("version") if isinstance(version, dict) else None
    if not isinstance(version, str):
        return "it has no 'ignition.version'"
    return None if version.startswith("3.") else f"its version is {version}"


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [Ignition()]
