"""Reaching a guest with OpenSSH: its configuration file, and the shared connection.

One connection to each machine is kept open in the background (``ControlMaster`` in
``ssh_config(5)``); further commands go through it without a new handshake. It is opened by
qup with its output in a log: a master that inherited a caller's standard error would keep a
pipe open for ever.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qup.errors import GuestError, HostError
from qup.files import write_atomic
from qup.model.environment import PLACE
from qup.paths import RuntimeFolder, SshFolder
from qup.process import Result, describe_exit, missing_program, run

CONNECT_TIMEOUT = 30
"""Seconds that a handshake may take; emulated guests are slow at cryptography."""


_BECOME_ROOT = """
if [ "$(id -u)" = 0 ]; then exec sh; fi
if command -v sudo >/dev/null; then exec sudo -n sh; fi
exec doas -n sh
"""
AS_ROOT = ("sh", "-c", _BECOME_ROOT)
"""A shell of root's in the guest, for a script on its standard input."""

_EXEC_AS_ROOT = """
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
if command -v sudo >/dev/null; then exec sudo -n "$@"; fi
exec doas -n "$@"
"""


def as_root(words: Sequence[str]) -> list[str]:
    """A command of the guest's, run by root; its standard input is its own."""
    return ["sh", "-c", _EXEC_AS_ROOT, "sh", *words]


@dataclass(frozen=True)
class Endpoint:
    """Where a guest's sshd is reached, and as whom."""

    machine: str
    machine_id: str
    address: str
    port: int
    user: str

    @property
    def host_alias(self) -> str:
        """The name under which the host key is pinned, wherever the guest is reached."""
        return f"qup-{self.machine_id}"


def render_config(endpoint: Endpoint, runtime: RuntimeFolder, *, learned: bool = False) -> str:
    """The ``ssh_config(5)`` block of a machine.

    A host key that qup has made is of one kind; a guest's own may be of any (``learned``).

    Files are named through the runtime folder, whose path holds nothing that needs quoting.
    """
    files = SshFolder(runtime.ssh)
    options = {
        "HostName": endpoint.address,
        "Port": endpoint.port,
        "User": endpoint.user,
        "IdentityFile": files.key,
        "IdentitiesOnly": "yes",
        "PreferredAuthentications": "publickey",
        "PasswordAuthentication": "no",
        "HostKeyAlias": endpoint.host_alias,
        "HostKeyAlgorithms": "ssh-ed25519",
        "UserKnownHostsFile": files.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "ControlPath": runtime.ssh_master,
        "ConnectTimeout": CONNECT_TIMEOUT,
        "ServerAliveInterval": 15,
        "ServerAliveCountMax": 4,
        "LogLevel": "ERROR",
    }
    if learned:
        del options["HostKeyAlgorithms"]
    lines = [f"  {key} {_quote(value)}" for key, value in options.items()]
    return "\n".join([f"Host {endpoint.machine}", *lines]) + "\n"


def _quote(value: object) -> str:
    text = str(value)
    if isinstance(value, Path):
        text = text.replace("%", "%%")
    return f'"{text}"' if " " in text else text


def write_config(
    endpoint: Endpoint, folder: SshFolder, runtime: RuntimeFolder, host_key: str | None
) -> None:
    """Write the machine's ssh configuration and pin its host key.

    Args:
        endpoint: where its sshd is.
        folder: where the files go.
        runtime: where ssh finds them.
        host_key: the key that qup has made; None for a guest that makes its own, whose key is
            the one that was learned at its first boot.
    """
    keys = [" ".join(host_key.split()[:2])] if host_key else read_learned_keys(folder)
    lines = [f"{endpoint.host_alias} {key}\n" for key in keys]
    write_atomic(folder.known_hosts, "".join(lines), durable=host_key is None)
    link_files(folder, runtime)
    text = render_config(endpoint, runtime, learned=host_key is None)
    write_atomic(folder.config, text, durable=False)


def read_learned_keys(folder: SshFolder) -> list[str]:
    """The guest's own host keys, as far as they are known: ``ssh-ed25519 AAAA...``."""
    try:
        lines = folder.known_hosts.read_text().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return [" ".join(line.split()[1:3]) for line in lines if len(line.split()) >= 3]


