"""Folder type ``virtiofs``: the folder itself, served by a virtiofsd beside QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qup.api import FolderRequest, FolderType, Host, HostError, Problem, Server, Share, hookimpl

DEVICE = "vhost-user-fs-pci"
PLACES = ("virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
"""Where distributions have it; the last is that of QEMU up to 7.2, another program."""
OF_QEMU, TRANSLATES = "-o source=", "--translate-uid"
"""Words of ``--help`` by which the two are told apart, and what can map users: virtiofsd 1.13."""
ALL_USERS = "squash-guest:0:{}:4294967295"
ONE_USER = "only the guest's user can make files in it, not its root: this virtiofsd maps one user"


class Virtiofs:
    """A virtiofsd for each folder."""

    name = "virtiofs"
    summary = "the folder itself, mounted; by a program that shares the guest's memory"
    priority = 110

    def problems(self, host: Host, program: str) -> Sequence[Problem]:
        if not host.qemu_has_device(program, DEVICE):
            return [Problem(f"{program} was built without it")]
        found = _find_program(host)
        if found is None:
            return [Problem("there is no virtiofsd", "install virtiofsd, or QEMU's own up to 7.2")]
        path, said = found
        if not (OF_QEMU in said or TRANSLATES in said):
            return [Problem(f"{path} can't map users", "virtiofsd 1.13 and up can")]
        return []

    def reservations(self, host: Host) -> str | None:
        """What speaks against it where another type works, too."""
        found = _find_program(host)
        return None if found is None or TRANSLATES in found[1] else ONE_USER

    def share(self, folder: FolderRequest) -> Share:  # noqa: ARG002  it is read-only by its view
        return Share(self.name, drivers=("virtiofs",), device={"driver": DEVICE}, vhost=True)

    def serve(self, host: Host, place: Path, uid: int, gid: int) -> Server:
        """The command line for a folder.

        QEMU's own locks itself up in namespaces of its own, and needs rights over its view for
        that. The newer one needs none: with them it would want to be root there.
        """
        found = _find_program(host)
        if found is None:
            raise HostError("there is no virtiofsd")
        path, said = found
        if OF_QEMU in said:
            # What has changed here is seen at once: nothing is believed longer than 0 seconds.
            source = str(place).replace("\\", "\\\\").replace(",", "\\,")
            options = f"source={source},sandbox=namespace,cache=auto,timeout=0,log_level=warn"
            return Server((str(path), "-f", "--fd=0", "-o", options), privileged=True)
        words = (
            *(str(path), "--fd=0", "--shared-dir", str(place)),
            *("--sandbox=none", "--cache=auto", "--log-level=warn"),
            *("--translate-uid", ALL_USERS.format(uid), "--translate-gid", ALL_USERS.format(gid)),
        )
        return Server(words)


def _find_program(host: Host) -> tuple[Path, str] | None:
    """A virtiofsd, and what it says of its options: one that can map users, if there is one."""
    paths = [path for name in PLACES if (path := host.which(name)) is not None]
    known = [(path, host.ask(path, "--help")) for path in paths]
    return next((item for item in known if TRANSLATES in item[1]), known[0] if known else None)


@hookimpl
def qup_folder_types() -> Sequence[FolderType]:
    return [Virtiofs()]
