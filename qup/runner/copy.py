"""``qup cp``: one source after the other to its target, each whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from qup.downloads.progress import Meter, Report
from qup.guest.copying.ends import Chunks, CopyError, Draft, Item, Notes, Source, Target, Wish
from qup.guest.copying.far import GuestTarget
from qup.guest.copying.near import LocalSource
from qup.model.units import format_duration, format_size

SHOWN = 20
"""Lines about single files that are shown; the rest is counted."""


@dataclass
class Copied:
    """What came of it: bytes that went over, and what was left out."""

    size: int = 0
    notes: Notes = field(default_factory=Notes)


def copy(sources: Sequence[Source], target: Target, report: Callable[[str], Report]) -> Copied:
    """Copy sources to a target.

    Args:
        sources: what is copied.
        target: where it goes.
        report: gives what takes the progress of a source, by its title.

    Raises:
        CopyError: something could not be copied; what was copied before stays.
        QupError: see :mod:`qup.errors`.
    """
    copied = Copied()
    for source in sources:
        _Copy(source, target, report(source.title), copied).run(several=len(sources) > 1)
    return copied


@dataclass
class _Copy:
    source: Source
    target: Target
    report: Report
    copied: Copied

    def run(self, *, several: bool) -> None:
        item = self.source.look()
        self._check(item)
        wish = Wish(item, self.source.name, self.source.label, several)
        draft = self.target.prepare(wish)
        began = time.monotonic()
        try:
            size = self._tree(draft, item) if item.kind == "folder" else self.copy_file(draft, item)
        except BaseException:
            self.target.discard(draft)
            raise
        self.copied.size += size
        seconds = time.monotonic() - began
        self.report(f"{format_size(size)} in {format_duration(seconds)}", done=size, total=size)
        self._complain()

    def _check(self, item: Item) -> None:
        if item.kind == "missing":
            raise CopyError(
                f"{self.source.title} is not there",
                hint="or it may not be seen: --sudo reads as root"
                if ":" in self.source.title
                else None,
            )
        if item.kind == "other":
            raise CopyError(f"{self.source.title} is neither a file nor a folder")

    def copy_file(self, draft: Draft, item: Item) -> int:
        """Copy a file; returns the bytes that it has."""
        if (
            item.holey
            and draft.holes
            and isinstance(self.source, LocalSource)
            and isinstance(self.target, GuestTarget)
            and self.target.write_holes(draft, item, self.source)
        ):
            return item.size or 0
        draft = self._resume(draft, item)
        meter = Meter(self.report, item.size)
        with self.source.read_file(draft.start) as chunks:
            counted = _Counted(self._bounded(chunks, item, draft.start), meter, draft.start)
            self.target.write_file(draft, item, counted)
        return counted.done

    def _bounded(self, chunks: Chunks, item: Item, start: int) -> Chunks:
        """A file of this computer that grows meanwhile is copied as it was at the beginning."""
        if item.size is None or not isinstance(self.target, GuestTarget):
            yield from chunks
            return
        left = item.size - start
        for chunk in chunks:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    def _resume(self, draft: Draft, item: Item) -> Draft:
        """Go on with what is there only if it is the beginning of what is to come."""
        if not draft.start:
            return draft
        if item.size is not None and draft.start <= item.size:
            self.report(f"comparing the {format_size(draft.start)} that are there")
            theirs = self.target.digest(draft)
            if theirs is not None and theirs == self.source.digest(draft.start):
                return draft
        return replace(draft, start=0)

    def _tree(self, draft: Draft, item: Item) -> int:
        meter, notes = Meter(self.report, None), self.copied.notes
        with self.source.read_tree(notes) as chunks:
            counted = _Counted(chunks, meter, 0)
            self.target.write_tree(draft, counted, notes)
        done = counted.done
        packer = self.source.packer if isinstance(self.source, LocalSource) else None
        for name, path in packer.holey.items() if packer else ():
            done += self._add_holey(draft, name, path)
        self.target.finish_tree(draft, item)
        return done

    def _add_holey(self, draft: Draft, name: str, path: str) -> int:
        """Put a file with holes into a tree that is complete but for those."""
        source = LocalSource(path)
        head, _, own = f"{draft.folder}/{draft.draft}/{name}".rpartition("/")
        place = Draft(head, own, f".qup-{own[:100]}.part", holes=True)
        one = _Copy(source, self.target, self.report, self.copied)
        return one.copy_file(place, source.look())

    def _complain(self) -> None:
        failed = self.copied.notes.failed
        if failed:
            count = f"{len(failed)} things" if len(failed) > 1 else "something"
            more = [f"and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
            raise CopyError(
                f"{count} in {self.source.title} could not be copied; the rest was",
                details="\n".join([*failed[:SHOWN], *more]),
                hint="--sudo reads as root"
                if any("ermission denied" in line for line in failed)
                else None,
            )


class _Counted:
    """Chunks that are counted on their way."""

    def __init__(self, chunks: Chunks, meter: Meter, start: int) -> None:
        self._chunks, self._meter = chunks, meter
        self.done = start

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.done += len(chunk)
        self._meter.count(self.done)
        return chunk
