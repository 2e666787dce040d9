"""Bringing a copy in a guest up to date with its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qup.errors import GuestError
from qup.folder_types import Parcel
from qup.guest.folders.changes import Changes, find_changes, write_removal
from qup.guest.folders.journal import GONE, UNSURE, Journal, pack, unpack
from qup.guest.folders.link import CommandFailed, Link
from qup.guest.folders.ways import Way, choose_way
from qup.model.folders import COPY, FolderPlan
from qup.trees import Excludes, Leftovers, Tree, scan_tree

NOT_MADE, NOT_WRITABLE = 97, 98

_OPEN = """
t=$1 programs=$3 user=$(id -un)
as_root() {
  if [ "$(id -u)" = 0 ]; then sh -c "$@"
  elif command -v sudo >/dev/null; then sudo -n sh -c "$@"
  else doas -n sh -c "$@"; fi
}
s=${XDG_STATE_HOME:-$HOME/.local/state}/qup/folders
if [ ! -d "$t" ]; then
  mkdir -p "$t" 2>/dev/null || as_root 'mkdir -p "$1" && chown "$2" "$1"' sh "$t" "$user" || exit 97
fi
list='ls -A "$1" && echo .'
if [ -r "$t" ] && [ -x "$t" ]; then content=$(sh -c "$list" sh "$t")
else content=$(as_root "$list" sh "$t"); fi
if [ "$content" = . ]; then
  rm -f "$s/$2" "$s/$2.mark"
  [ -w "$t" ] || as_root 'chown "$2" "$1"' sh "$t" "$user"
fi
[ -w "$t" ] || { ls -ld "$t" >&2; exit 98; }
mkdir -p "$s" || exit
echo "$s/$2"
# Where the power was cut, what was written last may be lost.
read -r boot </proc/sys/kernel/random/boot_id
[ ! -f "$s/$2.boot" ] || read -r last <"$s/$2.boot"
safe() { [ "$(cat "$s/$1.safe" 2>/dev/null)" = "$(wc -c <"$s/$1")" ]; }
[ "$boot" = "$last" ] || [ ! -f "$s/$2" ] || safe "$2" || echo unsafe
echo "$boot" >"$s/$2.boot"
for p in $programs; do command -v $p >/dev/null && echo $p; done
echo
[ ! -f "$s/$2" ] || cat "$s/$2"
"""
_APPEND = 'cat >>"$1"'
_REPLACE = 'cat >"$1.new" && mv -f "$1.new" "$1"'
_MARK = """ && : >"$1.mark" && {
  size=$(wc -c <"$1")
  (sync; echo "$size" >"$1.safe") </dev/null >/dev/null 2>&1 &
}"""
"""The newest copying is noted, and a moment later that all of it is on the guest's disk."""
_LIST = 'cd "$1" && find . ! -name . -print0'


@dataclass
class Outcome:
    """What a copying did.

    Attributes:
        way: how; empty if nothing was sent.
        reason: what was against better ways.
        sent: entries that were sent.
        removed: entries that were removed.
        kept: files that are gone here but were changed in the guest, and stay there.
        size: bytes that were sent.
        failed: what could not be read here.
        special: what is neither file, folder nor link.
        is_new: nothing was there before.
    """

    way: str = ""
    reason: str = ""
    sent: int = 0
    removed: int = 0
    kept: int = 0
    size: int = 0
    failed: Leftovers = field(default_factory=Leftovers)
    special: Leftovers = field(default_factory=Leftovers)
    is_new: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.sent or self.removed)


