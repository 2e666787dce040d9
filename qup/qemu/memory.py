"""What a QEMU process takes of this computer's memory.

Machines that were restored from one template share what they have not written to. So their
resident sizes add up to more than there is; their proportional sizes add up to what is used.

``qup status`` imports this module: nothing slow is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_KIB = 1024
_SHARED = ("Shared_Clean", "Shared_Dirty")
_PRIVATE = ("Private_Clean", "Private_Dirty")


class MemoryUse(NamedTuple):
    """Bytes of a process's memory.

    Attributes:
        resident: all that is in memory.
        proportional: the same with each shared page divided among those that share it.
        private: what no other process has, and what would be free without this one.
        shared: what others have as well, or could: a template's pages, programs.
    """

    resident: int
    proportional: int
    private: int
    shared: int


def read_memory(pid: int) -> MemoryUse | None:
    """What a process takes (``smaps_rollup`` of ``proc_pid_smaps(5)``, Linux 4.14).

    None where the system doesn't say: elsewhere than on Linux, for a process that has ended or
    is somebody else's.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {}
    for line in lines:
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdecimal():
            sizes[name] = int(number[0]) * _KIB
    if "Pss" not in sizes:
        return None
    return MemoryUse(
        sizes.get("Rss", 0),
        sizes["Pss"],
        sum(sizes.get(name, 0) for name in _PRIVATE),
        sum(sizes.get(name, 0) for name in _SHARED),
    )
