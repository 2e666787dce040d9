"""Guests that docker-machine had: boot2docker and RancherOS, which bring an engine.

They keep nothing but what is on their data partition, so the files are where docker-machine put
them: boot2docker's ``/etc/init.d/docker`` reads ``/var/lib/boot2docker/profile`` at each start
(files/init.d/docker of boot2docker 19.03), RancherOS reads ``/var/lib/rancher/conf/docker``
(libmachine/provision/rancheros.go of docker-machine).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qup.api import ProvisionError
from qup_docker.guests import Facts, File

# 30 s were docker-machine's patience, on computers that don't emulate.
_WAIT = """
tries=0 absent=0
until DOCKER_HOST= docker version >/dev/null 2>&1; do
    [ $((tries += 1)) -le 600 ] || exit 1
    sleep 0.5
ALIVE
done
"""
# An engine that doesn't like a flag is gone at once. A shell needs a moment to become one.
_ALIVE = """\
    if grep -qsx dockerd /proc/[0-9]*/comm; then absent=0; fi
    [ $((absent += 1)) -le 20 ] || exit 1
"""
# At its first boot it makes keys of its own, which takes a minute in emulation, and would write
# them over ours.
_SETTLE = """
tries=0
while cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q 'init\\.d/docker start'; do
    [ $((tries += 1)) -le 1200 ] || exit 1
    sleep 0.5
done
"""


class Boot2Docker:
    """The engine is told by a profile of shell variables."""

    ROOT = "/var/lib/boot2docker"
    TLS = f"{ROOT}/tls"
    CA, CERTIFICATE, KEY = f"{TLS}/ca.pem", f"{TLS}/server.pem", f"{TLS}/serverkey.pem"
    """The places that boot2docker itself would use (``CERTDIR``)."""
    PROFILE = f"{ROOT}/profile"
    PATHS = (CA, CERTIFICATE, KEY, PROFILE)
    WAIT = _WAIT.replace("ALIVE", _ALIVE)

    def files(
        self,
        facts: Facts,  # noqa: ARG002  they are all alike
        options: Any,
        ca: str,
        certificate: str,
        key: str,
    ) -> Mapping[str, File]:
        return {
            self.CA: File(ca),
            self.CERTIFICATE: File(certificate),
            self.KEY: File(key, "600"),
            self.PROFILE: File(self._write_profile(options)),
        }

    def _write_profile(self, options: Any) -> str:
        flags = "\n".join(write_flags(options))
        lines = [
            "# Written by qup's step 'docker', at each 'qup up'.",
            f"EXTRA_ARGS='\n{flags}\n'",
            f"CACERT={self.CA}",
            "DOCKER_HOST='-H tcp://0.0.0.0:2376'",
            f"DOCKER_STORAGE={options.storage_driver or 'auto'}",
            "DOCKER_TLS=auto",
            f"SERVERKEY={self.KEY}",
            f"SERVERCERT={self.CERTIFICATE}",
            *write_exports(options.env),
        ]
        return "\n".join(lines) + "\n"

    def settle(self) -> str:
        return _SETTLE

    def restart(self, changed: Sequence[str]) -> str:  # noqa: ARG002
        # It makes a CA's key of its own where there is none, which nobody would use: an empty file
        # keeps it from that. Versions before 18.09 have their PATH from the profile of root.
        return f"""
[ -e {self.TLS}/cakey.pem ] || (umask 077; : >{self.TLS}/cakey.pem)
for file in client.pem clientkey.pem; do
    [ -e {self.TLS}/$file ] || (umask 077; : >{self.TLS}/$file)
done
/etc/init.d/docker stop
/etc/init.d/docker start
{self.WAIT}"""

    def start(self) -> str:
        begin = "/etc/init.d/docker status >/dev/null 2>&1 || /etc/init.d/docker start"
        return f"{begin}\n{self.WAIT}"

    def complain(self) -> str:
        return "tail -n 40 /var/lib/boot2docker/log/docker.log /var/log/docker.log 2>/dev/null\n"


class RancherOs:
    """The engine is a container of the system's, which reads a file of variables."""

    ROOT = "/var/lib/rancher/conf"
    CA, CERTIFICATE, KEY = f"{ROOT}/ca.pem", f"{ROOT}/server.pem", f"{ROOT}/server-key.pem"
    CONFIG = f"{ROOT}/docker"
    PATHS = (CA, CERTIFICATE, KEY, CONFIG)
    WAIT = _WAIT.replace("ALIVE", "")

    def files(
        self,
        facts: Facts,  # noqa: ARG002  they are all alike
        options: Any,
        ca: str,
        certificate: str,
        key: str,
    ) -> Mapping[str, File]:
        if options.storage_driver not in (None, "overlay", "overlay2"):
            raise ProvisionError(
                f"RancherOS's engine can't use the storage driver {options.storage_driver}",
                hint='leave storage-driver out, or write "overlay"',
            )
        flags = [
            "-H tcp://0.0.0.0:2376",
            "-H unix:///var/run/docker.sock",
            f"--storage-driver {options.storage_driver or 'overlay'}",
            "--tlsverify",
            f"--tlscacert {self.CA}",
            f"--tlscert {self.CERTIFICATE}",
            f"--tlskey {self.KEY}",
            *write_flags(options),
        ]
        lines = [f"DOCKER_OPTS='\n{chr(10).join(flags)}\n'", *write_exports(options.env)]
        return {
            self.CA: File(ca),
            self.CERTIFICATE: File(certificate),
            self.KEY: File(key, "600"),
            self.CONFIG: File("\n".join(lines) + "\n"),
        }

    def settle(self) -> str:
        return ""

    def restart(self, changed: Sequence[str]) -> str:  # noqa: ARG002
        return f"system-docker restart docker\n{self.WAIT}"

    def start(self) -> str:
        return f"system-docker start docker >/dev/null\n{self.WAIT}"

    def complain(self) -> str:
        return "system-docker logs --tail 40 docker 2>&1\n"


def write_flags(options: Any) -> Iterator[str]:
    """The options as the engine's flags, one a line; the guest's shell splits them at spaces.

    Raises:
        ProvisionError: one can't be written so.
    """
    for name, value in options.labels.items():
        yield f"--label {_word(f'{name}={value}', 'label')}"
    for registry in options.insecure_registries:
        yield f"--insecure-registry {_word(registry, 'registry')}"
    for mirror in options.registry_mirrors:
        yield f"--registry-mirror {_word(mirror, 'mirror')}"
    for name, value in options.options.items():
        yield from (f"--{name}={_word(item, name)}" for item in _as_values(name, value))


def _as_values(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, str | int | float):
        yield str(value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _as_values(name, item)
    elif isinstance(value, dict) and name.endswith("-opts"):
        raise ProvisionError(
            f"this guest's engine takes flags, and {name!r} has none that is a table",
            hint=f"write the flag as a list: {name[:-1]} = ["
            + ", ".join(f'"{key}={item}"' for key, item in value.items())
            + "]",
        )
    else:
        raise ProvisionError(
            f"this guest's engine takes flags, and {name!r} is something that no flag can say"
        )


def _word(value: str, what: str) -> str:
    if not re.fullmatch(r"[!-&(-~]+", value):
        raise ProvisionError(
            f"the {what} {value!r} has a space or a quotation mark",
            hint="boot2docker and RancherOS read such things with a shell that would split it",
        )
    return value


def write_exports(env: Mapping[str, str]) -> Iterator[str]:
    """Variables of the engine's environment, for a shell to read."""
    for name, value in env.items():
        quoted = value.replace("'", "'\\''")
        yield f"export {name}='{quoted}'"
