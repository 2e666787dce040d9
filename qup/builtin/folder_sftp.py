"""Folder type ``sftp``: a copy for guests without tar; a few requests for each file."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from qup.api import (
    FolderGuest,
    FolderType,
    GuestError,
    Host,
    Parcel,
    Problem,
    explain_start,
    hookimpl,
)

if TYPE_CHECKING:
    from paramiko import SFTPClient

CHUNK = 1 << 18
PART = b".qup-part"
SAID_LIMIT = 4000


class Sftp:
    """OpenSSH's ``sftp`` subsystem; paramiko speaks the protocol, ssh does all else."""

    name = "sftp"
    summary = "a copy by sftp, slowly"
    priority = 10
    programs: tuple[str, ...] = ()

    def problems(self, host: Host, program: str) -> Sequence[Problem]:  # noqa: ARG002  it needs none
        return []

    def send(self, guest: FolderGuest, parcel: Parcel) -> None:
        size = 0
        with tempfile.TemporaryFile() as said, _open_client(guest, said) as client:
            for count, name in enumerate(parcel.names, 1):
                try:
                    size += _put(client, parcel, name)
                except FileNotFoundError:
                    parcel.unsure.add(name)
                except PermissionError as exc:
                    parcel.unsure.add(name)
                    parcel.failed.add(name, str(exc.strerror or exc))
                parcel.report(count, size)


@hookimpl
def qup_folder_types() -> Sequence[FolderType]:
    return [Sftp()]


class _Pipe(socket.socket):
    """A socket that can stand for a channel of paramiko's."""

    def get_name(self) -> str:
        return "sftp"

    def recv_ready(self) -> bool:
        return bool(select.select([self], [], [], 0)[0])


@contextlib.contextmanager
def _open_client(guest: FolderGuest, said: IO[bytes]) -> Iterator[SFTPClient]:
    import paramiko  # 200 ms that other ways don't need

    near, theirs = socket.socketpair()
    ours = _Pipe(fileno=near.detach())
    options = ("-T", "-o", "BatchMode=yes", "-s")
    words = ["ssh", "-F", str(guest.ssh_config), *options, guest.name, "sftp"]
    with ours, explain_start(words[0]):
        with theirs:
            end = theirs.fileno()
            process = subprocess.Popen(words, stdin=end, stdout=end, stderr=said)
        try:
            yield paramiko.SFTPClient(ours)  # type: ignore[arg-type] # a socket serves as well
        except (paramiko.SSHException, EOFError) as exc:
            process.wait()
            said.seek(0)
            text = said.read()[-SAID_LIMIT:].decode(errors="replace").strip()
            raise GuestError(
                f"machine {guest.name}: copying into the guest by sftp failed: {exc!r}",
                details=text or None,
                machine=guest.name,
            ) from exc
        finally:
            ours.close()
            process.terminate()
            process.wait()


def _put(client: SFTPClient, parcel: Parcel, name: bytes) -> int:
    """Bring one entry there; how many bytes that were."""
    source = os.path.join(os.fsencode(parcel.root), name)
    target = os.path.join(parcel.target.encode(), name)
    info = os.lstat(source)
    if stat.S_ISDIR(info.st_mode):
        with contextlib.suppress(OSError):
            client.mkdir(target)
        client.chmod(target, info.st_mode & 0o777 | stat.S_IRWXU)
        return 0
    if stat.S_ISLNK(info.st_mode):
        with contextlib.suppress(OSError):
            client.remove(target)
        client.symlink(os.readlink(source), target)
        return 0
    return _put_file(client, source, target, parcel, name)


def _put_file(client: SFTPClient, source: bytes, target: bytes, parcel: Parcel, name: bytes) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(source, flags), "rb", buffering=0) as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            parcel.unsure.add(name)
            return 0
        part, size = target + PART, 0
        with client.open(part, "wb") as remote:
            remote.set_pipelined()
            while block := file.read(CHUNK):
                remote.write(block)
                size += len(block)
    if size != info.st_size:
        parcel.unsure.add(name)
    client.chmod(part, info.st_mode & 0o777)
    client.utime(part, (info.st_mtime, info.st_mtime))
    client.posix_rename(part, target)
    return size
