"""What a process takes of memory, as the kernel says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qup.qemu.memory import read_memory

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this system doesn't say"
)


def test_parts_and_whole() -> None:
    use = read_memory(os.getpid())
    assert use is not None
    assert 0 < use.private <= use.proportional <= use.resident
    assert abs(use.private + use.shared - use.resident) <= 1 << 20  # it grows while it is read


def test_a_process_that_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert read_memory(child.pid) is None
