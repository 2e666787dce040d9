"""The NoCloud seed: an ISO with the label CIDATA that cloud-init and box tiny read.

Format: cloud-init's documentation, "NoCloud". The user-data is YAML in a form that any JSON
string quoting is valid in, so that no YAML library is needed to write it.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from qup.errors import ConfigError
from qup.files import write_atomic
from qup.guest.keys import KeyPair
from qup.model.plan import SeedPlan

LABEL = "CIDATA"
SCRIPT_PATH = "/var/lib/qup/user-data"
OWN_KEYS = ("hostname", "users", "ssh_keys", "ssh_deletekeys", "ssh_pwauth", "preserve_hostname")
"""Top-level keys of the cloud-config that qup writes itself."""

_TOP_LEVEL_KEY = re.compile(r"^([A-Za-z_][\w-]*)\s*:", re.MULTILINE)


def build_files(seed: SeedPlan, user_key: KeyPair, host_key: KeyPair) -> dict[str, str]:
    """The seed's files by name. Contains the private host key: keep it 0600."""
    return {
        "meta-data": _meta_data(seed),
        "user-data": _user_data(seed, user_key, host_key),
    }


def _meta_data(seed: SeedPlan) -> str:
    return f"instance-id: {json.dumps(seed.instance_id)}\nlocal-hostname: {seed.hostname}\n"


def _user_data(seed: SeedPlan, user_key: KeyPair, host_key: KeyPair) -> str:
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
        f"      - {json.dumps(user_key.public)}",
    ]
    text = "\n".join(lines) + "\n"
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


def write_iso(path: Path, files: dict[str, str]) -> None:
    """Write an ISO 9660 image with Joliet and Rock Ridge names, readable by its owner only.

    Raises:
        HostError: it can't be written.
    """
    import pycdlib  # 35 ms that only a first start needs

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, text) in enumerate(sorted(files.items())):
        payload = text.encode()
        iso.add_fp(
            io.BytesIO(payload),
            len(payload),
            f"/SEED{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    write_atomic(path, image.getvalue(), durable=False)
