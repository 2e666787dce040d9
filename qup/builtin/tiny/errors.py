"""What can go wrong while the box is made."""

from __future__ import annotations


class RecipeError(Exception):
    """The box cannot be made on this computer.

    Args:
        message: one line: what happened and why.
        hint: the next thing to type or to look at.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
