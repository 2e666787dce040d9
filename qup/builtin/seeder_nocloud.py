"""The guest seeder ``nocloud``: a CD with the label CIDATA that cloud-init and box tiny read.

Format: cloud-init's documentation, "NoCloud". The user-data is YAML in a form that any JSON
string quoting is valid in, so that no YAML library is needed to write it. The user's own part is
read by one before it is joined: what is wrong in it would take qup's part along, and with it the
key that lets qup in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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

JINJA = "## template: jinja"
"""The first line of user data that cloud-init makes from a template ("Jinja templates" in its
documentation)."""
HEAD = "#cloud-config"

_NOT_JOINABLE = re.compile(r"^(---|\.\.\.|%|\?|\{|\[)", re.MULTILINE)
"""How lines begin that can't follow a block of keys: documents, directives, flow mappings."""
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
    own = seed.user_data.replace("\r\n", "\n") if seed.user_data else ""
    if own.startswith(JINJA):
        check_user_data(own)
        return f"{JINJA}\n{text}{own.partition(HEAD)[2].partition(chr(10))[2]}"
    return text + _own_user_data(own) if own else text


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
    table = check_user_data(user_data)
    body = user_data.partition("\n")[2]
    if not _NOT_JOINABLE.search(body):
        return body
    return "".join(f"{key}: {json.dumps(value, default=str)}\n" for key, value in table.items())


def check_user_data(user_data: str) -> Mapping[str, Any]:
    """Refuse user data that no guest would take.

    Returns:
        The keys of a cloud-config; nothing for a script, or for a template.

    Raises:
        ConfigError: it is neither a script nor a cloud-config, no YAML, or sets what qup sets.
    """
    if user_data.startswith("#!"):
        return {}
    if user_data.startswith(JINJA):
        # What it is will be known when cloud-init has filled it in.
        head, _, body = user_data.partition("\n")[2].partition("\n")
        if not head.startswith(HEAD):
            raise _neither()
        _refuse_clashes(_TOP_LEVEL_KEY.findall(body))
        return {}
    if not user_data.startswith(HEAD):
        raise _neither()
    table = _read_yaml(user_data)
    _refuse_clashes(table)
    return table


def _neither() -> ConfigError:
    return ConfigError(
        "user-data is neither a script nor a cloud-config",
        hint="its first line must begin with '#!' or be '#cloud-config'",
    )


def _refuse_clashes(keys: Iterable[str]) -> None:
    if clashes := [key for key in keys if key in OWN_KEYS]:
        raise ConfigError(
            f"user-data sets {', '.join(clashes)}, which qup sets itself",
            hint="use the Qupfile's hostname and ssh.user instead",
        )


def _read_yaml(text: str) -> Mapping[str, Any]:
    """The table that a cloud-config is.

    Raises:
        ConfigError: it is no YAML, or no table.
    """
    import yaml  # 30 ms that only a cloud-config needs

    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        raise ConfigError(
            f"user-data is not valid YAML{where}: {reason}",
            hint="[machine.cloud-init] takes the same as a table of the Qupfile",
        ) from exc
    except (ValueError, RecursionError) as exc:  # a date that is none; braces without end
        raise ConfigError(f"user-data is not valid YAML: {exc}") from exc
    if table is None:
        return {}
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        kind = "list" if isinstance(table, list) else "text"
        found = "has keys that are no text" if isinstance(table, dict) else f"is a {kind}"
        raise ConfigError(
            f"user-data {found}, and a cloud-config is a table of keys",
            hint="such as 'packages: [nginx]'",
        )
    return table


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [NoCloud()]
