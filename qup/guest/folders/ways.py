"""Ways to bring files into a guest: rsync, tar, and sftp where there is neither."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import Protocol

from qup.errors import GuestError, HostError
from qup.guest.folders.archive import write_archive
from qup.guest.folders.link import SAID_LIMIT, Link
from qup.guest.folders.parcel import WHAT, Parcel
from qup.guest.folders.sftp import Sftp
from qup.process import describe_exit, explain_start

RSYNC_PARTIAL, RSYNC_VANISHED = 23, 24
"""``rsync(1)``: not all could be transferred; some vanished before they were."""


class Way(Protocol):
    """A way to bring files into a guest."""

    @property
    def name(self) -> str:
        """Its word in ``type``."""

    def find_obstacle(self, tools: frozenset[str]) -> str | None:
        """Why it can't be taken, by the programs that the guest has; None if it can."""

    def send(self, link: Link, parcel: Parcel) -> None:
        """Bring it there.

        Raises:
            GuestError: it didn't all arrive; the details are the programs' own words.
        """


class Tar:
    """An archive on the standard input of the guest's tar."""

    name = "tar"

    def find_obstacle(self, tools: frozenset[str]) -> str | None:
        return None if self.name in tools else "the guest has no tar"

    def send(self, link: Link, parcel: Parcel) -> None:
        archive = write_archive(
            parcel.root, parcel.names, parcel.failed, parcel.unsure, parcel.report
        )
        link.call(WHAT, 'tar -x -p -o -f - -C "$1"', parcel.target, input=archive)


class Rsync:
    """rsync on both sides, which sends only what is different within a file."""

    name = "rsync"

    def find_obstacle(self, tools: frozenset[str]) -> str | None:
        if shutil.which(self.name) is None:
            return "this computer has no rsync"
        return None if self.name in tools else "the guest has no rsync"

    def send(self, link: Link, parcel: Parcel) -> None:
        shell = shlex.join(["ssh", "-F", str(link.keys.config), "-T", "-o", "BatchMode=yes"])
        words = [
            *("rsync", "--from0", "--files-from=-", "--links", "--perms", "--times", "--dirs"),
            *("--omit-dir-times", "--chmod=Du+rwx", "--no-implied-dirs", "--secluded-args"),
            "--ignore-times",  # that they are different is known
            *("--rsh", shell, "--", f"{parcel.root}/", f"{link.machine}:{parcel.target}/"),
        ]
        listing = b"".join(b"./%b\0" % name for name in parcel.names)
        with explain_start(words[0]):
            done = subprocess.run(words, input=listing, capture_output=True, check=False)
        said = done.stderr[-SAID_LIMIT:].decode(errors="replace").strip()
        if done.returncode in (RSYNC_PARTIAL, RSYNC_VANISHED):
            parcel.unsure.update(parcel.names)
            if done.returncode == RSYNC_PARTIAL:
                lines = [line for line in said.splitlines() if "some files" not in line]
                parcel.failed.add(b"rsync", "; ".join(lines[:3]))
        elif done.returncode != 0:
            raise GuestError(
                f"machine {link.machine}: {WHAT} by rsync failed: {describe_exit(done.returncode)}",
                details=said or None,
                machine=link.machine,
            )
        parcel.report(len(parcel.names), 0)


WAYS: tuple[Way, ...] = (Rsync(), Tar(), Sftp())
"""All of them, the best first."""


def choose_way(wanted: str | None, tools: frozenset[str]) -> tuple[Way, str]:
    """The way that is asked for, or else the first that works; and what is against others.

    Args:
        wanted: its name; None leaves the choice.
        tools: programs that the guest has.

    Raises:
        HostError: it doesn't work, or none does.
    """
    reasons: list[str] = []
    for way in WAYS:
        if wanted is not None and way.name != wanted:
            continue
        obstacle = way.find_obstacle(tools)
        if obstacle is None:
            return way, "; ".join(reasons)
        reasons.append(f"not {way.name}: {obstacle}")
    raise HostError(
        f"the folder can't be copied: {'; '.join(reasons)}",
        hint="leave 'type' out, or install what is missing",
    )
