"""Being told when something in folders of this computer changes.

Linux's ``inotify(7)``, by ctypes; elsewhere, and where the kernel gives no more watches, those
who wait are woken every few seconds instead and look for themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

QUIET = 0.15
"""Seconds without an event after which a burst of changes is over."""
PATIENCE = 2.0
"""Seconds after which a burst that doesn't end is dealt with all the same."""
POLL = 2.0
"""Seconds between two looks where nobody tells."""

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
MASK = (
    IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
    | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK
)  # fmt: skip
"""``<sys/inotify.h>``"""


class Watch:
    """A watch over any number of folders.

    Attributes:
        blind: why nobody tells of changes here, or empty.
    """

    def __init__(self) -> None:
        """Begin to watch; no folder is watched yet."""
        self.blind = ""
        self._handle = -1
        self._known: set[bytes] = set()
        if sys.platform != "linux":
            self.blind = "this system has no inotify"
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self._handle < 0:
            self._give_up(ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _give_up(self, number: int) -> None:
        limits = {
            errno.EMFILE: "fs.inotify.max_user_instances is reached",
            errno.ENOSPC: "fs.inotify.max_user_watches is reached",
        }
        self.blind = limits.get(number, os.strerror(number))
        self._close()

    def cover(self, folders: Iterable[bytes]) -> bool:
        """Watch all of these folders, and no longer any that isn't among them.

        Returns:
            Whether any is new: what came into it before it was watched has to be looked for.
        """
        wanted = set(folders)
        fresh = wanted - self._known
        for path in fresh:
            if self._handle < 0:
                break
            if self._libc.inotify_add_watch(self._handle, path, MASK) < 0:
                number = ctypes.get_errno()
                if number not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                    self._give_up(number)
        self._known = wanted  # the kernel forgets folders that are gone by itself
        return bool(fresh) and self._handle >= 0

    def wait(self, timeout: float) -> bool:
        """Wait for changes, and until there are no more of them for a moment.

        Args:
            timeout: seconds to wait for the first one.

        Returns:
            Whether something may have changed.
        """
        if self._handle < 0:
            time.sleep(min(timeout, POLL))
            return True
        if not self._poll(timeout):
            return False
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._poll(QUIET):
            pass
        return True

    def _poll(self, timeout: float) -> bool:
        ready, _, _ = select.select([self._handle], [], [], timeout)
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._handle, 1 << 16)
        return bool(ready)
