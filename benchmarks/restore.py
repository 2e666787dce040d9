"""Restoring a guest without qup, by the recipe that qup follows, and nothing around it.

The guest is booted once with its memory in a file, and its state is saved when it is idle. Each
start then maps that file privately, lays an overlay over the frozen disk, and loads the state. The
guest stays who it was: it gets no identity of its own, no clock and no randomness. So it is a lower
bound.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.bare import BareMachine, Start, free_port
from benchmarks.measure import BenchmarkError
from benchmarks.workshop import Workshop, end
from qup.errors import QupError
from qup.qemu.idleness import await_idleness
from qup.qemu.migration import load_state, save_state
from qup.qemu.qmp import MonitorError, Qmp

TICK = 0.002
"""Seconds between two looks whether QEMU has made its monitor."""
TIMEOUT = 60.0


class BareTemplate(BareMachine):
    """A machine's QEMU, restored by hand again and again."""

    def __init__(self, workshop: Workshop, project: Path) -> None:
        """Boot it once, and save it.

        Raises:
            BenchmarkError: that doesn't work here.
        """
        super().__init__(workshop, project)
        self._ram = self._home / "ram"
        self._state = self._home / "state"
        self._golden = self._home / "golden.qcow2"
        try:
            self._freeze()
        except (MonitorError, QupError, OSError) as exc:
            raise BenchmarkError(f"the bare guest can't be saved: {exc}") from exc

    def _with_memory(self, share: str) -> list[str]:
        size = self._argv[self._argv.index("-m") + 1]
        argv = list(self._argv)
        argv[argv.index("-machine") + 1] += ",memory-backend=ram"
        backend = f"memory-backend-file,id=ram,size={size},mem-path={self._ram},share={share}"
        return [*argv, "-object", backend]

    def _freeze(self) -> None:
        self._make_disk(Path(self._backing["backing-filename"]))
        port = free_port()
        argv = self._forwarding(self._with_memory("on"), port)
        process = self._workshop.start(argv, self._home, self._home / "qemu.log")
        try:
            self._follow(process, port, time.perf_counter())
            await_idleness(process.pid, limit=TIMEOUT)
            with self._connect(process, time.perf_counter()) as monitor:
                save_state(monitor, self._state, timeout=TIMEOUT)
                monitor.execute("quit")
            process.wait(TIMEOUT)
        finally:
            end(process)
        os.replace(self._disk, self._golden)

    def _connect(self, process: subprocess.Popen[bytes], began: float) -> Qmp:
        while True:
            try:
                return Qmp.connect(self._control, timeout=TIMEOUT)
            except MonitorError:
                self._check(process, began)
                time.sleep(TICK)

    def start(self) -> Start:
        """Make a new overlay, restore the guest, and wait until it lets us in.

        Raises:
            BenchmarkError: it never did.
        """
        self._make_disk(self._golden)
        self._control.unlink(missing_ok=True)
        port = free_port()
        argv = [*self._forwarding(self._with_memory("off"), port), "-S", "-incoming", "defer"]
        began = time.perf_counter()
        process = self._workshop.start(argv, self._home, self._home / "qemu.log")
        try:
            with self._connect(process, began) as monitor:
                load_state(monitor, self._state, timeout=TIMEOUT)
                monitor.execute("cont")
            return self._follow(process, port, began)
        except (MonitorError, QupError) as exc:
            raise BenchmarkError(f"the bare guest can't be restored: {exc}") from exc
        finally:
            end(process)
