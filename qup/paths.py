"""Every file and folder name that qup uses, once.

A project holds everything that belongs to its machines in ``.qup/``; sockets live in the
user's runtime folder because the kernel allows them fewer than 108 bytes of path
(``unix(7)``); boxes are shared by all projects of a user in the cache.

Records in here are named tuples: making a class of one takes a tenth of a dataclass's time,
and ``qup status`` and ``qup ssh`` pay for each.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from qup.errors import ConfigError, HostError
from qup.ownership import refuse_foreign_qupfile

QUPFILE = "Qupfile"
STATE_FOLDER = ".qup"
SOCKET_PATH_LIMIT = 107
"""Bytes of a unix socket's path, without the final NUL (``unix(7)``)."""


class Project(NamedTuple):
    """A folder with a Qupfile.

    Attributes:
        root: where the Qupfile is, and what paths in it begin at.
        elsewhere: the folder that has the machines, where that is another one: a throw-away
            machine is made from a project's Qupfile and is none of its machines.
    """

    root: Path
    elsewhere: Path | None = None

    @property
    def home(self) -> Path:
        """The folder that has the machines: the index names it."""
        return self.elsewhere or self.root

    @property
    def qupfile(self) -> Path:
        return self.root / QUPFILE

    @property
    def pins(self) -> Path:
        """Which files the boxes are; committed with the Qupfile."""
        return self.root / "qup.lock"

    @property
    def state(self) -> Path:
        return self.home / STATE_FOLDER

    @property
    def machines(self) -> Path:
        return self.state / "machines"

    @property
    def identity(self) -> Path:
        """What tells this project from all others, and from a copy of it."""
        return self.state / "project.json"

    @property
    def locks(self) -> Path:
        """A lock for each machine; they outlive the machines, so that nobody can hold the
        lock of a file that is gone.
        """
        return self.state / "locks"

    def machine(self, name: str) -> MachineFolder:
        return MachineFolder(self.machines / name)


class MachineFolder(NamedTuple):
    """What a project keeps of one machine: ``.qup/machines/<name>/``."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def project(self) -> Path:
        """The folder of the project it belongs to."""
        return self.root.parent.parent.parent

    @property
    def lock(self) -> Path:
        """Held by the one qup that changes the machine."""
        return Project(self.project).locks / self.name

    @property
    def alive(self) -> Path:
        """Held by QEMU for its whole life, from before its first instruction."""
        return self.root / "alive.lock"

    @property
    def pidfile(self) -> Path:
        return self.root / "qemu.pid"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def timings(self) -> Path:
        """What the newest start took, phase by phase."""
        return self.root / "timings.json"

    @property
    def forwards(self) -> Path:
        """Which of the open forwards are the Qupfile's."""
        return self.root / "forwards.json"

    @property
    def hosts(self) -> Path:
        """What the guest was last told about the names of its neighbours."""
        return self.root / "hosts"

    @property
    def mounting(self) -> Path:
        """There when the guest was ever told to mount folders by itself."""
        return self.root / "mounting"

    @property
    def disk(self) -> Path:
        return self.root / "disk.qcow2"

    @property
    def disks(self) -> Path:
        """The further disks that qup made."""
        return self.root / "disks"

    def further_disk(self, name: str) -> Path:
        """The file of a further disk that qup made."""
        return self.disks / f"{name}.qcow2"

    @property
    def firmware_vars(self) -> Path:
        """What UEFI firmware remembers."""
        return self.root / "vars.qcow2"

    @property
    def seed(self) -> Path:
        return self.root / "seed.iso"

    @property
    def seed_share(self) -> Path:
        """The seed for guests that don't read it from a CD."""
        return self.root / "seed"

    @property
    def snapshots(self) -> Path:
        """Its snapshots, a folder each."""
        return self.root / "snapshots"

    @property
    def suspended(self) -> Path:
        """The memory of a guest that stands still, while QEMU is gone."""
        return self.root / "suspended"

    @property
    def suspending(self) -> Path:
        """Memory that is being written."""
        return self.root / "suspended.new"

    @property
    def resumed(self) -> Path:
        """Memory of a guest that runs again: of no use any more."""
        return self.root / "suspended.old"

    @property
    def late(self) -> Path:
        """Says that the guest has stood still and has not been told the time yet."""
        return self.root / "late"

    @property
    def export(self) -> Path:
        """A copy of the machine that is being made a box."""
        return self.root / "export"

    @property
    def held(self) -> Path:
        """Links to files of the templates that its disks are based on; see
        :mod:`qup.runner.holding`.
        """
        return self.root / "held"

    @property
    def ssh(self) -> Path:
        return self.root / "ssh"

    def provisioner(self, name: str) -> Path:
        """What a provisioner keeps of the machine on this computer."""
        return self.root / "provisioners" / name

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, stream: str) -> Path:
        """The log of ``qup``, ``qemu`` or ``serial``."""
        return self.logs / f"{stream}.log"


class SshFolder(NamedTuple):
    """Keys and configuration for reaching one guest: ``.qup/machines/<name>/ssh/``."""

    root: Path

    @property
    def key(self) -> Path:
        return self.root / "key"

    @property
    def host_key(self) -> Path:
        return self.root / "host_key"

    @property
    def known_keys(self) -> Path:
        """Keys that everybody knows, as long as the guest may take them."""
        return self.root / "known_keys"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def environment(self) -> Path:
        """What the guest was last told of ``[machine.env]``."""
        return self.root / "environment"


