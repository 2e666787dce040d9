"""Folders of this computer in a guest: what the planner, the runner and ``qup sync`` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

AUTO = "auto"
COPY = "copy"
"""In a plan: the guest gets a copy, by the best way that it has; it is asked when it is up."""
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
class FolderRequest:
    """What a type is told of a folder that it is to mount.

    Attributes:
        host: the folder, as the Qupfile names it.
        guest: where the guest is to have it.
        read_only: the guest must not be able to change it.
    """

    host: str
    guest: str
    read_only: bool = False


@dataclass(frozen=True)
class Share:
    """How a folder is mounted: what QEMU has for it, and what the guest does.

    With a ``backend``, QEMU serves the folder. It sees it at a place of its own, without what is
    qup's, and takes you for the guest's user. qup adds the path, and the tag by which the guest
    finds it.

    Attributes:
        kind: the file system's name in the guest, as ``/proc/filesystems`` has it.
        options: the guest's options for ``mount``, with commas between them.
        drivers: kernel modules that the guest may have to load first.
        backend: properties of QEMU's ``-fsdev``, ``fsdriver`` among them; empty for none.
        device: properties of QEMU's ``-device``, ``driver`` among them.
        source: what the guest mounts, where that isn't QEMU's.
        vhost: a program beside QEMU serves it over vhost-user, and shares the guest's memory; the
            type says which, by ``serve``. It has a ``device`` and no ``backend``.
    """

    kind: str
    options: str = ""
    drivers: tuple[str, ...] = ()
    backend: Mapping[str, str] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    vhost: bool = False


@dataclass(frozen=True)
class Server:
    """A program that serves a folder beside QEMU.

    It is started where the folder is seen without what is qup's, and takes you for the guest's
    user. Its standard input is a socket that listens, with QEMU's connection waiting already; it
    has to end when that is closed.

    Attributes:
        words: its command line.
        privileged: it has all rights over its own view, and none beyond, and gives up itself what
            it doesn't need; without, it has none.
    """

    words: tuple[str, ...]
    privileged: bool = False


@dataclass(frozen=True)
class FolderPlan:
    """A folder of this computer in the guest.

    Attributes:
        id: ``folder0`` ...: its place in the Qupfile.
        host: the folder, as the Qupfile names it.
        guest: where the guest has it.
        type: what a plugin has registered, or :data:`COPY`.
        chosen: the type was left to qup: what a guest can't mount is copied then.
        reason: what was against better types.
        read_only: the guest can't change the folder; a copy never leads back to it.
        exclude: patterns of what is not copied.
        delete: remove from the copy what isn't in the folder, whoever put it there.
        share: how it is mounted; None for one that is copied.
        tag: by which a guest finds it that was booted with it: the id, and a digest of what is
            where. One that restarts can't take one folder for another this way when the Qupfile
            has changed.
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
    share: Share | None = None
    tag: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """A folder of a plan that was stored."""
        share = data.get("share")
        return cls(**{**data, "share": Share(**share) if share else None})

    @property
    def mounted(self) -> bool:
        return self.share is not None

    @property
    def vhost(self) -> bool:
        """Whether a program beside QEMU serves it."""
        return self.share is not None and self.share.vhost

    @property
    def source(self) -> str:
        """What the guest mounts."""
        return (self.share and self.share.source) or self.tag or self.id

    def __str__(self) -> str:
        extra = " read-only" if self.read_only else ""
        return f"{self.host} -> {self.guest} ({self.type}{extra})"


def owner_for(user: str) -> Owner:
    """The numbers of the account that a guest is logged in to, before it can be asked."""
    return ROOT if user == "root" else USER
