"""Where a machine's Docker engine is reached from this computer."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import NamedTuple

from qup.errors import MachineError
from qup.model.network import ANY_ADDRESS, LOOPBACK
from qup.model.state import State
from qup.paths import MachineFolder, RuntimeFolder
from qup.qemu.qmp import Qmp
from qup.runner.forwards import list_forwards
from qup.runner.observe import require_alive

TLS_PORT, PLAIN_PORT = 2376, 2375
"""Docker's registered ports in the guest: with TLS, and without any protection."""

CREDENTIALS = (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem"))
"""Options of ``docker``, and the names of the files in ``DOCKER_CERT_PATH``."""

MONITOR_TIMEOUT = 5.0


class Endpoint(NamedTuple):
    """An engine's address.

    Attributes:
        address: of this computer, or of the guest where that can be reached.
        port: the port there.
        guest: the engine's own port in the guest.
    """

    address: str
    port: int
    guest: int

    @property
    def url(self) -> str:
        """As ``DOCKER_HOST`` has it."""
        return f"tcp://{self.address}:{self.port}"


def find_endpoint(folder: MachineFolder) -> Endpoint:
    """The engine's address: a forward of the user network, or else the guest's own address.

    Raises:
        MachineError: the machine isn't running, or no port leads to an engine.
    """
    found = _find_ways(folder, (TLS_PORT, PLAIN_PORT))
    if found is not None:
        return found
    raise MachineError(
        f"machine {folder.name}: no port of this computer leads to its port {TLS_PORT}, where"
        " Docker's engine listens",
        hint=f"'qup port add 0:{TLS_PORT} -m {folder.name}' opens one, and so does"
        f' forward = ["0:{TLS_PORT}"] in the Qupfile',
        machine=folder.name,
    )


def find_way(folder: MachineFolder, port: int) -> tuple[str, int]:
    """Where a TCP port of the guest is reached from this computer: an address and a port.

    Raises:
        MachineError: the machine isn't running, or nothing leads there.
    """
    found = _find_ways(folder, (port,))
    if found is None:
        raise MachineError(
            f"machine {folder.name}: no port of this computer leads to its port {port}",
            hint=f"'qup port add 0:{port} -m {folder.name}' opens one, and so does"
            f' forward = ["0:{port}"] in the Qupfile',
            machine=folder.name,
        )
    return found.address, found.port


def _find_ways(folder: MachineFolder, ports: tuple[int, ...]) -> Endpoint | None:
    """The way to the first of these ports that there is one to."""
    state = require_alive(folder)
    assert state.launch is not None
    address = state.launch.ssh_address
    if address is None:
        raise MachineError(
            f"machine {folder.name} has no known address yet",
            hint=f"'qup up {folder.name}' waits for it",
            machine=folder.name,
        )
    if not ipaddress.ip_address(address).is_loopback:  # the guest's own
        return Endpoint(address, ports[0], ports[0])
    found = _forwarded(state)
    return next((found[port] for port in ports if port in found), None)


def find_credentials(folder: MachineFolder) -> list[tuple[str, Path]]:
    """The files by which a client shows who it is to an engine with TLS: an option of
    ``docker`` and a path each. Empty if the machine has none.

    The provisioner ``docker`` makes them, under the names that ``DOCKER_CERT_PATH`` expects.
    """
    own = folder.provisioner("docker")
    files = [(option, own / name) for option, name in CREDENTIALS]
    return files if all(path.is_file() for _, path in files) else []


def _forwarded(state: State) -> dict[int, Endpoint]:
    """By the guest's port."""
    assert state.launch is not None
    runtime = RuntimeFolder.of(state.launch.runtime)
    with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
        forwards = [item.forward for item in list_forwards(monitor)]
    return {
        item.guest: Endpoint(
            LOOPBACK if item.address == ANY_ADDRESS else item.address, item.host, item.guest
        )
        for item in forwards
        if item.protocol == "tcp"
    }
