"""Guests with systemd: Debian and its kind, and any other whose engine is ``docker.service``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from qup.api import ProvisionError
from qup_docker.guests import UNITS, Facts, File

TLS = "/etc/docker/tls"
CA, CERTIFICATE, KEY = (f"{TLS}/{name}.pem" for name in ("ca", "server", "server-key"))
DAEMON = "/etc/docker/daemon.json"
KEYS = "/etc/docker/qup.json"
"""Which keys of ``daemon.json`` are qup's, so that one that leaves the Qupfile leaves the file."""
NAME = "docker.service"
UNIT = f"/etc/systemd/system/{NAME}.d/qup.conf"
PATHS = (CA, CERTIFICATE, KEY, DAEMON, KEYS, UNIT)

PACKAGES = ("docker.io", "apparmor")
"""Debian's engine, and what it needs where the kernel has AppArmor: without ``apparmor_parser`` no
container starts there."""
CLIENT_PACKAGE = "docker-cli"
"""Since Debian 13 the engine comes without the client, through which ``docker -H ssh://`` goes."""

PATIENCE = 600
"""Seconds that apt waits for another one: a guest may bring itself up to date when it boots."""

HOLD = f"/run/systemd/system/{NAME}.d/qup-hold.conf"
"""A drop-in whose condition is never met: the unit is enabled, and not started."""

LISTEN = "-H tcp://0.0.0.0:2376 --tlsverify"


class Systemd:
    """The engine is told by ``daemon.json``, and where it listens by a drop-in of its unit."""

    def files(
        self, facts: Facts, options: Any, ca: str, certificate: str, key: str
    ) -> Mapping[str, File]:
        found = {
            CA: File(ca),
            CERTIFICATE: File(certificate),
            KEY: File(key, "600"),
            UNIT: File(write_unit(facts, options.env)),
        }
        keys = write_keys(options)
        old = facts.texts.get(KEYS, "")
        if keys or old:
            found[DAEMON] = File(merge_daemon(facts.texts.get(DAEMON, ""), old, keys))
            found[KEYS] = File(json.dumps(sorted(keys)) + "\n")
        return found

    def settle(self) -> str:
        return ""

    def restart(self, changed: Sequence[str]) -> str:
        lines = ["set -eu"]
        if UNIT in changed:
            lines += [f"rm -f {HOLD}", "systemctl daemon-reload"]
        # A new CA is a new machine. The engine's id is told to others, and one that a template or
        # another machine's disk has brought would be two engines'.
        if CA in changed:
            lines.append("rm -f /etc/docker/key.json /var/lib/docker/engine-id")
        lines += [
            "systemctl --quiet enable docker.service",
            "systemctl reset-failed docker.service 2>/dev/null || true",
            # It ends when the engine says that it is ready.
            "systemctl restart docker.service",
        ]
        return "\n".join(lines) + "\n"

    def start(self) -> str:
        return "systemctl start docker.service\n"

    def complain(self) -> str:
        return "journalctl --unit docker.service --lines 40 --no-pager --output cat\n"


def write_unit(facts: Facts, env: Mapping[str, str]) -> str:
    """The drop-in: what the distribution starts, and the port beside it."""
    lines = ["# Written by qup's step 'docker', at each 'qup up'.", "[Service]"]
    for name, value in env.items():
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append(f'Environment="{name}={quoted}"')
    command = find_command(facts.texts)
    daemon = facts.texts.get(DAEMON, "")
    if not re.search(r"(^|\s)(-H|--host)\b", command) and '"hosts"' not in daemon:
        command += " -H unix:///var/run/docker.sock"
    tls = f"--tlscacert={CA} --tlscert={CERTIFICATE} --tlskey={KEY}"
    lines += ["ExecStart=", f"ExecStart={command} {LISTEN} {tls}"]
    return "\n".join(lines) + "\n"


def find_command(texts: Mapping[str, str]) -> str:
    """What starts the engine, by the unit and its drop-ins, without ours.

    Raises:
        ProvisionError: there is no unit.
    """
    unit = next((f"{place}/{NAME}" for place in UNITS if f"{place}/{NAME}" in texts), "")
    drop_ins: dict[str, str] = {}
    for place in UNITS:
        for path in texts:
            folder, _, name = path.rpartition("/")
            if folder == f"{place}/{NAME}.d" and path != UNIT:
                drop_ins.setdefault(name, path)
    command = ""
    for path in (unit, *(drop_ins[name] for name in sorted(drop_ins))):
        # A line that ends with a backslash goes on (systemd.syntax(7)).
        for line in re.sub(r"\\\n\s*", " ", texts.get(path, "")).splitlines():
            if line.startswith("ExecStart="):
                command = line.removeprefix("ExecStart=").strip() or command
    if not command:
        raise ProvisionError(
            "the guest has an engine, but no docker.service that starts it",
            hint="the step goes with engines of the distribution's packages or of docker-ce",
        )
    return command


def write_keys(options: Any) -> dict[str, Any]:
    """What the options are in ``daemon.json``."""
    keys: dict[str, Any] = dict(options.options)
    if options.labels:
        keys["labels"] = [f"{name}={value}" for name, value in options.labels.items()]
    if options.registry_mirrors:
        keys["registry-mirrors"] = list(options.registry_mirrors)
    if options.insecure_registries:
        keys["insecure-registries"] = list(options.insecure_registries)
    if options.storage_driver:
        keys["storage-driver"] = options.storage_driver
    return keys


def merge_daemon(daemon: str, old: str, keys: Mapping[str, Any]) -> str:
    """The guest's ``daemon.json`` with our keys, and without those that were ours before.

    Raises:
        ProvisionError: it isn't JSON.
    """
    try:
        found = json.loads(daemon) if daemon.strip() else {}
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except ValueError as exc:
        raise ProvisionError(f"the guest's {DAEMON} is damaged: {exc}") from exc
    try:
        gone = set(json.loads(old)) if old.strip() else set()
    except (ValueError, TypeError):
        gone = set()
    kept = {name: value for name, value in found.items() if name not in gone}
    return json.dumps({**kept, **keys}, indent=2, sort_keys=True) + "\n"


def write_installation(facts: Facts) -> str | None:
    """A script that installs an engine; None where we know of no way.

    The engine is not started by its package: it would be started twice, the first time for
    nobody. What is in /run is gone after a boot, whatever becomes of this script.

    Recommended packages are left out: the engine's are tools for building that few use in a guest.
    """
    if not facts.get("apt"):
        return None
    return f"""set -e
export DEBIAN_FRONTEND=noninteractive
let_go() {{
    rm -f {HOLD}
    systemctl daemon-reload
}}
trap let_go EXIT
trap 'exit 1' HUP INT TERM
mkdir -p {HOLD.rpartition("/")[0]}
printf '[Unit]\\nConditionPathExists=!/\\n' >{HOLD}
systemctl daemon-reload
dpkg --configure -a
apt-get -q update
client=
! apt-cache show {CLIENT_PACKAGE} >/dev/null 2>&1 || client={CLIENT_PACKAGE}
apt-get -q install --yes --no-install-recommends -o DPkg::Lock::Timeout={PATIENCE} \\
    {shlex.join(PACKAGES)} $client
"""