def fingerprint(key: str) -> str:
    """A public key's fingerprint as ssh prints it: ``SHA256:...``."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def link_files(folder: SshFolder, runtime: RuntimeFolder) -> None:
    """Let the runtime folder's ``ssh`` lead to the machine's ssh folder."""
    if runtime.ssh.is_symlink() and os.readlink(runtime.ssh) == os.fspath(folder.root):
        return
    with contextlib.suppress(FileNotFoundError):
        runtime.ssh.unlink()
    runtime.ssh.symlink_to(folder.root)


def command(
    folder: SshFolder, machine: str, options: Sequence[str], remote: Sequence[str]
) -> list[str]:
    """The ssh command line for a machine.

    Args:
        folder: where its configuration is.
        machine: its name.
        options: options for ssh itself, such as ``-A``.
        remote: the words of the remote command; none for a login shell. One word is handed
            to the remote shell as it is, as ssh does; of several, each arrives as one word.
    """
    words = ["ssh", "-F", os.fspath(folder.config), *options, "--", machine]
    if len(remote) == 1:
        return [*words, remote[0]]
    return [*words, shlex.join(remote)] if remote else words


def with_environment(folder: SshFolder, remote: Sequence[str]) -> Sequence[str]:
    """A remote command that has the variables of ``[machine.env]``, if the guest was told any.

    A login shell reads them itself.
    """
    if not remote or not folder.environment.exists():
        return remote
    command = remote[0] if len(remote) == 1 else shlex.join(remote)
    return [f"[ ! -r {PLACE} ] || . {PLACE}; {command}"]


def master_is_open(runtime: RuntimeFolder) -> bool:
    """Whether something listens on the shared connection's socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(os.fspath(runtime.ssh_master))
        except OSError:
            return False
        return True


class SshFailure(GuestError):
    """ssh could not connect.

    Attributes:
        final: trying again can't help.
        stranger: whoever answered has another host key than the machine.
    """

    worth_a_look = True

    def __init__(
        self,
        message: str,
        *,
        said: str,
        final: bool,
        hint: str | None = None,
        stranger: bool = False,
    ) -> None:
        super().__init__(message, details=said or None, hint=hint)
        self.final = final
        self.stranger = stranger


def open_master(
    folder: SshFolder,
    runtime: RuntimeFolder,
    machine: str,
    log: Path,
    *,
    timeout: float,
    learn: bool = False,
    keys: Sequence[Path] = (),
) -> None:
    """Log in, and keep that connection for others to share.

    Args:
        log: takes what ssh says.
        timeout: seconds for connecting and logging in.
        learn: keep the host key of whoever answers, as none is known yet.
        keys: private keys that may get in besides the machine's own.

    Raises:
        SshFailure: no connection; ``final`` after a refused key or a wrong host key.
    """
    with contextlib.suppress(FileNotFoundError):
        runtime.ssh_master.unlink()
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                _master_command(folder, machine, learn=learn, keys=keys),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise missing_program("ssh") from exc
        except subprocess.TimeoutExpired as exc:
            raise SshFailure(
                f"machine {machine}: ssh did not log in within {timeout:.0f} s",
                said="",
                final=False,
            ) from exc
    if done.returncode != 0:
        said = log.read_text(errors="replace").strip()
        raise _explain(machine, done.returncode, said)


def _master_command(
    folder: SshFolder, machine: str, *, learn: bool = False, keys: Sequence[Path] = ()
) -> list[str]:
    options = ["-o", "StrictHostKeyChecking=accept-new"] if learn else []
    for key in keys:
        options += ["-i", os.fspath(key)]
    return ["ssh", "-F", os.fspath(folder.config), *options, "-M", "-N", "-f", "--", machine]


def spawn_master(folder: SshFolder, machine: str) -> None:
    """Open the shared connection in the background and don't wait for it."""
    with contextlib.suppress(OSError):
        subprocess.Popen(
            _master_command(folder, machine),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def close_master(folder: SshFolder, runtime: RuntimeFolder, machine: str) -> None:
    """End the shared connection, if there is one."""
    if runtime.ssh_master.exists():
        words = ["ssh", "-F", os.fspath(folder.config), "-O", "exit", "--", machine]
        with contextlib.suppress(HostError):
            run(words, check=False, timeout=5)
        with contextlib.suppress(OSError):
            runtime.ssh_master.unlink()


def _explain(machine: str, code: int, said: str) -> SshFailure:
    if "Permission denied" in said or "Too many authentication failures" in said:
        return SshFailure(
            f"machine {machine}: sshd answers, but refuses qup's key",
            said=said,
            final=True,
            hint="the box may need another 'ssh.user', or it reads another seed ('seeder');"
            f" look at the console: 'qup console {machine}'",
        )
    if "Host key verification failed" in said or "IDENTIFICATION HAS CHANGED" in said:
        return SshFailure(
            f"machine {machine}: whoever answers has another host key than this machine",
            said=said,
            final=True,
            hint="the box ignores the seed's host keys, a guest with a key of its own has made a"
            " new one, or another program has the port",
            stranger=True,
        )
    return SshFailure(
        f"machine {machine}: ssh failed ({describe_exit(code)})", said=said, final=False
    )


def run_in_guest(
    folder: SshFolder,
    machine: str,
    remote: Sequence[str],
    *,
    input: str | None = None,
    timeout: float | None = None,
) -> Result:
    """Run a command in the guest, with its output captured. 255 is ssh's own failure."""
    words = command(folder, machine, ("-T", "-o", "BatchMode=yes"), (shlex.join(remote),))
    return run(words, check=False, input=input, timeout=timeout)
