"""The guest seeders ``config-2`` and ``config-2-9p``: OpenStack's configuration drive.

The files and their keys are those of Nova's metadata, "Config drives" and "Metadata service"
in its documentation. RancherOS looks for a CD or file system with the label first, then for the
9p share (``config/cloudinit/datasource/configdrive`` in rancher/os); cloud-init for the label
alone.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qup.api import GuestSeeder, NicSeed, Problem, Seed, SeedForm, SeedPlan, hookimpl

LABEL = "config-2"
FOLDER = "openstack/latest"


def build_files(seed: Seed) -> dict[str, str]:
    """The drive's files by path. The user data is handed on as it is."""
    plan = seed.plan
    meta_data = {
        "uuid": plan.instance_id,
        "name": plan.hostname,
        "hostname": plan.hostname,
        "public_keys": {"qup": seed.user_key},
    }
    files = {f"{FOLDER}/meta_data.json": json.dumps(meta_data, indent=2) + "\n"}
    if plan.user_data is not None:
        files[f"{FOLDER}/user_data"] = plan.user_data
    if any(not nic.address.dhcp for nic in plan.nics):
        files[f"{FOLDER}/network_data.json"] = json.dumps(_network_data(plan.nics), indent=2) + "\n"
    return files


def _network_data(nics: Sequence[NicSeed]) -> dict[str, Any]:
    links: list[dict[str, str]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, str]] = []
    for index, nic in enumerate(nics):
        link = f"nic{index}"
        links.append({"id": link, "type": "phy", "ethernet_mac_address": nic.mac})
        if nic.address.dhcp:
            networks.append({"id": f"{link}-dhcp", "link": link, "type": "ipv4_dhcp"})
        for number, text in enumerate(nic.address.addresses):
            fixed = ipaddress.ip_interface(text)
            routes = []
            if nic.address.gateway is not None:
                zero = "0.0.0.0" if fixed.version == 4 else "::"  # noqa: S104  a default route
                routes = [{"network": zero, "netmask": zero, "gateway": nic.address.gateway}]
            networks.append(
                {
                    "id": f"{link}-{number}",
                    "link": link,
                    "type": f"ipv{fixed.version}",
                    "ip_address": str(fixed.ip),
                    "netmask": str(fixed.netmask),
                    "routes": routes,
                }
            )
        services += [{"type": "dns", "address": server} for server in nic.address.nameservers]
    return {"links": links, "networks": networks, "services": services}


class ConfigDrive:
    """The drive as a CD, or as a share."""

    def __init__(self, name: str, summary: str, form: SeedForm) -> None:
        self.name = name
        self.summary = summary
        self._form = form

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:  # noqa: ARG002  all can be told
        return []

    def form(self, seed: SeedPlan) -> SeedForm:  # noqa: ARG002  it is always the same
        return self._form

    def files(self, seed: Seed) -> Mapping[str, str]:
        return build_files(seed)

    def payload(self, seed: Seed) -> bytes:  # noqa: ARG002  there is none
        return b""


CD = ConfigDrive(
    "config-2",
    "OpenStack's configuration drive, as a CD",
    SeedForm(label=LABEL, host_key=False),
)
SHARE = ConfigDrive(
    "config-2-9p",
    "OpenStack's configuration drive, as a 9p share, for guests whose kernel has 9p",
    SeedForm(share=LABEL, host_key=False),
)


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [CD, SHARE]
