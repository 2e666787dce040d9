"""Folder type ``rsync``: a copy, of which only what is different within a file is sent."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from qup.api import (
    FolderGuest,
    FolderType,
    GuestError,
    Host,
    Parcel,
    Problem,
    describe_exit,
    explain_start,
    hookimpl,
)

PARTIAL, VANISHED = 23, 24
"""``rsync(1)``: not all could be transferred; some vanished before they were."""
SAID_LIMIT = 4000


class Rsync:
    """rsync on both sides, through ssh."""

    name = "rsync"
    summary = "a copy by rsync, which both sides need"
    priority = 30
    programs = ("rsync",)

    def problems(self, host: Host, program: str) -> Sequence[Problem]:  # noqa: ARG002  it is not QEMU's
        if host.which(self.name) is not None:
            return []
        return [Problem("this computer has no rsync", "install rsync")]

    def send(self, guest: FolderGuest, parcel: Parcel) -> None:
        shell = shlex.join(["ssh", "-F", str(guest.ssh_config), "-T", "-o", "BatchMode=yes"])
        words = [
            *("rsync", "--from0", "--files-from=-", "--links", "--perms", "--times", "--dirs"),
            *("--omit-dir-times", "--chmod=Du+rwx", "--no-implied-dirs", "--secluded-args"),
            "--ignore-times",  # that they are different is known
            *("--rsh", shell, "--", f"{parcel.root}/", f"{guest.name}:{parcel.target}/"),
        ]
        listing = b"".join(b"./%b\0" % name for name in parcel.names)
        with explain_start(words[0]):
            done = subprocess.run(words, input=listing, capture_output=True, check=False)
        said = done.stderr[-SAID_LIMIT:].decode(errors="replace").strip()
        if done.returncode in (PARTIAL, VANISHED):
            parcel.unsure.update(parcel.names)
            if done.returncode == PARTIAL:
                lines = [line for line in said.splitlines() if "some files" not in line]
                parcel.failed.add(b"rsync", "; ".join(lines[:3]))
        elif done.returncode != 0:
            raise GuestError(
                f"machine {guest.name}: copying into the guest by rsync failed:"
                f" {describe_exit(done.returncode)}",
                details=said or None,
                machine=guest.name,
            )
        parcel.report(len(parcel.names), 0)


@hookimpl
def qup_folder_types() -> Sequence[FolderType]:
    return [Rsync()]
