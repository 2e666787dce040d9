"""What is to be brought into a guest, whichever way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qup.trees import Leftovers

WHAT = "copying into the guest"

Report = Callable[[int, int], None]
"""Told how many entries, and bytes, are on their way so far."""


@dataclass
class Parcel:
    """What is to be brought into a guest.

    Attributes:
        root: the folder here.
        target: the folder in the guest, which is there.
        names: the entries; folders come before what is in them.
        failed: takes those that can't be read.
        unsure: takes those of which it isn't certain that they arrived as they are.
        report: told how far it is.
    """

    root: Path
    target: str
    names: Sequence[bytes]
    failed: Leftovers
    unsure: set[bytes]
    report: Report
