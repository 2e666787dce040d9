"""Which machines a project has, without the cost of validating its Qupfile.

``status``, ``ssh`` and tab completion need names and two flags only. They come from a small
cache that is valid as long as the Qupfile has not been touched, or from a shallow look into
the Qupfile. Nothing is decided by it: ``up`` reads the Qupfile properly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from qup.errors import ConfigError, QupError, UsageError
from qup.files import write_atomic
from qup.paths import Project
from qup.store import machine_names

DEFAULT_MACHINE = "default"
CACHE = "roster.json"
QUPFILE_LIMIT = 1024 * 1024
VALIDATE = "'qup validate' says what is wrong with it"


class Member(NamedTuple):
    """One machine of the Qupfile."""

    name: str
    autostart: bool = True
    primary: bool = False
    after: tuple[str, ...] = ()


class Roster(NamedTuple):
    """The machines of a project.

    Attributes:
        members: those in the Qupfile, in its order.
        leftovers: names of machines that exist but are no longer in the Qupfile.
        problem: why the Qupfile could not be read, if so.
    """

    members: tuple[Member, ...]
    leftovers: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (*(member.name for member in self.members), *self.leftovers)

    @property
    def after(self) -> dict[str, tuple[str, ...]]:
        """For each machine of the Qupfile those that are started before it."""
        return {member.name: member.after for member in self.members}

    def choose(self, names: Sequence[str], *, default: str = "all") -> list[str]:
        """The machines that a command line means.

        Args:
            names: what was typed; nothing means the default.
            default: ``all``, or ``autostart`` for those that start by themselves.

        Raises:
            UsageError: there is no machine of that name.
        """
        if not names:
            if default == "autostart":
                return [member.name for member in self.members if member.autostart]
            return list(self.names)
        for name in names:
            if name not in self.names:
                raise self.unknown(name)
        return list(dict.fromkeys(names))

    def choose_one(self, name: str | None) -> str:
        """The machine that is meant when only one can be: named, only, or primary.

        Raises:
            UsageError: there is none of that name, or several and none is primary.
        """
        if name is not None:
            return self.choose([name])[0]
        primary = [member.name for member in self.members if member.primary]
        candidates = primary or list(self.names)
        if len(candidates) == 1:
            return candidates[0]
        raise UsageError(
            "this project has several machines: " + ", ".join(self.names),
            hint="name one, or set 'primary = true' for one in the Qupfile",
        )

    def unknown(self, name: str) -> UsageError:
        """The error for a machine that isn't there."""
        import difflib  # only for the error

        if not self.members and self.problem:
            return UsageError(f"there is no machine {name!r}", hint=self.problem)
        close = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        known = "the machines are: " + ", ".join(self.names)
        return UsageError(
            f"there is no machine {name!r} in this project",
            hint=f"did you mean {close[0]!r}? {known}" if close else known,
        )


def read_roster(project: Project) -> Roster:
    """The machines of a project, also when its Qupfile is broken."""
    try:
        members = _from_cache(project)
        if members is None:
            members = _from_qupfile(project)
        problem = None
    except QupError as exc:
        members, problem = (), f"{exc.message}; {exc.hint}" if exc.hint else exc.message
    known = {member.name for member in members}
    leftovers = tuple(name for name in machine_names(project) if name not in known)
    return Roster(members, leftovers, problem)


def save_roster(project: Project, members: Sequence[Member]) -> None:
    """Remember the machines of the Qupfile as it is now."""
    data = {"stamp": _stamp(project), "members": [member._asdict() for member in members]}
    path = project.state / CACHE
    text = json.dumps(data)
    if not path.exists() or path.read_text(errors="replace") != text:
        write_atomic(path, text, durable=False)


def _stamp(project: Project) -> list[int]:
    try:
        info = project.qupfile.stat()
    except OSError as exc:
        raise ConfigError(f"{project.qupfile} can't be read: {exc.strerror}") from exc
    return [info.st_mtime_ns, info.st_size, info.st_ino]


def _from_cache(project: Project) -> tuple[Member, ...] | None:
    try:
        data = json.loads((project.state / CACHE).read_bytes())
        if data["stamp"] == _stamp(project):
            return tuple(
                Member(**{**member, "after": tuple(member["after"])}) for member in data["members"]
            )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _from_qupfile(project: Project) -> tuple[Member, ...]:
    import tomllib  # 16 ms

    from qup.toml_positions import locate

    try:
        if project.qupfile.stat().st_size > QUPFILE_LIMIT or not project.qupfile.is_file():
            raise ConfigError(f"{project.qupfile} is not a Qupfile", hint=VALIDATE)
        text = project.qupfile.read_text("utf-8-sig")
        locate(text)  # refuses what is nested so deep that tomllib would choke on it
        document = tomllib.loads(text)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{project.qupfile} can't be read", hint=VALIDATE) from exc
    common = _table(document.get("machine"))
    machines = _table(document.get("machines")) or {DEFAULT_MACHINE: {}}
    return tuple(
        Member(
            name,
            autostart=({**common, **_table(own)}).get("autostart") is not False,
            primary=_table(own).get("primary") is True,
            after=_words(({**common, **_table(own)}).get("after")),
        )
        for name, own in machines.items()
    )


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
