"""From what distributors publish to a disk: unpacked, checked, and turned into qcow2.

Nothing here trusts a name: what a file is is read from its first bytes. Nothing is extracted
either: the one member of an archive that is wanted is read as a stream, so no path, link or
device in it means anything.
"""

from __future__ import annotations

from qup.unpacking.disk import Made, make_disk

__all__ = ["Made", "make_disk"]
