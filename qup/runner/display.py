"""A machine's display on this computer: which one suits it, what stands in its way."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.host import LocalHost
from qup.model.display import (
    AUTO,
    NONE,
    VNC,
    WINDOWS,
    Display,
    VncAddress,
    explain_exposure,
    parse_display,
)
from qup.model.plan import Plan
from qup.paths import SOCKET_PATH_LIMIT
from qup.runner.context import Context

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

Problems = Iterator[tuple[str, str | None]]
"""What is wrong, and what to do about it."""

DRI = Path("/dev/dri")
GUI_PACKAGE = "qemu-system-gui"
"""Debian's package with QEMU's windows."""
NEEDS_SCREEN = ("gtk", "sdl", "spice-app")
PRIVATE_HINT = "display = \"vnc\" works everywhere, and 'qup view' shows it"


def has_screen() -> bool:
    """Whether programs that are started here can open a window."""
    if sys.platform == "darwin":
        return True
    return any(os.environ.get(name) for name in ("WAYLAND_DISPLAY", "DISPLAY"))


def settle_display(host: LocalHost, config: MachineConfig) -> str:
    """Where the picture goes: for ``auto`` a window where there can be one, else VNC."""
    wanted = config.settings.qemu.shown_at
    if wanted != AUTO:
        return wanted
    program = config.settings.qemu.program
    types = host.display_types(program, wanted=WINDOWS) if has_screen() else ()
    return next((name for name in WINDOWS if name in types), VNC)


def announce_display(ctx: Context, config: MachineConfig, plan: Plan) -> None:
    """Say what the user should know about the display before it is there."""
    if plan.display is None:
        return
    if config.settings.qemu.shown_at == AUTO:
        ctx.tell(config.name, f"its display is {plan.display.value}")
    if exposed := explain_exposure(parse_display(plan.display.value)):
        ctx.tell(config.name, exposed, level="warning", hint='display = "vnc" is for you alone')


def display_of(stored: Mapping[str, Any]) -> str | None:
    """The display of a plan that was stored, if it has one."""
    display = stored.get("display")
    return display.get("value") if isinstance(display, dict) else None


def keep_display(
    config: MachineConfig, stored: Mapping[str, Any], plan: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan of a machine that runs, with the display it has where any would do."""
    if config.settings.qemu.shown_at == AUTO and stored.get("display"):
        return {**plan, "display": stored["display"]}
    return dict(plan)


def find_display_problems(ctx: Context, plan: Plan, *, held: str | None = None) -> Problems:
    """Why a display can't work on this computer; nothing is touched.

    Args:
        ctx: the surroundings.
        plan: what is to be started.
        held: the display of the machine itself that runs at the moment: its place is not
            taken by somebody else.
    """
    if plan.display is None or plan.display.private:
        return
    display = parse_display(plan.display.value)
    if display.type == VNC:
        if plan.display.value != held and not display.reverse:
            yield from _vnc_problems(display, ctx.project.root)
        return
    types = ctx.host.display_types(plan.program, wanted=(display.type,))
    if types and display.type not in types:
        yield _missing_type(plan.program, display.type, types)
    elif display.type in NEEDS_SCREEN and not has_screen():
        text = f"display {display.type} opens a window, and there is no graphical session here"
        yield f"{text} (neither DISPLAY nor WAYLAND_DISPLAY is set)", PRIVATE_HINT
    elif display.type == "egl-headless":
        yield from _render_problems(display)
    elif display.type == "dbus":
        yield from _bus_problems(display)


def _missing_type(program: str, name: str, types: tuple[str, ...]) -> tuple[str, str]:
    known = ", ".join([VNC, *(item for item in types if item != NONE)])
    hint = PRIVATE_HINT
    if name in ("gtk", "sdl"):
        hint = f"on Debian and Ubuntu 'apt install {GUI_PACKAGE}' brings it; {hint}"
    return f"{program} has no display type {name!r}; it has {known}", hint


def _vnc_problems(display: Display, project: Path) -> Problems:
    address = display.vnc
    if address is None or display.searches:
        return
    yield from _path_problems(address.path, project) if address.path else _port_problems(address)


def _path_problems(text: str, project: Path) -> Problems:
    size = len(os.fsencode(text))
    if size > SOCKET_PATH_LIMIT:
        limits = f"{size} bytes, and the most is {SOCKET_PATH_LIMIT}"
        yield f"the path of VNC's socket has {limits}: {text}", PRIVATE_HINT
        return
    path = project / text
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        yield f"VNC's socket can't be made in {path.parent}", "name a folder that you can write to"
    elif not os.path.lexists(path):
        return
    elif not stat.S_ISSOCK(path.lstat().st_mode):
        # QEMU would put its socket in the place of whatever is there.
        yield f"VNC's socket would replace {path}", "name a path that is free"
    elif _answers(path):
        yield f"another program listens at VNC's socket {path}", "name a path that is free"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        with suppress(OSError):
            client.connect(os.fspath(path))
            return True
    return False


def _port_problems(address: VncAddress) -> Problems:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        yield f"VNC can't listen on {address.host}: no address of that name is known", None
        return
    for family, kind, protocol, _, place in found:
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(place)
            except OSError as exc:
                yield _explain_bind(address, exc)
                return


def _explain_bind(address: VncAddress, exc: OSError) -> tuple[str, str]:
    where = f"{address.host}:{address.port}"
    if exc.errno == errno.EADDRINUSE:
        hint = f"'ss -lptn sport = :{address.port}' names it; take another number, or \"vnc\""
        return f"VNC can't listen on {where}: another program does", hint
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"VNC can't listen on {where}: this computer has no such address", PRIVATE_HINT
    return f"VNC can't listen on {where}: {exc.strerror}", PRIVATE_HINT


def _render_problems(display: Display) -> Problems:
    named = dict(display.options).get("rendernode")
    nodes = [Path(named)] if named else sorted(DRI.glob("renderD*"))
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        where = named or f"{DRI}/renderD*"
        text = f"display egl-headless needs a graphics card, and none can be opened ({where})"
        yield text, PRIVATE_HINT


def _bus_problems(display: Display) -> Problems:
    options = dict(display.options)
    if "addr" in options or options.get("p2p") == "on":
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.environ.get("DBUS_SESSION_BUS_ADDRESS") or (runtime and Path(runtime, "bus").exists()):
        return
    text = "display dbus joins the bus of a session, and there is none here"
    yield f"{text} (DBUS_SESSION_BUS_ADDRESS is not set)", PRIVATE_HINT
