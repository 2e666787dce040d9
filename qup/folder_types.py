"""What plugins give for types of folders: the protocols behind ``qup_folder_types``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qup.model.folders import FolderRequest, Share
from qup.trees import Leftovers

if TYPE_CHECKING:
    from qup.protocols import Host, Problem


@dataclass
class Parcel:
    """What is to be brought into a guest.

    Attributes:
        root: the folder here.
        target: the folder in the guest, which is there; the user of ssh can write to it.
        names: the entries, seen from the folder; folders come before what is in them. Each is a
            file, a folder or a link, or was a moment ago.
        failed: takes those that can't be read, with the reason.
        unsure: takes those of which it isn't certain that they arrived as they are.
        report: told how many entries, and bytes, are on their way so far.
    """

    root: Path
    target: str
    names: Sequence[bytes]
    failed: Leftovers
    unsure: set[bytes]
    report: Callable[[int, int], None]


class FolderGuest(Protocol):
    """A guest that a folder is copied into."""

    @property
    def name(self) -> str: ...
    @property
    def ssh_config(self) -> Path:
        """Configuration for OpenSSH in which :attr:`name` is a host."""

    def call(self, what: str, script: str, *arguments: str, input: Iterable[bytes] = ()) -> bytes:
        """Run a script in the guest's shell, as the user of ssh; what it printed.

        Args:
            what: what it is for, for messages: ``copying into the guest``.
            script: the script; its arguments are ``$1`` and so on.
            arguments: the script's arguments.
            input: for its standard input.

        Raises:
            GuestError: it failed; the details are its own words.
        """


class FolderType(Protocol):
    """A way to bring a folder of this computer into a guest.

    It either mounts, with ``share``, and is a :class:`MountingType`; or it copies, with ``send``,
    and is a :class:`CopyingType`.

    Attributes:
        name: its word in ``type``.
        summary: one line for lists and docs.
        priority: ``auto`` takes the one that works with the highest, and those that mount before
            those that copy; one below 0 has to be named. virtiofs has 110, 9p 100,
            rsync 30, tar 20, sftp 10.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def priority(self) -> int: ...

    def problems(self, host: Host, program: str) -> Sequence[Problem]:
        """Look, without touching anything, whether it can work here; ``program`` is QEMU's."""


class MountingType(FolderType, Protocol):
    """A folder type that mounts the folder itself: a change on one side is there on the other."""

    def share(self, folder: FolderRequest) -> Share:
        """Say how a folder is mounted. Pure: no I/O.

        qup makes QEMU serve it, has the guest mount it, and unmounts it while the guest is saved
        with its memory. A type that says ``vhost`` has a method more: ``serve(host, place, uid,
        gid)`` returns the :class:`Server` for a folder that is seen at ``place``, where yours
        belongs to ``uid`` and ``gid``. It may have ``reservations(host)``, why it isn't taken
        unless it is named.
        """


class CopyingType(FolderType, Protocol):
    """A folder type that copies. What has changed, what is to be removed and what is in the way
    is found out by qup.

    Attributes:
        programs: what the guest must have for it.
    """

    @property
    def programs(self) -> tuple[str, ...]: ...

    def send(self, guest: FolderGuest, parcel: Parcel) -> None:
        """Bring it there: replace files and links that are there, and keep permissions and times.

        Raises:
            GuestError: it didn't all arrive; qup sends it again the next time.
        """
