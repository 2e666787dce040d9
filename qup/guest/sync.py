"""Copying a folder into a guest and back, as a tar archive over ssh.

What comes back is a stranger's archive: nothing outside of the folder is written, nothing is
removed, and no device is made. A file that the guest did not change is left alone, as its
owner may have changed it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from qup.errors import GuestError, HostError
from qup.files import explain_os_error
from qup.guest import ssh
from qup.paths import STATE_FOLDER, SshFolder
from qup.process import describe_exit, explain_start

PLACE = "sync"
"""The folder in the guest, seen from the home of the user."""
MODE_BITS = 0o777
"""What is taken over of a file's mode: no set-uid, no set-gid."""

Stamp = tuple[int, int, int]
"""Size in bytes, time of change in seconds, mode."""


@dataclass
class Folder:
    """A folder of the host that a guest gets a copy of.

    Attributes:
        root: the folder.
        sent: its files as the guest got them, by their name in the archive.
        skipped: what was not copied, and why, for messages.
    """

    root: Path
    sent: dict[str, Stamp] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def send(self, keys: SshFolder, machine: str) -> None:
        """Copy it into the guest.

        Raises:
            GuestError: the guest has no tar, no space, or ended.
            HostError: something in it can't be read.
        """
        remote = f"mkdir -p {PLACE} && tar -x -o -f - -C {PLACE}"
        with _open_ssh(keys, machine, remote, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            with process.stdin as stream, contextlib.suppress(BrokenPipeError):
                self._write(stream)
            _finish(process, machine, f"copying {self.root} into the guest")

    def _write(self, stream: IO[bytes]) -> None:
        try:
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
                archive.add(self.root, arcname=".", filter=self._pick)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise explain_os_error("copy", Path(exc.filename or self.root), exc) from exc

    def _pick(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if STATE_FOLDER in Path(member.name).parts:
            return None
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            self.skipped.append(f"{member.name}: neither file, folder nor link")
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        if member.isreg():
            self.sent[_clean(member.name)] = _stamp(member)
        return member

    def fetch(self, keys: SshFolder, machine: str) -> None:
        """Copy what the guest has changed or added back.

        Raises:
            GuestError: the guest sends no archive, or ended.
            HostError: something can't be written.
        """
        remote = f"tar -c -f - -C {PLACE} ."
        with _open_ssh(keys, machine, remote, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                with (
                    process.stdout as stream,
                    tarfile.open(fileobj=stream, mode="r|") as archive,
                ):
                    for member in archive:
                        self._take(archive, member)
            except tarfile.TarError as exc:
                process.kill()
                raise GuestError(
                    f"machine {machine}: what came back of {self.root} is not a tar archive: {exc}",
                    machine=machine,
                ) from exc
            _finish(process, machine, f"copying {self.root} back")

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = _clean(member.name)
        target = self.root / name
        if not name or STATE_FOLDER in Path(name).parts:
            return
        if ".." in Path(name).parts or not self._is_inside(target.parent):
            self.skipped.append(f"{name}: leads out of the folder")
            return
        try:
            if member.isdir():
                if not os.path.lexists(target):
                    target.mkdir(parents=True)
                    target.chmod(member.mode & MODE_BITS | stat.S_IRWXU)
            elif member.isreg() and self.sent.get(name) == _stamp(member):
                return
            elif target.is_dir() and not target.is_symlink():
                self.skipped.append(f"{name}: is a folder here")
            elif member.isreg():
                self._write_file(archive, member, target)
            elif member.islnk():
                self._copy_link(member, target)
            elif member.issym():
                self._write_link(member, target)
            else:
                self.skipped.append(f"{name}: neither file, folder nor link")
        except OSError as exc:
            raise explain_os_error("write", target, exc) from exc

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _write_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        source = archive.extractfile(member)
        assert source is not None
        with _aside(target) as draft:
            with draft.open("wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
            draft.chmod(member.mode & MODE_BITS)
            os.utime(draft, (member.mtime, member.mtime))

    def _copy_link(self, member: tarfile.TarInfo, target: Path) -> None:
        """A hard link becomes a file of its own: what it leads to came before it."""
        source = self.root / _clean(member.linkname)
        if not self._is_inside(source) or not source.is_file():
            self.skipped.append(f"{member.name}: leads out of the folder")
            return
        if target.is_file() and target.read_bytes() == source.read_bytes():
            return
        with _aside(target) as draft:
            draft.write_bytes(source.read_bytes())
            draft.chmod(stat.S_IMODE(source.stat().st_mode))

    def _write_link(self, member: tarfile.TarInfo, target: Path) -> None:
        if target.is_symlink() and os.readlink(target) == member.linkname:
            return
        leads_to = target.parent / member.linkname
        if Path(member.linkname).is_absolute() or not self._is_inside(leads_to):
            self.skipped.append(f"{member.name}: a link that leads out of the folder")
            return
        with _aside(target) as draft:
            draft.unlink()
            draft.symlink_to(member.linkname)


def _clean(name: str) -> str:
    """A member's name without what leads nowhere; empty for the folder itself."""
    text = os.path.normpath(name).lstrip("/")
    return "" if text == "." else text


def _stamp(member: tarfile.TarInfo) -> Stamp:
    return member.size, int(member.mtime), member.mode & MODE_BITS


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A file beside another that takes its place when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".qup-", dir=target.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _open_ssh(
    keys: SshFolder,
    machine: str,
    remote: str,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    words = ssh.command(
        keys, machine, ("-T", "-o", "BatchMode=yes"), (shlex.join(["sh", "-c", remote]),)
    )
    with tempfile.TemporaryFile() as errors, explain_start(words[0]):
        process = subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=errors)
        try:
            yield process
        except (GuestError, HostError):
            process.kill()
            raise
        except _Failed as exc:
            errors.seek(0)
            said = errors.read()[-4000:].decode(errors="replace").strip()
            raise GuestError(exc.message, details=said or None, machine=machine) from exc
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()


class _Failed(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _finish(process: subprocess.Popen[bytes], machine: str, what: str) -> None:
    code = process.wait()
    if code != 0:
        raise _Failed(f"machine {machine}: {what} failed ({describe_exit(code)})")
