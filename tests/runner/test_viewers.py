"""Which viewer is opened, with which words; what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qup.runner import viewers
from qup.runner.viewers import Screen, describe_ways, find_command

SOCKET = Screen(path="/run/a b/vnc")
PORT = Screen(host="127.0.0.1", port=5907)
PORT6 = Screen(host="::1", port=5900)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of nothing but what a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "platform", "linux")
    return folder


def install(folder: Path, *names: str, content: str = "#!/bin/sh\n") -> None:
    for name in names:
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "socket", "port", "port6"),
    [
        ("remote-viewer", "vnc+unix:///run/a%20b/vnc", "vnc://127.0.0.1:5907", "vnc://[::1]:5900"),
        ("gvncviewer", "/run/a b/vnc", "127.0.0.1:7", "[::1]:0"),
        ("xtigervncviewer", "/run/a b/vnc", "127.0.0.1::5907", "::1::5900"),
        ("ssvncviewer", "/run/a b/vnc", "127.0.0.1:7", "[::1]:0"),
        ("vncviewer", None, "127.0.0.1::5907", "::1::5900"),
        ("vinagre", None, "vnc://127.0.0.1:5907", "vnc://[::1]:5900"),
        ("krdc", None, "vnc://127.0.0.1:5907", "vnc://[::1]:5900"),
        ("remmina", None, "vnc://127.0.0.1:5907", "vnc://[::1]:5900"),
    ],
)
def test_each_viewer(path: Path, name: str, socket: str | None, port: str, port6: str) -> None:
    install(path, name)
    found = find_command(SOCKET)
    assert found == (None if socket is None else [str(path / name), socket])
    for screen, word in ((PORT, port), (PORT6, port6)):
        command = find_command(screen)
        assert command is not None
        assert (command[0], command[-1]) == (str(path / name), word)


def test_no_viewer(path: Path) -> None:
    assert find_command(SOCKET) is None
    assert find_command(PORT) is None


def test_tigervnc_by_any_name(path: Path) -> None:
    install(path, "vncviewer", content="#!/bin/sh\n# TigerVNC Viewer\n")
    assert find_command(SOCKET) == [str(path / "vncviewer"), SOCKET.path]


def test_one_that_knows_sockets_goes_before_one_that_does_not(path: Path) -> None:
    install(path, "vncviewer", "vinagre", "ssvncviewer")
    assert find_command(SOCKET) == [str(path / "ssvncviewer"), SOCKET.path]
    assert find_command(PORT) == [str(path / "vncviewer"), "127.0.0.1::5907"]


def test_macos_has_a_viewer_for_ports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(path, "open")
    assert find_command(PORT) is None
    monkeypatch.setattr(viewers.sys, "platform", "darwin")
    assert find_command(PORT) == [str(path / "open"), "vnc://127.0.0.1:5907"]
    assert find_command(SOCKET) is None


def test_ways_by_hand() -> None:
    ways = dict(describe_ways(SOCKET))
    assert ways["TigerVNC"] == "vncviewer '/run/a b/vnc'"
    assert "'UNIX-CONNECT:/run/a b/vnc'" in ways["other viewers"]
    assert "bind=127.0.0.1" in ways["other viewers"]
    assert "ssh -L '5909:/run/a b/vnc' " in ways["from elsewhere"]
    assert "ssh -L 5909:127.0.0.1:5907 " in dict(describe_ways(PORT))["from elsewhere"]
