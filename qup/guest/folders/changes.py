"""What has to be done so that a copy is like its folder. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qup.guest.folders.journal import UNSURE
from qup.trees import OWN

BATCH = 100
"""Names in one command of the guest's shell."""


@dataclass
class Changes:
    """What is to be done, in this order.

    Attributes:
        remove: files and links that qup has put there.
        empty: folders that qup has put there, what is inside first; one with something else in
            it stays.
        purge: what somebody else has put there, and is to go.
        send: what is new or different, folders before what is in them.
    """

    remove: list[bytes] = field(default_factory=list)
    empty: list[bytes] = field(default_factory=list)
    purge: list[bytes] = field(default_factory=list)
    send: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.remove or self.empty or self.purge or self.send)


def find_changes(
    wanted: Mapping[bytes, bytes],
    known: Mapping[bytes, bytes],
    is_excluded: Callable[[bytes, bool], bool],
    strangers: Iterable[bytes] = (),
) -> Changes:
    """Compare a folder with what is known of its copy.

    Args:
        wanted: the folder's entries.
        known: the copy's, as far as qup has put them there.
        is_excluded: whether an entry, maybe a folder, is nothing of qup's business.
        strangers: names in the copy that are to go if the folder doesn't have them.
    """
    changes = Changes(send=[name for name, stamp in wanted.items() if known.get(name) != stamp])
    for name, stamp in known.items():
        now = wanted.get(name, b"")
        if now[:1] == stamp[:1] or (now and not _is_folder(now) and not _is_folder(stamp)):
            continue
        if stamp == UNSURE and now:
            continue  # sent again, whatever it was
        if not now and is_excluded(name, _is_folder(stamp)):
            continue
        if not _is_folder(stamp):
            changes.remove.append(name)
        if _is_folder(stamp) or stamp == UNSURE:
            changes.empty.append(name)
    changes.empty.sort(reverse=True)  # what is inside comes first
    outer = b""
    for name in sorted(strangers):
        inside = outer and name.startswith(outer + b"/")
        if name in wanted or name in known or inside or is_excluded(name, True):
            continue
        if any(part == OWN for part in name.split(b"/")):
            continue
        changes.purge.append(name)
        outer = name
    return changes


def _is_folder(stamp: bytes) -> bool:
    return stamp[:1] == b"d"


_REMOVING = b"""
cd %b || exit
m=%b k=0
# A time alone does not tell: copies have the time of their originals, the guest's clock may be
# behind that, and some shells compare seconds.
changed() {
  [ ! -L "$2" ] && [ -e "$2" ] && [ -e "$m" ] && [ ! "$m" -nt "$2" ] || return 1
  if [ "$1" = - ]; then [ "$2" -nt "$m" ]
  else [ "$(stat -c %%s:%%Y "$2" 2>/dev/null </dev/null)" != "$1" ]; fi
}
d() {
  [ ! -L "$2" ] && [ -e "$2" ] && [ -e "$m" ] || return 1
  [ "$2" -nt "$m" ] || { [ "$1" != - ] && [ ! "$m" -nt "$2" ] && [ "$(wc -c <"$2")" -ne "$1" ]; }
}
d() {
  n=$#
  while [ $n -gt 0 ]; do
    sent=$1 f=$2 n=$((n - 2))
    shift 2
    if [ -d "$f" ] && [ ! -L "$f" ]; then continue; fi
    if changed "$sent" "$f"; then k=$((k + 1)); else set -- "$@" "$f"; fi
  done
  [ $# = 0 ] || rm -f -- "$@" </dev/null
}
r() { for f do rmdir -- "$f" 2>/dev/null; done; }
x() { rm -rf -- "$@" </dev/null; }
"""


def write_removal(
    changes: Changes, known: Mapping[bytes, bytes], folder: str, mark: str
) -> Iterator[bytes]:
    """A script for the guest's shell that removes what is to go.

    What was changed in the guest after ``mark`` stays; how many those are is printed at the end.

    Args:
        changes: what to remove.
        known: the copy's entries, as far as qup has put them there.
        folder: where the copy is.
        mark: a file that is as old as the newest copying; empty for none.
    """
    yield _REMOVING % (_quote(folder.encode()), _quote(mark.encode()))
    files = [_describe(known.get(name, b"")) + b" " + _path(name) for name in changes.remove]
    empty, purge = map(_path, changes.empty), map(_path, changes.purge)
    for word, paths in ((b"d", files), (b"r", list(empty)), (b"x", list(purge))):
        for start in range(0, len(paths), BATCH):
            yield word + b" " + b" ".join(paths[start : start + BATCH]) + b"\n"
    yield b"echo $k\n"


def _describe(stamp: bytes) -> bytes:
    """A file's size, and its time in seconds, as qup has sent it; ``-`` if they are not known."""
    match stamp.split():
        case [b"f", size, nanoseconds, _] if size.isdigit() and nanoseconds.isdigit():
            return b"%b:%d" % (size, int(nanoseconds) // 10**9)
    return b"-"


def _path(name: bytes) -> bytes:
    return _quote(b"./" + name)


def _quote(word: bytes) -> bytes:
    return b"'" + word.replace(b"'", b"'\\''") + b"'"
