"""What can go wrong with a download."""

from __future__ import annotations

from qup.errors import BoxError


class OfflineError(BoxError):
    """The network would be needed, and the user has said that there is none."""


class MissingError(BoxError):
    """The server says that there is no such file."""


class RefusedError(BoxError):
    """The server doesn't give the file to us."""


class Transient(Exception):
    """It failed in a way that may pass: trying again is worth it.

    Attributes:
        reason: what happened, in a few words.
        after: seconds that the server asked for, if it did.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after
