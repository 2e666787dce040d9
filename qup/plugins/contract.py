"""What plugins may return, and the fence around what they registered."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qup.api import (
    AcceleratorPlan,
    AddressPlan,
    BoxSpec,
    Check,
    Command,
    Fetched,
    Finding,
    Forward,
    HostAction,
    NicPlan,
    Offer,
    PortRange,
    Problem,
    SeedForm,
    Server,
    Share,
    Tap,
    Verdict,
)
from qup.errors import PluginError, QupError

BROKEN_BY_PLUGIN = (Exception, SystemExit)
"""What a plugin may raise without taking qup with it; Ctrl-C is the user's."""


@dataclass(frozen=True)
class Answer:
    """What a method has to return.

    Attributes:
        types: what it may be.
        many: it is several of them in a row.
        fault: a further look: what is wrong with it, or None.
    """

    types: tuple[type, ...]
    many: bool = False
    fault: Callable[[Any], str | None] = field(default=lambda _: None)

    def take(self, value: Any) -> Any:
        """The value, with what comes in a row as a tuple.

        Raises:
            TypeError: it is something else.
        """
        if not self.many:
            if isinstance(value, self.types):
                if fault := self.fault(value):
                    raise TypeError(f"{fault} in {_cut(repr(value), 200)}")
                return value
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
            row = tuple(value)  # also of a generator, whose errors belong to the plugin
            if all(isinstance(item, self.types) for item in row):
                if fault := self.fault(row):
                    raise TypeError(f"{fault} in {_cut(repr(row), 200)}")
                return row
        names = ("None" if kind is type(None) else kind.__name__ for kind in self.types)
        wanted = f"a list of {', '.join(names)}" if self.many else " or ".join(names)
        raise TypeError(f"it returned {_cut(repr(value))}, which is not {wanted}")


@dataclass(frozen=True)
class Kind:
    """A kind of thing that plugins register.

    Attributes:
        hook: the hook that registers it.
        methods: what the host calls, and what comes back.
        attributes: what else it has, and how to tell that it is of the right type.
        base: what it has to be an instance of, where a protocol isn't enough.
        optional: methods that it may have besides, and what comes back.
        either: methods of which it has exactly one, and what comes back.
    """

    hook: str
    methods: dict[str, Answer] = field(default_factory=dict)
    attributes: Mapping[str, Callable[[object], bool]] = field(default_factory=dict)
    base: type = object
    optional: dict[str, Answer] = field(default_factory=dict)
    either: dict[str, Answer] = field(default_factory=dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object, key: str) -> bool:
    """Whether it maps text to text, and a certain key is there."""
    return (
        isinstance(value, dict) and key in value and all(map(_is_text, (*value, *value.values())))
    )


def _fault_of_nic(plan: Any) -> str | None:
    if not _is_texts(plan.netdev, "type"):
        return "netdev has no 'type', or something that isn't text"
    if not all(isinstance(forward, Forward) for forward in plan.forwards):
        return "forwards has something that isn't a Forward"
    if not isinstance(plan.address, AddressPlan):
        return "address is no AddressPlan"
    if not isinstance(plan.ports, PortRange | None):
        return "ports is no PortRange"
    for action in plan.actions:
        if not isinstance(action, HostAction) or not all(
            map(_is_command, (action.do, action.undo))
        ):
            return "actions has something that isn't a HostAction of two tuples of words"
    if not isinstance(plan.tap, Tap | None):
        return "tap isn't a Tap"
    return None


def _fault_of_files(files: Any) -> str | None:
    if not all(_is_text(item) for pair in files.items() for item in pair):
        return "files must map text to text"
    return None


def _fault_of_ports(ports: Any) -> str | None:
    if not all(_is_number(port) and 1 <= port <= 65535 for port in ports):
        return "ports go from 1 to 65535"
    return None


def _is_command(words: object) -> bool:
    return isinstance(words, tuple) and bool(words) and all(map(_is_text, words))


def _fault_of_accelerator(plan: Any) -> str | None:
    if not _is_texts(plan.properties, "accel") or not isinstance(plan.cpu, str):
        return "properties has no 'accel', or something isn't text"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fault_of_share(share: Any) -> str | None:
    texts = (share.kind, share.options, share.source, *share.drivers)
    if not all(map(_is_text, texts)) or not share.kind:
        return "kind is empty, or something isn't text"
    if share.vhost:
        fits = not share.backend and _is_texts(share.device, "driver")
        return None if fits else "vhost is for a device with a 'driver' and without a backend"
    if not share.backend and not share.device:
        return None if share.source else "there is neither a backend nor a source"
    if not _is_texts(share.backend, "fsdriver") or not _is_texts(share.device, "driver"):
        return "backend has no 'fsdriver', device no 'driver', or something isn't text"
    return None


def _fault_of_server(server: Any) -> str | None:
    return None if _is_command(server.words) else "words is no tuple of words"


def _is_options(model: object) -> bool:
    from qup.api import Settings  # pydantic, which only Qupfiles need

    return isinstance(model, type) and issubclass(model, Settings)


