"""The guest seeder ``nocloud``: a CD with the label CIDATA that cloud-init and box tiny read.

Format: cloud-init's documentation, "NoCloud". The user-data is YAML in a form that any JSON
string quoting is valid in, so that no YAML library is needed to write it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from qup.api import (
    ConfigError,
    GuestSeeder,
    KeyPair,
    Problem,
    Seed,
    SeedForm,
    SeedPlan,
    hookimpl,
)
from qup.builtin.network_config import render_network_config

LABEL = "CIDATA"
SCRIPT_PATH = "/var/lib/qup/user-data"
OWN_KEYS = ("hostname", "users", "ssh_keys", "ssh_deletekeys", "ssh_pwauth", "preserve_hostname")
"""Top-level keys of the cloud-config that qup writes itself."""

UPDATES = "updates:\n  network:\n    when: [boot-new-instance, boot]\n"
"""Has cloud-init look at the network at each boot: a card may come to a machine that exists."""

_TOP_LEVEL_KEY = re.compile(r"^([A-Za-z_][\w-]*)\s*:", re.MULTILINE)


class NoCloud:
    """cloud-init's NoCloud data source."""

    name = "nocloud"
    summary = "a CD that cloud-init reads, in every distribution's cloud image"

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:
        try:
            check_user_data(seed.user_data or "#!")
        except ConfigError as exc:
            return [Problem(exc.message, exc.hint)]
        return []

    def form(self, seed: SeedPlan) -> SeedForm:  # noqa: ARG002  it is always the same
        return SeedForm(label=LABEL)

    def files(self, seed: Seed) -> Mapping[str, str]:
        """The seed's files by name. They hold the private host key."""
        network = render_network_config(seed.plan.nics)
        files = {
            "meta-data": _meta_data(seed.plan),
            "user-data": _user_data(
                seed.plan, seed.user_key, seed.host_key, UPDATES if network else ""
            ),
        }
        return files if network is None else {**files, "network-config": network}

    def payload(self, seed: Seed) -> bytes:  # noqa: ARG002  there is none
        return b""


def _meta_data(seed: SeedPlan) -> str:
    return f"instance-id: {json.dumps(seed.instance_id)}\nlocal-hostname: {seed.hostname}\n"


def _user_data(seed: SeedPlan, user_key: str, host_key: KeyPair, more: str) -> str:
    lines = [
        "#cloud-config",
        f"hostname: {seed.hostname}",
        "ssh_pwauth: false",
        "ssh_deletekeys: true",
        "ssh_keys:",
        f"  ed25519_private: {json.dumps(host_key.private)}",
        f"  ed25519_public: {json.dumps(host_key.public)}",
        "users:",
        f"  - name: {seed.user}",
        "    lock_passwd: true",
        '    sudo: "ALL=(ALL) NOPASSWD:ALL"',
        "    shell: /bin/sh",
        "    ssh_authorized_keys:",
        f"      - {json.dumps(user_key)}",
    ]
    text = "\n".join(lines) + "\n" + more
    return text + _own_user_data(seed.user_data) if seed.user_data else text


def _own_user_data(user_data: str) -> str:
    """What the user wants at the first boot, in a form that can follow qup's own part."""
    if user_data.startswith("#!"):
        return (
            "write_files:\n"
            f"  - path: {SCRIPT_PATH}\n"
            '    permissions: "0700"\n'
            f"    content: {json.dumps(user_data)}\n"
            f"runcmd:\n  - [{json.dumps(SCRIPT_PATH)}]\n"
        )
    check_user_data(user_data)
    return user_data.partition("\n")[2]


def check_user_data(user_data: str) -> None:
    """Refuse user data that no guest would take.

    Raises:
        ConfigError: it is neither a script nor a cloud-config, or sets what qup sets.
    """
    if user_data.startswith("#!"):
        return
    if not user_data.startswith("#cloud-config"):
        raise ConfigError(
            "user-data is neither a script nor a cloud-config",
            hint="its first line must begin with '#!' or be '#cloud-config'",
        )
    clashes = [key for key in _TOP_LEVEL_KEY.findall(user_data) if key in OWN_KEYS]
    if clashes:
        raise ConfigError(
            f"user-data sets {', '.join(clashes)}, which qup sets itself",
            hint="use the Qupfile's hostname and ssh.user instead",
        )


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [NoCloud()]
