"""Folders that a guest mounts: mounted and unmounted over ssh, as root."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from qup.errors import GuestError
from qup.guest.folders.link import CommandFailed, Link
from qup.model.folders import FolderPlan, Owner, Share

NO_DRIVER, BUSY = 96, 95

_AS_ROOT = """
if [ "$(id -u)" = 0 ]; then exec sh -c "$@"
elif command -v sudo >/dev/null; then exec sudo -n sh -c "$@"
else exec doas -n sh -c "$@"; fi
"""
PLACE = "/var/lib/qup/mount-folders"
"""A script in the guest that mounts its folders when it restarts by itself."""
UNIT = "qup-folders.service"
"""What runs it, in a guest with systemd: early, once, and never after qup has mounted them. In
``fstab(5)`` they would be mounted again by whatever service or login comes next, while the guest
is being saved."""

_KEEP = f"""
export PATH=$PATH:/usr/sbin:/sbin
keep() {{
  mark=/run/qup-folders # a file system that is empty after a restart
  [ -d /run/systemd/system ] || return
  : >"$mark"
  [ "$(cat {PLACE} 2>/dev/null)" != "$1" ] || return
  units=/etc/systemd/system
  wants=$units/sysinit.target.wants
  if [ ! "$1" ]; then
    rm -f {PLACE} "$units/{UNIT}" "$wants/{UNIT}"
    return
  fi
  mkdir -p /var/lib/qup "$wants" && printf '%s\\n' "$1" >{PLACE}.new && mv -f {PLACE}.new {PLACE}
  cat >"$units/{UNIT}" <<END
[Unit]
Description=Folders of the computer that this guest runs on (qup)
DefaultDependencies=no
After=local-fs.target systemd-modules-load.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target
ConditionPathExists=!$mark
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/bin/sh {PLACE}
END
  ln -sf "../{UNIT}" "$wants/{UNIT}"
}}
"""
_EACH = """
each_mount() { # by the folder's name and what is mounted: a command for each place
  while read -r device at rest; do
    case $device in "$1" | "$1"-* | "$2") "$3" "$(printf %b "$at")"; esac
  done </proc/mounts
}
"""
_MOUNT = f"""{_KEEP}{_EACH}
name=$1 source=$2 place=$3 kind=$4 options=$5
keep "$6"
settle() {{
  if [ "$1" = "$place" ]; then mounted=yes
  else umount "$1" || exit; fi # where an earlier Qupfile had it
}}
each_mount "$name" "$source" settle
[ ! "$mounted" ] || exit 0
shift 6
modprobe -aq "$@" 2>/dev/null
grep -q "[[:space:]]$kind\\$" /proc/filesystems || exit 96
# A guest that was restored knows the tag with which it was booted.
for file in /sys/bus/virtio/drivers/9pnet_virtio/*/mount_tag; do
  [ -r "$file" ] || continue
  tag=$(tr -d '\\0' <"$file")
  case $tag in "$name" | "$name"-*) source=$tag; esac
done
mkdir -p "$place" && mount -t "$kind" -o "$options" "$source" "$place" && echo fresh
"""
_UNMOUNT = f"""{_EACH}
export PATH=$PATH:/usr/sbin:/sbin
leave() {{ umount "$1" || busy=$1; }}
each_mount "$1" "$2" leave
[ "$busy" ] || exit 0
export busy
# In one go: a program for each of a thousand files is slow in emulation.
ls -l /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/fd/* 2>/dev/null | awk '
    {{ at = index($0, " -> "); path = substr($0, at + 4) }}
    index(path "/", ENVIRON["busy"] "/") == 1 {{
        split(substr($0, index($0, "/proc/")), part, "/")
        if (!seen[part[3]]++) print part[3], path
    }}' | head -n 20 | while read -r process path; do
  read -r name <"/proc/$process/comm" && echo "$process $name ($path)"
done >&2
while read -r device at rest; do
  case $(printf %b "$at") in "$busy"/*) printf '%b is mounted in it\\n' "$at"; esac
done </proc/mounts >&2
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


def mount_folder(link: Link, folder: FolderPlan, mounted: Sequence[FolderPlan]) -> Mounted:
    """Mount a folder, if it isn't yet.

    Args:
        link: the guest.
        folder: the folder.
        mounted: all that are to be mounted: they are again when the guest restarts by itself.

    Raises:
        CannotMount: the guest has no driver for it.
        GuestError: it failed otherwise; the details are the guest's own words.
    """
    share = folder.share
    assert share is not None
    words = (
        *(_MOUNT, "sh", folder.id, folder.source, folder.guest),
        *(share.kind, _options(folder, share), _write_script(mounted), *share.drivers),
    )
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
        what = f"unmounting {folder.guest}"
        link.call(what, _AS_ROOT, _UNMOUNT, "sh", folder.id, folder.source)
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


def keep_mounts(link: Link, mounted: Sequence[FolderPlan]) -> None:
    """Have the guest mount these, and no others, when it restarts by itself.

    Raises:
        GuestError: it failed.
    """
    script = f'{_KEEP}keep "$1"'
    link.call("noting what is mounted", _AS_ROOT, script, "sh", _write_script(mounted))


def _options(folder: FolderPlan, share: Share) -> str:
    return ",".join(filter(None, [share.options, "ro" if folder.read_only else "rw"]))


def _write_script(mounted: Sequence[FolderPlan]) -> str:
    """What mounts them at a restart; nothing for no folders."""
    lines = []
    for item in mounted:
        assert item.share is not None
        words = ["mount", "-t", item.share.kind, "-o", _options(item, item.share), item.source]
        lines.append(f"mkdir -p {shlex.quote(item.guest)} && {shlex.join([*words, item.guest])}")
    return "\n".join(lines)