class RuntimeFolder(NamedTuple):
    """Sockets of one machine, and a link to its ssh folder that is safe to name anywhere."""

    root: Path

    @classmethod
    def of(cls, root: str) -> RuntimeFolder:
        """The one that a state remembers."""
        return cls(Path(root))

    @property
    def control(self) -> Path:
        """QMP for short commands."""
        return self.root / "qmp"

    @property
    def events(self) -> Path:
        """QMP for the one who watches a start or a stop."""
        return self.root / "events"

    @property
    def console(self) -> Path:
        return self.root / "console"

    @property
    def agent(self) -> Path:
        """The guest agent's port, where the machine has one."""
        return self.root / "agent"

    @property
    def identity(self) -> Path:
        """The serial port by which a restored guest becomes another machine."""
        return self.root / "identity"

    @property
    def vnc(self) -> Path:
        """VNC, where the display is a private one; QEMU makes it."""
        return self.root / "vnc"

    @property
    def folders(self) -> Path:
        """Empty folders, in which QEMU, and nobody else, sees those that the guest mounts."""
        return self.root / "folders"

    def place(self, folder: str) -> Path:
        """Where one of them is seen, by its id."""
        return self.folders / folder

    @property
    def server(self) -> Path:
        """The socket of what serves a folder beside QEMU, until both are connected."""
        return self.root / "server"

    @property
    def ssh_master(self) -> Path:
        return self.root / "ssh.sock"

    @property
    def ssh(self) -> Path:
        """A link to the machine's ssh folder: its path has no character that ssh_config minds."""
        return self.root / "ssh"

    def remove(self) -> None:
        """Remove the sockets, the link and the folder, and nothing that qup didn't put there."""
        sockets = (self.control, self.events, self.console, self.agent, self.identity, self.vnc)
        for path in (*sockets, self.server, self.ssh_master, self.ssh):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            for place in self.folders.iterdir():
                place.rmdir()
            self.folders.rmdir()
        with contextlib.suppress(OSError):
            self.root.rmdir()


def runtime_root() -> Path:
    """The folder for sockets: ``$QUP_RUNTIME_DIR``, ``$XDG_RUNTIME_DIR/qup`` or one in the
    temporary folder that only this user can enter.

    Raises:
        HostError: the folder belongs to somebody else, or its path is too long for sockets.
    """
    import tempfile  # what only looks at machines doesn't need it

    named = os.environ.get("QUP_RUNTIME_DIR")
    base = os.environ.get("XDG_RUNTIME_DIR")
    fallback = Path(tempfile.gettempdir()) / f"qup-{os.getuid()}"
    if named:
        root = Path(named).absolute()
    elif base and os.path.isdir(base) and os.access(base, os.W_OK):
        root = Path(base).absolute() / "qup"
    else:
        root = fallback
    if len(os.fsencode(root / ("x" * 12) / "ssh.sock.1234567890123456")) > SOCKET_PATH_LIMIT:
        if named or root == fallback:
            raise HostError(
                f"the runtime folder's path is too long for sockets: {root}",
                hint="set QUP_RUNTIME_DIR to a shorter path",
            )
        root = fallback
    return root


def runtime_folder(machine_id: str) -> RuntimeFolder:
    """Where a machine's sockets are; nothing is created."""
    return RuntimeFolder(runtime_root() / machine_id)


def _user_folder(kind: str, override: str) -> Path:
    if named := os.environ.get(override):
        return Path(named).absolute()
    import platformdirs  # 20 ms that most commands don't need

    match kind:
        case "cache":
            return platformdirs.user_cache_path("qup", appauthor=False)
        case "state":
            return platformdirs.user_state_path("qup", appauthor=False)
        case _:
            return platformdirs.user_config_path("qup", appauthor=False)


def cache_root() -> Path:
    """Boxes and what was learned about this computer; can be deleted at any time."""
    return _user_folder("cache", "QUP_CACHE_DIR")


def state_root() -> Path:
    """The index of this user's machines; losing it loses nothing."""
    return _user_folder("state", "QUP_STATE_DIR")


def config_root() -> Path:
    """What the user said once for all projects: trust."""
    return _user_folder("config", "QUP_CONFIG_DIR")


def boxes_root() -> Path:
    return cache_root() / "boxes"


def downloads_root() -> Path:
    """Files that are only partly here; can be deleted when no qup runs."""
    return cache_root() / "downloads"


def templates_root() -> Path:
    return cache_root() / "templates"


def index_root() -> Path:
    return state_root() / "machines"


def runs_root() -> Path:
    """Throw-away machines: a folder for each ``qup run``."""
    return state_root() / "runs"


def undo_root() -> Path:
    return state_root() / "undo"


def trust_file() -> Path:
    return config_root() / "trust.json"


def find_project(start: Path) -> Project:
    """Walk up from a folder to the one with a Qupfile.

    Raises:
        ConfigError: there is none, or it belongs to another user (as git refuses a
            repository that isn't yours), unless ``QUP_ALLOW_FOREIGN`` is set.
    """
    start = start.absolute()
    if not start.is_dir():
        raise ConfigError(f"the folder {start} does not exist")
    for folder in (start, *start.parents):
        qupfile = folder / QUPFILE
        if os.path.lexists(qupfile):
            refuse_foreign_qupfile(qupfile)
            return Project(folder)
    raise ConfigError(
        f"no {QUPFILE} in {start} or a folder above it",
        hint="'qup init' writes one; -C DIR looks elsewhere",
    )
