"""``[machine.cloud-init]``: a cloud-config as a table of the Qupfile."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

HEAD = "#cloud-config"
KEY = re.compile(r"[a-z_][a-z0-9_-]*")

OWN_KEYS = ("hostname", "users", "ssh_keys", "ssh_deletekeys", "ssh_pwauth", "preserve_hostname")
"""Top-level keys that qup writes itself."""

KNOWN_KEYS = frozenset(
    [
        "allow_public_ssh_keys",
        "ansible",
        "apk_repos",
        "apt",
        "apt_pipelining",
        "authkey_hash",
        "bootcmd",
        "byobu_by_default",
        "ca_certs",
        "chef",
        "chpasswd",
        "cloud_config_modules",
        "cloud_final_modules",
        "cloud_init_modules",
        "create_hostname_file",
        "debug",
        "device_aliases",
        "disable_ec2_metadata",
        "disable_root",
        "disk_setup",
        "drivers",
        "fan",
        "final_message",
        "fqdn",
        "fs_setup",
        "groups",
        "growpart",
        "grub_dpkg",
        "hostname",
        "keyboard",
        "landscape",
        "locale",
        "locale_configfile",
        "lxd",
        "manage_etc_hosts",
        "manage_resolv_conf",
        "mcollective",
        "merge_how",
        "merge_type",
        "migrate",
        "mount_default_fields",
        "mounts",
        "no_ssh_fingerprints",
        "ntp",
        "output",
        "package_reboot_if_required",
        "package_update",
        "package_upgrade",
        "packages",
        "password",
        "phone_home",
        "power_state",
        "prefer_fqdn_over_hostname",
        "preserve_hostname",
        "puppet",
        "random_seed",
        "reporting",
        "resize_rootfs",
        "resolv_conf",
        "rh_subscription",
        "rsyslog",
        "runcmd",
        "salt_minion",
        "snap",
        "spacewalk",
        "ssh",
        "ssh_authorized_keys",
        "ssh_deletekeys",
        "ssh_fp_console_blacklist",
        "ssh_genkeytypes",
        "ssh_import_id",
        "ssh_key_console_blacklist",
        "ssh_keys",
        "ssh_publish_hostkeys",
        "ssh_pwauth",
        "ssh_quiet_keygen",
        "swap",
        "system_info",
        "timezone",
        "ubuntu_advantage",
        "ubuntu_pro",
        "updates",
        "user",
        "users",
        "vendor_data",
        "version",
        "wireguard",
        "write_files",
        "yum_repo_dir",
        "yum_repos",
        "zypper",
    ]
)
"""cloud-init's own top-level keys (its documentation, "Module reference"; 25.1). Modules of others
have keys of theirs, so an unknown one is only refused if it looks like a slip."""


def check_cloud_config(table: Mapping[str, Any]) -> None:
    """Refuse a table that no cloud-init would take.

    Raises:
        ValueError: a key is misspelt or qup's own, or a value has no form in YAML.
    """
    for key in table:
        if key in OWN_KEYS:
            raise ValueError(f"'{key}' is what qup sets itself: use 'hostname' and 'ssh.user'")
        if not KEY.fullmatch(key):
            raise ValueError(f"'{key}' is not a key of a cloud-config, such as 'write_files'")
        if key not in KNOWN_KEYS:
            close = difflib.get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.8)
            if close:
                raise ValueError(f"cloud-init has no '{key}'; did you mean '{close[0]}'?")
    for key, value in table.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise ValueError(
                f"'{key}' has a date or a number that YAML doesn't have; quote it"
            ) from exc


def write_cloud_config(table: Mapping[str, Any]) -> str:
    """The table as user data: JSON is YAML."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
    return "\n".join([HEAD, *lines]) + "\n"


def add_script(table: Mapping[str, Any], script: str, path: str) -> dict[str, Any]:
    """The table with a script that runs behind its own commands.

    Args:
        table: a cloud-config.
        script: it begins with ``#!``.
        path: where the guest keeps it.
    """
    file = {"path": path, "permissions": "0700", "content": script.replace("\r\n", "\n")}
    return {
        **table,
        "write_files": [*table.get("write_files", ()), file],
        "runcmd": [*table.get("runcmd", ()), [path]],
    }