KINDS = {
    "network mode": Kind(
        "qup_network_modes",
        {
            "problems": Answer((Problem,), many=True),
            "plan": Answer((NicPlan,), fault=_fault_of_nic),
        },
        {"summary": _is_text, "options": _is_options},
    ),
    "accelerator": Kind(
        "qup_accelerators",
        {
            "usable": Answer((Verdict,)),
            "plan": Answer((AcceleratorPlan,), fault=_fault_of_accelerator),
        },
        {"summary": _is_text, "priority": _is_number},
    ),
    "box source": Kind(
        "qup_box_sources",
        {
            "names": Answer((str,), many=True),
            "resolve": Answer((BoxSpec, type(None))),
            "fetch": Answer((Mapping, Fetched)),
        },
        {"summary": _is_text},
        optional={
            "newer": Answer((str, type(None))),
            "offers": Answer((Offer,), many=True),
            "fetch_pinned": Answer((Mapping, Fetched)),
        },
    ),
    "guest seeder": Kind(
        "qup_guest_seeders",
        {
            "problems": Answer((Problem,), many=True),
            "form": Answer((SeedForm,)),
            "files": Answer((Mapping,), fault=_fault_of_files),
            "payload": Answer((bytes,)),
        },
        {"summary": _is_text},
        optional={"known_keys": Answer((str,), many=True)},
    ),
    "folder type": Kind(
        "qup_folder_types",
        {"problems": Answer((Problem,), many=True)},
        {"summary": _is_text, "priority": _is_number},
        either={
            "share": Answer((Share,), fault=_fault_of_share),
            "send": Answer((object,)),
        },
        optional={
            "reservations": Answer((str, type(None))),
            "serve": Answer((Server,), fault=_fault_of_server),
        },
    ),
    "provisioner": Kind(
        "qup_provisioners",
        {"digest": Answer((str,)), "run": Answer((object,))},
        {"summary": _is_text, "options": _is_options},
        optional={
            "risk": Answer((str, type(None))),
            "ports": Answer((int,), many=True, fault=_fault_of_ports),
            "problems": Answer((Problem,), many=True),
        },
    ),
    "command": Kind(
        "qup_commands",
        attributes={"summary": _is_text, "callback": callable},
        base=Command,
    ),
    "check": Kind(
        "qup_checks",
        {"run": Answer((Finding,), many=True)},
        {"summary": _is_text},
        base=Check,
    ),
}
"""What can be registered."""

OTHER_HOOKS = {"qup_amend_plan": "additions to plans", "qup_event": "an observer of events"}
"""Hooks that register nothing, and what ``qup plugins list`` says of a plugin that has one."""

RESERVED = {
    "accelerator": frozenset({"auto"}),
    "folder type": frozenset({"auto", "copy"}),
}
"""Words of the Qupfile that mean something else where a name is expected."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)


class Refusal(ValueError):
    """An objection of our own to a plugin; its words need no class name before them."""


def check_item(kind: str, item: Any, reserved: frozenset[str] = frozenset()) -> None:
    """Look whether something can be what a plugin registers it as.

    Args:
        kind: a key of ``KINDS``.
        item: the thing.
        reserved: names that it may not have.

    Raises:
        Refusal: it can't; the message says why.
    """
    base = KINDS[kind].base
    if base is not object and not isinstance(item, base):
        raise Refusal(f"{_cut(repr(item))} is no {base.__name__} of qup.api")
    name: object = getattr(item, "name", None)
    if name is None:
        raise Refusal(f"{_cut(repr(item))} is no {kind}: it has no name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refusal(
            f"{kind} {_cut(repr(name))}: a name has lower case letters, digits and hyphens"
        )
    if name in reserved:
        raise Refusal(f"{kind} {name!r}: the word is qup's own")
    if wrong := list(_find_wrong(kind, item)):
        raise Refusal(f"{kind} {name!r} has no {', no '.join(wrong)}, or of the wrong type")


def _find_wrong(kind: str, item: Any) -> Iterator[str]:
    """The attributes that a thing lacks for its kind."""
    for method in KINDS[kind].methods:
        if not callable(getattr(item, method, None)):
            yield method
    either = KINDS[kind].either
    if either and sum(callable(getattr(item, name, None)) for name in either) != 1:
        yield f"{' or '.join(either)}, and only one of them"
    for attribute, fits in KINDS[kind].attributes.items():
        if not fits(getattr(item, attribute, None)):
            yield attribute


class Fenced:
    """What a plugin registered, as the rest of qup sees it.

    A method that raises anything but a :class:`~qup.errors.QupError`, or returns what it
    mustn't, raises a PluginError that says which plugin that was.
    """

    def __init__(self, item: Any, kind: str, plugin: str) -> None:
        self._item = item
        self._kind = kind
        self._plugin = plugin

    def __repr__(self) -> str:
        return f"<{self._kind} of plugin {self._plugin}: {self._item!r}>"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._item, name)
        kind = KINDS[self._kind]
        answer = (kind.methods | kind.optional | kind.either).get(name)
        return value if answer is None else partial(self._call, name, value, answer)

    def _call(
        self, method: str, function: Callable[..., Any], answer: Answer, *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return answer.take(function(*args, **kwargs))
        except QupError:
            raise
        except BROKEN_BY_PLUGIN as exc:
            raise PluginError(
                f"{self._kind} {self._item.name} of plugin {self._plugin} failed in {method}:"
                f" {describe_exception(exc)}",
                details=find_place(exc),
                hint=advise(self._plugin),
            ) from exc


def describe_exception(exc: BaseException) -> str:
    """An exception in one line, whatever it is."""
    name = type(exc).__name__
    try:
        text = " ".join(str(exc).split())
    except Exception:
        text = ""
    return _cut(f"{name}: {text}" if text else name, 300)


def find_place(exc: BaseException) -> str | None:
    """Where in a plugin's own file an exception came up: for its author, in one line."""
    ours = Path(__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if Path(frame.filename).parent != ours
    ]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}" if own else None


def advise(plugin: str) -> str:
    """The hint for a plugin that failed at work."""
    distribution = plugin.partition(":")[0]
    return f"report this to the author of {distribution}; without it: pip uninstall {distribution}"


def _cut(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
