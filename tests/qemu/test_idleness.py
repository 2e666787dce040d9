"""Whether a process has anything to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qup.qemu.idleness import await_idleness

if not Path("/proc/self/schedstat").exists():
    pytest.skip("this kernel doesn't say", allow_module_level=True)


@pytest.mark.parametrize(("code", "idle"), [("input()", True), ("while True: pass", False)])
def test_a_process_is_idle_or_busy(code: str, idle: bool) -> None:
    words = [sys.executable, "-c", f"print(flush=True)\n{code}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            # One that has nothing to do may still be on its way there.
            assert await_idleness(process.pid, limit=30.0 if idle else 1.0) is idle
        finally:
            process.kill()


def test_of_a_process_that_is_gone_nobody_knows() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert await_idleness(process.pid, limit=1.0) is False