class Copy:
    """A copy of a folder in a guest, from the moment when its journal was read."""

    def __init__(self, link: Link, root: Path, folder: FolderPlan, ways: Sequence[Way]) -> None:
        """Find out what the guest has; its folder is made if it isn't there.

        Args:
            link: the guest.
            root: the folder here.
            folder: what is to be done with it.
            ways: how it can be done, the best first.

        Raises:
            GuestError: the folder can't be made, or can't be written to.
            HostError: no way to copy works.
        """
        self._link = link
        self._root = root
        self._folder = folder
        self._excludes = Excludes(folder.exclude)
        self._place, tools, data = self._open([name for way in ways for name in way.type.programs])
        wanted = None if folder.type == COPY else folder.type
        self._way, self._reason = choose_way(wanted, tools, ways)
        self._journal: Journal = unpack(data)
        if "unsafe" in tools:
            entries = self._journal.entries
            self._journal.entries = dict.fromkeys(entries, UNSURE)

    def _open(self, programs: Sequence[str]) -> tuple[str, frozenset[str], bytes]:
        target = self._folder.guest
        name = hashlib.sha256(target.encode()).hexdigest()[:16]
        try:
            what = f"looking at {target} in the guest"
            answer = self._link.call(what, _OPEN, target, name, " ".join(programs))
        except CommandFailed as exc:
            reasons = {NOT_MADE: "can't be made", NOT_WRITABLE: "belongs to another user there"}
            if exc.code not in reasons:
                raise
            raise GuestError(
                f"machine {self._link.machine}: the guest's folder {target} {reasons[exc.code]}",
                details=exc.details,
                hint="take another folder ('guest'), or have a provisioning step make it",
                machine=self._link.machine,
            ) from exc
        header, _, data = answer.partition(b"\n\n")
        place, *tools = header.decode(errors="surrogateescape").split("\n")
        return place, frozenset(tools), data

    def scan(self, report: Callable[[int], None] = lambda _: None) -> Tree:
        """Look at the folder; see :func:`qup.trees.scan_tree`."""
        return scan_tree(self._root, self._excludes, report)

    def differs(self, tree: Tree) -> bool:
        """Whether anything in the folder is not as it was copied."""
        return bool(find_changes(tree.entries, self._journal.entries, self._is_excluded))

    def update(
        self, tree: Tree, report: Callable[[int, int, int], None] = lambda *_: None
    ) -> Outcome:
        """Make the copy like the folder.

        Args:
            tree: what is in the folder.
            report: told how many entries of how many, and how many bytes, were sent so far.

        Raises:
            GuestError: something failed in the guest; what is unsure is done again next time.
        """
        outcome = Outcome(special=tree.special, failed=tree.unreadable)
        outcome.is_new = not self._journal.entries
        changes = find_changes(
            tree.entries, self._journal.entries, self._is_excluded, self._find_strangers()
        )
        if not changes:
            return outcome
        gone = list(dict.fromkeys([*changes.remove, *changes.empty]))
        known = dict(self._journal.entries)
        self._note(dict.fromkeys([*changes.send, *gone], UNSURE))
        if gone or changes.purge:
            outcome.kept = self._remove(changes, known)
            outcome.removed = len(gone) + len(changes.purge) - outcome.kept
        unsure = self._send(changes, outcome, report)
        done = {name: tree.entries[name] for name in changes.send if name not in unsure}
        removed = {name: GONE for name in gone if name not in tree.entries}
        self._note({**removed, **done}, done=True)
        return outcome

    def _send(
        self,
        changes: Changes,
        outcome: Outcome,
        report: Callable[[int, int, int], None],
    ) -> set[bytes]:
        unsure: set[bytes] = set()
        if not changes.send:
            return unsure
        total = len(changes.send)

        def tell(count: int, size: int) -> None:
            outcome.size = size
            report(count, total, size)

        parcel = Parcel(self._root, self._folder.guest, changes.send, outcome.failed, unsure, tell)
        self._way.send(self._link, parcel)
        outcome.way, outcome.reason = self._way.name, self._reason
        outcome.sent = total - len(unsure)
        return unsure

    def _is_excluded(self, name: bytes, folder: bool) -> bool:
        return self._excludes.cover(name, folder=folder)

    def _find_strangers(self) -> list[bytes]:
        if not self._folder.delete:
            return []
        found = self._link.call("listing the guest's folder", _LIST, self._folder.guest)
        return [name.removeprefix(b"./") for name in found.split(b"\0") if name]

    def _remove(self, changes: Changes, known: Mapping[bytes, bytes]) -> int:
        """Remove what is to go; returns how many files stay, as the guest has changed them."""
        mark = f"{self._place}.mark"
        script = write_removal(changes, known, self._folder.guest, mark)
        said = self._link.call("removing files in the guest", "exec sh -s", input=script)
        return int(said.split()[-1])

    def _note(self, records: Mapping[bytes, bytes], *, done: bool = False) -> None:
        self._journal.apply(records)
        script, entries = _APPEND, records
        if self._journal.damaged or (done and self._journal.is_long):
            script, entries = _REPLACE, self._journal.entries
            self._journal.records, self._journal.damaged = len(entries), False
        script += _MARK if done else ""
        what = "noting what was copied"
        self._link.call(what, script, self._place, input=[pack(entries.items())])
