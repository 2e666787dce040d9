"""The errors that qup can explain: each has an exit code, and most have a hint.

Everything a user can cause is a :class:`QupError`. Any other exception that reaches the
top is a bug in qup (exit code 3). The table of codes is part of the public interface;
``docs/reference/exit-codes.md`` lists it.
"""

from __future__ import annotations

from typing import Any, ClassVar

BUG_EXIT_CODE = 3
INTERRUPTED_EXIT_CODE = 130


class QupError(Exception):
    """An expected failure.

    Args:
        message: one line: what happened, to which machine or file, and why.
        hint: the next thing to type or to look at.
        details: somebody else's words (QEMU's, ssh's, the guest's console), verbatim.
        machine: the machine it happened to.
    """

    exit_code: int = 1
    kind: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        details: str | None = None,
        machine: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details
        self.machine = machine

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes, whatever arguments their class takes."""
        return _revive, (type(self), self.args, self.__dict__)

    def to_dict(self) -> dict[str, object]:
        """The error as ``--json`` prints it."""
        return {
            "kind": self.kind,
            "exit_code": self.exit_code,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
            "machine": self.machine,
        }


def _revive(cls: type[QupError], args: tuple[Any, ...], attributes: dict[str, Any]) -> QupError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class UsageError(QupError):
    """The command line asks for something that does not exist or does not fit."""

    exit_code = 2
    kind = "usage"


class ConfigError(QupError):
    """The Qupfile, an environment variable or an option has a value that does not work."""

    exit_code = 4
    kind = "config"


class HostError(QupError):
    """This computer lacks something: a tool, a permission, a free port, space."""

    exit_code = 5
    kind = "host"


class StateError(QupError):
    """The project's ``.qup`` folder is locked, damaged or from another version."""

    exit_code = 6
    kind = "state"


class PluginError(QupError):
    """A plugin that is needed is missing, broken, or clashes with another."""

    exit_code = 7
    kind = "plugin"


class BoxError(QupError):
    """A box can't be found, made, verified or removed."""

    exit_code = 8
    kind = "box"


class TemplateError(BoxError):
    """A template can't be used or removed: to a machine it is what a box is."""


class MachineError(QupError):
    """QEMU refused to start, died, or the machine is not in the state the verb needs."""

    exit_code = 9
    kind = "machine"


class GuestError(QupError):
    """The guest never became ready.

    Attributes:
        worth_a_look: the guest runs, and its console may tell why.
        powered_off: the guest ended by itself.
    """

    exit_code = 10
    kind = "guest"
    worth_a_look = False
    powered_off = False


class ProvisionError(QupError):
    """A provisioner failed."""

    exit_code = 11
    kind = "provision"


class Interrupted(QupError):
    """Ctrl-C: what was started has been stopped again."""

    exit_code = INTERRUPTED_EXIT_CODE
    kind = "interrupted"

    def __init__(self) -> None:
        super().__init__("interrupted")
