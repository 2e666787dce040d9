"""What qup has put into a copy: a journal in the guest, beside the user's other state.

Records are a stamp and a name, each ended by a zero byte, compressed; later ones overrule those
before them. What is about to be sent or removed is written first, as unsure, so that whatever is
cut off is done again. The guest could write anything into it; all that comes of it is which of
the guest's own files are sent or removed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

UNSURE = b"?"
GONE = b"-"
MAX_BYTES = 512 << 20
"""Bytes that a journal may have, unpacked: more than a million long names."""
_GZIP = 16 + zlib.MAX_WBITS
"""The form of ``gzip``; several in a row are one (RFC 1952, 2.2)."""


@dataclass
class Journal:
    """What is known of a copy.

    Attributes:
        entries: the stamp of each name that qup has put there.
        records: how many records the journal has.
        damaged: what was written after some point is lost, and would be again.
    """

    entries: dict[bytes, bytes] = field(default_factory=dict)
    records: int = 0
    damaged: bool = False

    @property
    def is_long(self) -> bool:
        """Whether it is worth being written anew."""
        return self.records > 2 * len(self.entries) + 1000

    def apply(self, changes: Mapping[bytes, bytes]) -> None:
        """Take in what was added to it."""
        self.records += len(changes)
        for name, stamp in changes.items():
            if stamp == GONE:
                self.entries.pop(name, None)
            else:
                self.entries[name] = stamp


def pack(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Records of names and stamps, ready to be added to a journal."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    parts = [packer.compress(b"%b\0%b\0" % (stamp, name)) for name, stamp in records]
    return b"".join([*parts, packer.flush()])


def unpack(data: bytes) -> Journal:
    """Read a journal. What is damaged, or can't be a name, counts for nothing."""
    journal = Journal()
    text, journal.damaged = _inflate(data)
    parts = text.split(b"\0")
    for stamp, name in zip(parts[::2], parts[1::2], strict=False):
        if _is_name(name):
            journal.apply({name: stamp})
    return journal


def _inflate(data: bytes) -> tuple[bytes, bool]:
    """What is packed, up to where it is damaged; and whether it is."""
    found: list[bytes] = []
    room = MAX_BYTES
    while data:
        reader = zlib.decompressobj(_GZIP)
        try:
            part = reader.decompress(data, room)
        except zlib.error:
            return b"".join(found), True
        found.append(part)
        room -= len(part)
        if not reader.eof or room <= 0:
            return b"".join(found), True
        data = reader.unused_data
    return b"".join(found), False


def _is_name(name: bytes) -> bool:
    parts = name.split(b"/")
    return bool(name) and b"" not in parts and b"." not in parts and b".." not in parts
