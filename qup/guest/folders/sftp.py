"""Files brought into a guest by sftp, for guests without tar: a few requests for each file."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from qup.errors import GuestError
from qup.guest.folders.link import SAID_LIMIT, Link
from qup.guest.folders.parcel import WHAT, Parcel
from qup.process import explain_start

if TYPE_CHECKING:
    from paramiko import SFTPClient

CHUNK = 1 << 18
PART = b".qup-part"


class Sftp:
    """OpenSSH's ``sftp`` subsystem; paramiko speaks the protocol, ssh does all else."""

    name = "sftp"

    def find_obstacle(self, tools: frozenset[str]) -> str | None:  # noqa: ARG002  it needs none
        return None

    def send(self, link: Link, parcel: Parcel) -> None:
        size = 0
        with tempfile.TemporaryFile() as said, _open_client(link, said) as client:
            for count, name in enumerate(parcel.names, 1):
                try:
                    size += _put(client, parcel, name)
                except FileNotFoundError:
                    parcel.unsure.add(name)
                except PermissionError as exc:
                    parcel.unsure.add(name)
                    parcel.failed.add(name, str(exc.strerror or exc))
                parcel.report(count, size)


class _Pipe(socket.socket):
    """A socket that can stand for a channel of paramiko's."""

    def get_name(self) -> str:
        return "sftp"

    def recv_ready(self) -> bool:
        return bool(select.select([self], [], [], 0)[0])


@contextlib.contextmanager
def _open_client(link: Link, said: IO[bytes]) -> Iterator[SFTPClient]:
    import paramiko  # 200 ms that other ways don't need

    near, theirs = socket.socketpair()
    ours = _Pipe(fileno=near.detach())
    words = [*link.words((), "-s")[:-1], "sftp"]
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
                f"machine {link.machine}: {WHAT} by sftp failed: {exc!r}",
                details=text or None,
                machine=link.machine,
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
