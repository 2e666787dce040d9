"""Folder type ``9p``: the folder itself, served by QEMU and mounted by the guest."""

from __future__ import annotations

from collections.abc import Sequence

from qup.api import FolderRequest, FolderType, Host, Problem, Share, hookimpl

DEVICE = "virtio-9p-pci"
OPTIONS = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"
"""A file is read anew each time it is opened, also where the host has changed it. 'mmap' lets
programs map files and write to them, which they can't without a cache (Linux's ``9p.rst``)."""


class NineP:
    """QEMU's own server.

    Without ``security_model`` for other users QEMU does everything as itself, whoever asks in the
    guest, and keeps no account of the guest's users: what is made belongs to you.
    """

    name = "9p"
    summary = "the folder itself, mounted"
    priority = 100

    def problems(self, host: Host, program: str) -> Sequence[Problem]:
        if host.qemu_has_device(program, DEVICE):
            return []
        return [Problem(f"{program} was built without it")]

    def share(self, folder: FolderRequest) -> Share:
        backend = {
            "fsdriver": "local",
            "security_model": "none",
            # What is mounted within the folder has numbers of its own for its files.
            "multidevs": "remap",
            **({"readonly": "on"} if folder.read_only else {}),
        }
        return Share(self.name, OPTIONS, ("9p", "9pnet_virtio"), backend, {"driver": DEVICE})


@hookimpl
def qup_folder_types() -> Sequence[FolderType]:
    return [NineP()]
