"""Where a machine's picture goes: the values of ``qemu.display``, read and judged. Pure.

A value is what QEMU's ``-display`` takes (``qemu(1)``), with two words of qup's own: ``vnc``
without an address is VNC at a socket that only this user can open, and ``auto`` is whatever
suits the computer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from qup.model.units import shorten

NONE, AUTO, VNC = "none", "auto", "vnc"

WINDOWS = ("gtk", "sdl", "cocoa")
"""Types that open a window on this computer's screen."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
VNC_PORT = 5900
"""Display 0 listens here, display N at N more (RFC 6143, appendix A)."""
MAX_DISPLAY = 65535 - VNC_PORT
MAX_LENGTH = 1024

_TYPE = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_WINDOW_OPTIONS = frozenset(
    {
        "alt_grab", "ctrl_grab", "full-grab", "full-screen", "grab-mod", "grab-on-hover",
        "left-command-key", "show-cursor", "show-menubar", "show-tabs", "swap-opt-cmd",
        "window-close", "zoom-interpolation", "zoom-to-fit",
    }
)  # fmt: skip
_VNC_OPTIONS = frozenset(
    {"key-delay-ms", "lock-key-sync", "lossy", "non-adaptive", "power-control", "share", "to"}
)
"""Options that concern the picture, the keys and the mouse, and nothing else."""
_REACHES = {
    "spice-app": "it starts a viewer",
    "dbus": "it joins a bus of the host",
    "egl-headless": "it uses the host's graphics card",
}
_GUARDS = frozenset({"password", "password-secret", "sasl", "tls-creds"})
"""Options of VNC that ask its clients who they are."""


class VncAddress(NamedTuple):
    """Where VNC listens: at a socket's path, or at a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True)
class Display:
    """A value of ``qemu.display``, taken apart.

    Attributes:
        type: ``none``, ``vnc``, ``gtk`` ...
        target: what follows ``vnc=``, with commas as they are meant; None without it.
        options: the rest, in order.
    """

    type: str
    target: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """In QEMU's notation: commas in values are doubled."""
        first = self.type if self.target is None else f"{self.type}={_escape(self.target)}"
        return ",".join([first, *(f"{key}={_escape(value)}" for key, value in self.options)])

    @property
    def private(self) -> bool:
        """Whether it is VNC at the machine's own socket."""
        return self.type == VNC and self.target is None

    @property
    def vnc(self) -> VncAddress | None:
        """Where the Qupfile says that VNC listens; None if it says nothing, or it isn't VNC."""
        if self.target is None or self.target == NONE:
            return None
        if self.target.startswith("unix:"):
            return VncAddress(path=self.target.removeprefix("unix:"))
        host, _, number = self.target.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        base = 0 if self.reverse else VNC_PORT
        return VncAddress(host=host or "127.0.0.1", port=int(number) + base)

    @property
    def reverse(self) -> bool:
        """Whether QEMU connects to a viewer instead of listening for one."""
        return dict(self.options).get("reverse", "off") != "off"

    @property
    def searches(self) -> bool:
        """Whether QEMU takes a later port when the one that is named is taken (``to``)."""
        return "to" in dict(self.options)


def parse_display(text: str) -> Display:
    """Take a value of ``qemu.display`` apart.

    Raises:
        ValueError: it can't mean anything, or nothing that works here.
    """
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise ValueError(f"{shorten(text)} is not a display: one line of plain text is")
    first, *rest = _split(text)
    name, equals, target = first.partition("=")
    if not _TYPE.fullmatch(name) or name == "help":
        raise ValueError(
            f"{shorten(text)} is not a display: it begins with a type, such as vnc, gtk or none"
        )
    if name == "curses":
        raise ValueError(
            "curses draws into a terminal, and QEMU has none here;"
            " 'nographic = true' brings the console into yours"
        )
    if equals and name != VNC:
        raise ValueError(f"display {name} takes no address; only vnc does (vnc=localhost:0)")
    if rest and name in (NONE, AUTO):
        raise ValueError(f"display {name} takes no options")
    options = tuple(_read_option(name, item) for item in rest)
    display = Display(name, _read_target(target) if equals else None, options)
    _check_number(display)
    return display


def _escape(value: str) -> str:
    return value.replace(",", ",,")


def _split(text: str) -> list[str]:
    """The parts between commas; a doubled comma is one that is meant."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def _read_option(name: str, item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not _KEY.fullmatch(key) or "help" in (key, value):
        raise ValueError(f"display {name}: {shorten(item)} is not an option")
    return key, value if equals else "on"


def _read_target(target: str) -> str:
    """VNC's address; without a host it listens on this computer alone."""
    if target == NONE or (target.startswith("unix:") and target != "unix:"):
        return target
    host, colon, number = target.rpartition(":")
    plain = re.fullmatch(r"\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]*", host, re.ASCII)
    if not colon or not plain or not re.fullmatch(r"[0-9]{1,5}", number, re.ASCII):
        raise ValueError(
            f"{shorten(target)} is not an address for vnc:"
            " host:display (localhost:0) or unix:PATH is"
        )
    return f"{host or '127.0.0.1'}:{int(number)}"


def _check_number(display: Display) -> None:
    address = display.vnc
    if address and not address.path and address.port > MAX_DISPLAY + VNC_PORT:
        raise ValueError(f"vnc has no display {address.port - VNC_PORT}: at most {MAX_DISPLAY}")


def explain_distrust(display: Display) -> str | None:
    """Why a display of somebody else's Qupfile needs a look by the user; None if it is harmless.

    Harmless are no display, VNC that only this computer can reach, and a plain window.
    """
    if display.type in (NONE, AUTO):
        return None
    if display.type != VNC and display.type not in WINDOWS:
        return _REACHES.get(display.type, f"qup does not know what {display.type!r} does")
    known = _VNC_OPTIONS if display.type == VNC else _WINDOW_OPTIONS
    strange = [key for key, _ in display.options if key not in known]
    if reason := _judge_address(display):
        return reason
    return f"its option {strange[0]!r} may reach into the host" if strange else None


def _judge_address(display: Display) -> str | None:
    address = display.vnc
    if address is None:
        return None
    if display.reverse:
        return "it connects to another program or computer"
    if address.path:
        return "it puts a socket in the place of a file of the host"
    return None if address.host in LOOPBACK else "other computers can reach it"


def explain_exposure(display: Display) -> str | None:
    """What everybody in the network can do to the machine by its display; None if nothing."""
    address = display.vnc
    if address is None or address.path or display.reverse or address.host in LOOPBACK:
        return None
    if _GUARDS & {key for key, _ in display.options}:
        return None
    return (
        f"VNC listens on {address.host}:{address.port} and asks for no password: whoever can"
        " reach that port sees the machine and types into it"
    )
