"""Kinds of guests on ISOs whose way to learn a key is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from qup.api import BoxSpec


@dataclass(frozen=True)
class Family:
    """Guests that are alike.

    Attributes:
        name: what the family is called.
        label: how the volume label of its ISOs begins; a group ``version`` in it is the version.
        user: the account that gets the key.
        seeder: the guest seeder that it reads.
        disk_first: whether it looks for its disk in the first drive only.
        releases: the API that names its newest release.
        mirror: the variable that names another.
        asset: the ISO's name there.
    """

    name: str
    label: re.Pattern[str]
    user: str
    seeder: str
    disk_first: bool
    releases: str
    mirror: str
    asset: str

    def version(self, label: str) -> str:
        """What an ISO's label says about its version; empty if nothing."""
        match = self.label.match(label)
        return (match.groupdict().get("version") or "") if match else ""

    def describe(self, spec: BoxSpec, label: str) -> BoxSpec:
        """A box of this family."""
        return replace(
            spec,
            user=self.user,
            seeder=self.seeder,
            disk_first=self.disk_first,
            version=self.version(label) or spec.version,
        )


FAMILIES = (
    Family(
        name="boot2docker",
        # "Boot2Docker-v1.9.1" and later "b2d-v19.03.12"
        label=re.compile(r"(?:b2d|boot2docker)(?:-(?P<version>v\S+))?", re.IGNORECASE),
        user="docker",
        seeder="format-me",
        disk_first=False,
        releases="https://api.github.com/repos/boot2docker/boot2docker/releases/latest",
        mirror="QUP_BOOT2DOCKER_RELEASES",
        asset="boot2docker.iso",
    ),
    Family(
        name="rancheros",
        label=re.compile(r"rancher[ _-]?os(?:[ _-](?P<version>v\S+))?", re.IGNORECASE),
        user="rancher",
        seeder="rancheros",
        # It looks at /dev/sda and /dev/vda (scripts/auto-format.sh in rancher/os).
        disk_first=True,
        releases="https://api.github.com/repos/rancher/os/releases/latest",
        mirror="QUP_RANCHEROS_RELEASES",
        asset="rancheros.iso",
    ),
)


def find_family(label: str) -> Family | None:
    """The family of an ISO by its volume's label."""
    return next((family for family in FAMILIES if family.label.match(label)), None)
