"""What stands in a display's way is said in one line, before anything is started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done
from tests.fakes.world import QUPFILE, World


def refuse(world: World, display: str, *words: str, **env: str) -> str:
    """Start with a display that can't work; returns what was said in one line."""
    quiet = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "DBUS_SESSION_BUS_ADDRESS": "", **env}
    done: Done = world("up", f"--display={display}", *words, env=quiet)
    assert done.code == 5, done
    assert not world.qemus()
    assert not (world.machine / "state.json").exists()
    said = [line for line in done.stderr.splitlines() if not line.startswith(("hint", "default"))]
    assert len(said) == 1, done
    return done.stderr


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


def test_a_type_that_this_qemu_lacks(world: World) -> None:
    said = refuse(world, "gtk", DISPLAY=":0")
    assert "no display type 'gtk'; it has vnc, egl-headless" in said
    assert "qemu-system-gui" in said
    assert "no display type 'web'" in refuse(world, "web")


def test_what_needs_more_than_qemu(world: World) -> None:
    env = {"FAKE_DISPLAYS": "none gtk spice-app dbus egl-headless"}
    assert "no graphical session" in refuse(world, "gtk", **env)
    assert "no graphical session" in refuse(world, "spice-app", **env)
    assert "no session" not in refuse(world, "dbus", **env)
    said = refuse(world, "egl-headless,rendernode=/dev/no-such-card", **env)
    assert "/dev/no-such-card" in said


def test_a_port_that_is_taken(world: World, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    number = port - 5900
    if number < 0:
        pytest.skip("the port that was free is too low")
    for host in ("127.0.0.1", "localhost", "", "0.0.0.0"):
        said = refuse(world, f"vnc={host}:{number}")
        assert f":{port}: another program does" in said
        assert "ss -lptn" in said
    assert "no such address" in refuse(world, f"vnc=192.0.2.1:{number}")
    assert "no address of that name" in refuse(world, f"vnc=no-such-host.invalid:{number}")


def test_sockets_that_can_not_be(world: World, tmp_path: Path) -> None:
    said = refuse(world, f"vnc=unix:/tmp/{'x' * 120}")
    assert "125 bytes, and the most is 107" in said
    precious = tmp_path / "precious"
    precious.write_text("kept")
    assert f"would replace {precious}" in refuse(world, f"vnc=unix:{precious}")
    assert precious.read_text() == "kept"
    assert "can't be made" in refuse(world, "vnc=unix:/no/such/folder/vnc")
    with socket.socket(socket.AF_UNIX) as other:
        os.chdir(tmp_path)
        other.bind("vnc")
        other.listen()
        assert "another program listens" in refuse(world, f"vnc=unix:{tmp_path}/vnc")


def test_curses_is_refused_where_it_is_written(world: World) -> None:
    done = world("up", "--display", "curses")
    assert done.code == 4, done
    assert "nographic" in done.stderr
    assert not world.qemus()


def test_a_stranger_needs_trust(world: World) -> None:
    (world.folder / "Qupfile").write_text(QUPFILE + '[machine.qemu]\ndisplay = "vnc=0.0.0.0:77"\n')
    done = world("up")
    assert done.code == 4, done
    assert "other computers can reach it" in done.stderr
    assert not world.qemus()
    world("trust").ok()
    done = world("up").ok()
    assert "warning: VNC listens on 0.0.0.0:5977 and asks for no password" in done.stderr
    world("down").ok()


def test_a_window_is_not_for_viewers(world: World) -> None:
    world("up", "--display", "gtk", env={"DISPLAY": ":0", "FAKE_DISPLAYS": "none gtk"}).ok()
    refused = world("view")
    assert refused.code == 9, refused
    assert "has the display gtk, which QEMU shows by itself" in refused.stderr
    world("down").ok()


def test_what_runs_says_what_differs(world: World) -> None:
    def changes(*words: str, **env: str) -> str:
        done = world("up", *words, env={"DISPLAY": "", "WAYLAND_DISPLAY": "", **env}).ok()
        return done.stderr

    assert "its display is vnc" in changes("--display")
    assert "changed" not in changes("--display")
    # Another terminal would get another display; the machine has one, and that is enough.
    window: dict[str, Any] = {"DISPLAY": ":0", "FAKE_DISPLAYS": "none gtk"}
    assert "changed" not in changes("--display", **window)
    assert "qemu.display: vnc -> none" in changes()
    assert "qemu.display: vnc -> vnc=127.0.0.1:3" in changes("--display", "vnc=:3")
    world("down").ok()


def test_its_own_port_is_not_in_a_reloads_way(world: World) -> None:
    with socket.socket() as taken:  # as the machine that runs would hold it
        world("up", "--display", "vnc=127.0.0.1:56").ok()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 5956))
        taken.listen()
        refused = world("reload", "--display", "vnc=127.0.0.1:57,share=ignore", "--memory", "9T")
        assert "VNC" not in refused.stderr, refused
        refused = world("reload", "--display", "vnc=127.0.0.1:56", "--memory", "9T")
        assert "VNC" not in refused.stderr, refused
        refused = world("reload", "--display", "vnc=127.0.0.1:56,share=ignore", "--memory", "3T")
        assert "127.0.0.1:5956" in refused.stderr, refused
    world("down").ok()
