"""What is said of a cable that is loose, and of a guest that has gone silent."""

from __future__ import annotations

import socket

import pytest

from qup.model.state import Launch, TapLink
from qup.runner import links


def launch(*taps: TapLink) -> Launch:
    return Launch("boot", "now", "plan", "/run", taps=taps)


def test_cables(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    bridges: dict[str, str] = {}
    monkeypatch.setattr(links, "exists", lambda name: name in there)
    monkeypatch.setattr(links, "bridge_of", bridges.get)
    joined = launch(TapLink("vm0", "br0"))
    assert links.find_trouble(launch()) is None
    assert "no interface vm0" in str(links.find_trouble(joined))
    there.add("vm0")
    assert links.find_trouble(launch(TapLink("vm0"))) is None
    assert "bridge br0 is gone" in str(links.find_trouble(joined))
    there.add("br0")
    assert "vm0 is not on the bridge br0" in str(links.find_trouble(joined))
    bridges["vm0"] = "br0"
    assert links.find_trouble(joined) is None


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        port = server.getsockname()[1]
        here = Launch("", "", "", "", "127.0.0.1", port, True, "guest agent")
        assert links.find_silence(here) is None
        # A forward's port always answers: it says nothing about the guest.
        assert links.find_silence(Launch("", "", "", "", "127.0.0.1", 1, True)) is None
    assert "refuses connections" in str(links.find_silence(here))
    assert links.find_silence(launch()) is None
