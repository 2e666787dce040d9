"""The inventory: the machines that are up, their groups and variables. JSON, which is YAML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Inventory = dict[str, Any]


def make_inventory(
    peers: Mapping[str, Path],
    groups: Mapping[str, list[str]],
    host_vars: Mapping[str, Mapping[str, Any]],
) -> tuple[Inventory, list[str]]:
    """Make the inventory.

    Args:
        peers: the machines that are up, with configuration for ssh of each.
        groups: the machines of each group.
        host_vars: variables by machine.

    Returns:
        The inventory as Ansible's plugin ``yaml`` reads it, and the names of machines in groups
        that are left out, as they aren't up.
    """
    hosts = {
        name: {**connection_of(config), **host_vars.get(name, {})} for name, config in peers.items()
    }
    children: dict[str, Any] = {
        group: {"hosts": {name: None for name in members if name in peers}}
        for group, members in groups.items()
    }
    absent = {name for members in groups.values() for name in members if name not in peers}
    return {"all": {"hosts": hosts, "children": children}}, sorted(absent)


def connection_of(config: Path) -> dict[str, Any]:
    """The variables by which Ansible reaches a machine.

    ``ansible_host`` is left out: in the configuration the host is called as the machine is. With
    ``ansible_ssh_args`` Ansible leaves the sharing of connections to it, too.
    """
    variables: dict[str, Any] = {
        "ansible_connection": "ssh",
        "ansible_ssh_args": f"-F {shlex.quote(str(config))}",
        "ansible_host_key_checking": True,
        "ansible_pipelining": True,
        "ansible_python_interpreter": "auto_silent",
    }
    said = read_config(config)
    if user := said.get("user"):
        variables["ansible_user"] = user
    if port := said.get("port"):
        variables["ansible_port"] = int(port)
    return variables


def read_config(config: Path) -> dict[str, str]:
    """The options of a configuration that qup wrote: one a line (``ssh_config(5)``)."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[0].lower(): pair[1].strip('"') for pair in pairs if len(pair) == 2}
