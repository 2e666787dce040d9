"""Programs that show a VNC display, each with its own way to name one."""

from __future__ import annotations

import getpass
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from qup.model.display import VNC_PORT

SPARE_DISPLAY = 9
"""The display number that instructions use on the viewer's side, where 0 is likely taken."""
SPARE_PORT = VNC_PORT + SPARE_DISPLAY
TIGER = b"TigerVNC"


class Screen(NamedTuple):
    """Where VNC listens: at the path of a socket, or at an address and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def url(self) -> str:
        """What most viewers for TCP understand."""
        return f"vnc://{self._host}:{self.port}"

    @property
    def display(self) -> str:
        """In the notation of X: port 5900 is display 0."""
        return f"{self._host}:{self.port - VNC_PORT}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class Viewer(NamedTuple):
    """A viewer's program, and its words for a socket (None: it can't) and for a port."""

    program: str
    at_path: Callable[[str], list[str]] | None
    at_port: Callable[[Screen], list[str]]


VIEWERS = (
    Viewer("remote-viewer", lambda path: [f"vnc+unix://{quote(path)}"], lambda at: [at.url]),
    Viewer("gvncviewer", lambda path: [path], lambda at: [at.display]),
    Viewer("xtigervncviewer", lambda path: [path], lambda at: [f"{at.host}::{at.port}"]),
    Viewer("vncviewer", lambda path: [path], lambda at: [f"{at.host}::{at.port}"]),
    Viewer("ssvncviewer", lambda path: [path], lambda at: [at.display]),
    Viewer("vinagre", None, lambda at: [at.url]),
    Viewer("krdc", None, lambda at: [at.url]),
    Viewer("remmina", None, lambda at: ["-c", at.url]),
)
"""Best first: those that show a socket, and scale and share the clipboard, before the others.
Sources: remote-viewer(1), gvncviewer(1), xtigervncviewer(1), ssvncviewer(1), vinagre(1),
remmina(1)."""
MACOS = Viewer("open", None, lambda at: [at.url])


def find_command(screen: Screen) -> list[str] | None:
    """The words that open a viewer which is installed here; None if none can show this."""
    for viewer in (*VIEWERS, *((MACOS,) if sys.platform == "darwin" else ())):
        program = shutil.which(viewer.program)
        if program is None:
            continue
        if not screen.path:
            return [program, *viewer.at_port(screen)]
        if viewer.at_path and (viewer.program != "vncviewer" or _is_tiger(Path(program))):
            return [program, *viewer.at_path(screen.path)]
    return None


def _is_tiger(program: Path) -> bool:
    """Whether a ``vncviewer`` is TigerVNC's: of those that have the name, only it knows sockets."""
    try:
        return TIGER in program.read_bytes()
    except OSError:
        return False


def describe_ways(screen: Screen) -> list[tuple[str, str]]:
    """How to get to a display by hand: for whom, and what to type."""
    account = f"{getpass.getuser()}@{socket.gethostname()}"
    then = f"then a viewer for localhost:{SPARE_DISPLAY} (port {SPARE_PORT})"
    if not screen.path:
        inner = "127.0.0.1" if screen.host in ("0.0.0.0", "::") else screen.host  # noqa: S104
        tunnel = shlex.join(["ssh", "-L", f"{SPARE_PORT}:{inner}:{screen.port}", account])
        return [
            ("any viewer", f"vncviewer {screen.host}::{screen.port}"),
            ("from elsewhere", f"{tunnel}, {then}"),
        ]
    listen = f"TCP-LISTEN:{SPARE_PORT},bind=127.0.0.1,reuseaddr,fork"
    bridge = shlex.join(["socat", listen, f"UNIX-CONNECT:{screen.path}"])
    tunnel = shlex.join(["ssh", "-L", f"{SPARE_PORT}:{screen.path}", account])
    path = shlex.quote(screen.path)
    return [
        ("virt-viewer", f"remote-viewer {shlex.quote('vnc+unix://' + quote(screen.path))}"),
        ("TigerVNC", f"vncviewer {path}"),
        ("gtk-vnc", f"gvncviewer {path}"),
        ("other viewers", f"{bridge}, {then}"),
        ("from elsewhere", f"{tunnel}, {then}"),
    ]
