"""Folders of this computer in a guest: what the planner, the runner and ``qup sync`` share."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
NINEP = "9p"
MOUNTED = (NINEP,)
"""Types that mount the folder itself: a change on one side is there on the other at once."""
COPY = "copy"
"""In a plan: the guest gets a copy, by the best way that it has; it is asked when it is up."""
RSYNC, TAR, SFTP = "rsync", "tar", "sftp"
COPYING = (RSYNC, TAR, SFTP)
"""Types that copy, the best first."""
MAX_FOLDERS = 8
"""Folders of a machine: each that is mounted takes a slot of its PCI bus."""


@dataclass(frozen=True)
class Owner:
    """A user of the guest, by number."""

    uid: int
    gid: int


USER = Owner(1000, 1000)
"""The first user of a guest: boxes of qup, and cloud images of nearly all distributions."""
ROOT = Owner(0, 0)


@dataclass(frozen=True)
class FolderPlan:
    """A folder of this computer in the guest.

    Attributes:
        id: ``folder0`` ...: its place in the Qupfile; also the tag by which a guest mounts it.
        host: the folder, as the Qupfile names it.
        guest: where the guest has it.
        type: one of :data:`MOUNTED` or :data:`COPYING`, or :data:`COPY`.
        chosen: the type was left to qup: what a guest can't mount is copied then.
        reason: what was against better types.
        read_only: the guest can't change the folder; a copy never leads back to it.
        exclude: patterns of what is not copied.
        delete: remove from the copy what isn't in the folder, whoever put it there.
    """

    id: str
    host: str
    guest: str
    type: str
    chosen: bool = False
    reason: str = ""
    read_only: bool = False
    exclude: tuple[str, ...] = ()
    delete: bool = False

    @property
    def mounted(self) -> bool:
        return self.type in MOUNTED

    def __str__(self) -> str:
        extra = " read-only" if self.read_only else ""
        return f"{self.host} -> {self.guest} ({self.type}{extra})"


def owner_for(user: str) -> Owner:
    """The numbers of the account that a guest is logged in to, before it can be asked."""
    return ROOT if user == "root" else USER
