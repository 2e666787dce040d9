"""Folders that a guest mounts: mounted and unmounted over ssh, as root."""

from __future__ import annotations

from dataclasses import dataclass

from qup.errors import GuestError
from qup.guest.folders.link import CommandFailed, Link
from qup.model.folders import FolderPlan, Owner

NO_DRIVER, BUSY = 96, 95

_AS_ROOT = """
if [ "$(id -u)" = 0 ]; then exec sh -c "$@"
elif command -v sudo >/dev/null; then exec sudo -n sh -c "$@"
else exec doas -n sh -c "$@"; fi
"""
_MOUNT = """
export PATH=$PATH:/usr/sbin:/sbin
tag=$1 place=$2 kind=$3 options=$4
while read -r device rest; do
  [ "$device" != "$tag" ] || exit 0
done </proc/mounts
shift 4
modprobe -aq "$@" 2>/dev/null
grep -q "[[:space:]]$kind\\$" /proc/filesystems || exit 96
mkdir -p "$place" && mount -t "$kind" -o "$options" "$tag" "$place" && echo fresh
"""
_UNMOUNT = """
export PATH=$PATH:/usr/sbin:/sbin
tag=$1 place=$2
while read -r device rest; do
  [ "$device" != "$tag" ] || mounted=yes
done </proc/mounts
[ "$mounted" ] || exit 0
umount "$place" && exit
for process in /proc/[0-9]*; do
  case $(readlink "$process/cwd") in "$place" | "$place"/*)
    read -r name <"$process/comm"
    echo "${process##*/} $name"
  esac
done >&2
exit 95
"""


class CannotMount(GuestError):
    """The guest has no driver for that."""


@dataclass(frozen=True)
class Mounted:
    """What came of mounting.

    Attributes:
        fresh: it was not mounted before.
        owner: the numbers of the account that ssh logs in to.
    """

    fresh: bool
    owner: Owner


def mount_folder(link: Link, folder: FolderPlan) -> Mounted:
    """Mount a folder, if it isn't yet.

    Raises:
        CannotMount: the guest has no driver for it.
        GuestError: it failed otherwise; the details are the guest's own words.
    """
    share = folder.share
    assert share is not None
    options = ",".join(filter(None, [share.options, "ro" if folder.read_only else "rw"]))
    words = (_MOUNT, "sh", folder.source, folder.guest, share.kind, options, *share.drivers)
    script = f"id -u; id -g; {_AS_ROOT}"
    try:
        said = link.call(f"mounting {folder.guest} by {folder.type}", script, *words)
    except CommandFailed as exc:
        if exc.code != NO_DRIVER:
            raise
        raise CannotMount(
            f"the guest's kernel has no driver for {folder.type}",
            hint="leave 'type' out, and the folder is copied",
            machine=link.machine,
        ) from exc
    uid, gid, *rest = said.decode().split()
    return Mounted("fresh" in rest, Owner(int(uid), int(gid)))


def unmount_folder(link: Link, folder: FolderPlan) -> None:
    """Unmount a folder, if it is mounted.

    Raises:
        GuestError: a program in the guest uses it.
    """
    try:
        link.call(
            f"unmounting {folder.guest}", _AS_ROOT, _UNMOUNT, "sh", folder.source, folder.guest
        )
    except CommandFailed as exc:
        if exc.code != BUSY:
            raise
        raise GuestError(
            f"machine {link.machine}: {folder.guest} is in use in the guest, and can't be unmounted"
            " for the machine to be saved",
            details=exc.details,
            hint="leave the folder in the guest ('cd /'), or end what uses it, and try again",
            machine=link.machine,
        ) from exc
