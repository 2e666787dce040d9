"""Connections to a port where sshd is expected, until one of them brings its banner.

QEMU's user network accepts a connection before anybody in the guest listens, loses the first
packets, and retries ever more slowly. So new connections are tried in short order while a few
older ones stay open, and the first to carry sshd's banner (RFC 4253, 4.2) wins. An sshd under
load needs longer for its banner than it takes to connect again: none is given up early.

Each connection that reaches OpenSSH costs the guest a process that loads its keys, up to half a
second in emulation. So the pauses grow with the time that the guest has taken so far: one that
needs a minute is found a second late, and is not kept from ever answering.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from dataclasses import dataclass, field

SPACING = (0.1, 2.0)
"""Seconds to the next connection while the last one is neither answered nor refused: the least,
and the most."""
SHARE = 1 / 30
"""How the time that a guest has taken so far becomes seconds to the next connection."""
PATIENCE = (0.2, 0.2, 5.0, 30.0)
"""Connections at a time, by the seconds that each is kept at the least: short ones find a guest
that begins to listen, long ones an sshd that is slow with its banner. dropbear refuses the
sixth."""
KEPT = 2.0
"""Connections are kept at least so many times as long as it takes to the next one."""
BANNER = b"SSH-"


@dataclass
class Prober:
    """Connections to sshd's port, until one brings its banner.

    Attributes:
        accepted: something answered that is no sshd.
        error: the ``errno`` of the newest connection that failed; 0 before.
    """

    address: str
    port: int
    selector: selectors.BaseSelector
    accepted: bool = False
    error: int = 0
    _open: dict[int, tuple[socket.socket, float]] = field(default_factory=dict)
    _not_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def attempt(self, now: float) -> None:
        """Start one more connection if it is time; one that was kept long enough gives way."""
        if now < self._not_before:
            return
        for slot in reversed(range(len(PATIENCE))):
            if slot not in self._open or self._open[slot][1] <= now:
                self._drop(slot)
                self._connect(slot, now)
                return

    def _connect(self, slot: int, now: float) -> None:
        probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = probe.connect_ex((self.address, self.port))
        if code not in (0, errno.EINPROGRESS):
            self.error = code
            probe.close()
            return
        self.selector.register(probe, selectors.EVENT_READ, (self, slot))
        spacing = self._spacing(now)
        self._open[slot] = (probe, now + max(PATIENCE[slot], KEPT * spacing))
        self._not_before = now + spacing

    def _spacing(self, now: float) -> float:
        least, most = SPACING
        return min(most, max(least, (now - self._began) * SHARE))

    def read(self, slot: int) -> bool:
        """Whether a connection brought the banner; a dead one is dropped."""
        try:
            data = self._open[slot][0].recv(255)
        except BlockingIOError:
            return False
        except OSError as exc:
            self.error = exc.errno or 0
            data = b""
        if data.startswith(BANNER):
            return True
        self.accepted = self.accepted or bool(data)
        self._drop(slot)
        # It was refused: there is somebody who may soon say yes, or who has too many of us.
        now = time.monotonic()
        self._not_before = now + self._spacing(now) - SPACING[0]
        return False

    def _drop(self, slot: int) -> None:
        if slot in self._open:
            probe, _ = self._open.pop(slot)
            self.selector.unregister(probe)
            probe.close()

    def close(self) -> None:
        """Drop all connections."""
        for slot in list(self._open):
            self._drop(slot)

    def describe(self) -> str:
        """How far the connections got, as the end of a sentence about the guest."""
        if self.accepted:
            return f"something answers on port {self.port}, but it is no sshd"
        match self.error:
            case errno.EHOSTUNREACH:
                return "nobody on its network answers for that address"
            case errno.ENETUNREACH:
                return "this computer has no route to it"
            case errno.ECONNREFUSED:
                return f"it refuses connections to port {self.port}: no sshd listens"
            case _:
                return "no sshd answers"
