"""Throw-away machines: each has a folder of its own in the user's state, which is locked as long
as the qup that made it lives.

Whoever finds such a folder unlocked removes it. Its QEMU has ended with its qup by then: the
kernel sees to that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qup.errors import ConfigError, MachineError, QupError
from qup.files import explain_os_error
from qup.guest import ssh
from qup.locks import lock
from qup.ownership import make_private
from qup.paths import MachineFolder, Project, RuntimeFolder, SshFolder, runs_root
from qup.process import explain_start
from qup.runner.context import Context
from qup.runner.observe import require_alive
from qup.runner.stop import destroy
from qup.store import machine_names

if TYPE_CHECKING:
    from pydantic import BaseModel

    from qup.model.config import MachineConfig

LOCK_TIMEOUT = 30.0
SSH_FAILED = 255
INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
USER = "user"


@contextlib.contextmanager
def open_scratch() -> Iterator[Path]:
    """A folder for one throw-away machine; it is removed with all that is in it, whatever
    happens.

    Raises:
        HostError: it can't be made.
    """
    root = make_private(runs_root())
    sweep()
    with _hold_runs(root):  # nobody sees a folder that is not locked yet
        path = Path(tempfile.mkdtemp(prefix="", dir=root))
        handle = _claim(path)
    try:
        yield path
    finally:
        with _undisturbed():
            remove_scratch(path)
        if handle is not None:
            os.close(handle)


def sweep() -> None:
    """Remove what a ``qup run`` that was killed has left behind; never an error."""
    root = runs_root()
    with contextlib.suppress(OSError, QupError):
        if not any(entry.is_dir() for entry in os.scandir(root)):
            return
        with _hold_runs(root):
            dead = [(Path(e.path), _claim(Path(e.path))) for e in os.scandir(root) if e.is_dir()]
        for path, handle in dead:
            if handle is not None:
                with contextlib.suppress(OSError, QupError):
                    remove_scratch(path)
                os.close(handle)


def _hold_runs(root: Path) -> contextlib.AbstractContextManager[None]:
    return lock(root / "lock", what="the folder of throw-away machines", timeout=LOCK_TIMEOUT)


def _claim(path: Path) -> int | None:
    """Lock a folder; None if somebody has it. The kernel drops the lock with this process."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def remove_scratch(path: Path) -> None:
    """Destroy the machines in a folder of throw-away ones, and remove it.

    Raises:
        QupError: one can't be ended.
    """
    project = Project(path)
    context = Context(project)
    for name in machine_names(project):
        destroy(context, project.machine(name))
    try:
        shutil.rmtree(path)
    except OSError as exc:
        raise explain_os_error("remove", path, exc) from exc


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C cut the cleaning up short."""
    old = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def make_throwaway(config: MachineConfig) -> MachineConfig:
    """A machine's configuration for one that is thrown away: ports are the other's.

    Raises:
        ConfigError: such a machine would get into the other's way, or change files.
    """
    for use in config.nics:
        if use.mode != USER:
            raise ConfigError(
                f"machine {config.name} has network mode {use.mode}, in which a throw-away"
                " machine would take its place",
                hint="'qup run --network user ...', or '--box' for a machine without this Qupfile",
                machine=config.name,
            )
    for disk in config.settings.disks:
        if disk.image is not None and not disk.read_only:
            raise ConfigError(
                f"machine {config.name} writes to your image {disk.image}: what a throw-away"
                " machine changes there would stay",
                hint="'read-only = true' for that disk, or '--box' for a machine without this"
                " Qupfile",
                machine=config.name,
            )
    networks = tuple(replace(use, options=_close(use.options)) for use in config.networks)
    return replace(config, network=_close(config.network), networks=networks)


def _close(options: BaseModel) -> BaseModel:
    return options.model_copy(update={"forward": (), "ports": None})


def run_command(folder: MachineFolder, words: Sequence[str], *, terminal: bool) -> int:
    """Run a command in a machine, with this process's own input and output.

    Args:
        folder: the machine.
        words: see :func:`qup.guest.ssh.command`.
        terminal: give it a terminal in the guest.

    Returns:
        Its exit code.

    Raises:
        HostError: there is no ssh.
        MachineError: the machine ended meanwhile.
    """
    launch = require_alive(folder).launch
    assert launch is not None
    options = ("-t",) if terminal else ()
    keys = SshFolder(folder.ssh)
    argv = ssh.command(keys, folder.name, options, ssh.with_environment(keys, words))
    with explain_start(argv[0]):
        process = subprocess.Popen(argv)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code == SSH_FAILED and not ssh.master_is_open(RuntimeFolder.of(launch.runtime)):
        raise MachineError(
            f"machine {folder.name}: the connection to it broke before the command ended",
            hint="did the command power it off, or use up its memory?",
            machine=folder.name,
        )
    return code if code >= 0 else 128 - code
