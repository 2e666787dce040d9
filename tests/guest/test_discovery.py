"""Where a guest is: a scripted agent, sources that disagree, addresses that can't be."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup.guest import discovery
from qup.guest.discovery import AGENT, NEIGHBOURS, Finder, read_agent
from qup.guest.leases import Lease

MAC = "52:54:00:aa:bb:cc"


def answer(*addresses: str, mac: str = MAC) -> bytes:
    entries = [{"ip-address-type": "ipv4", "ip-address": it, "prefix": 24} for it in addresses]
    entries.append({"ip-address-type": "ipv6", "ip-address": "fe80::1", "prefix": 64})
    loopback = {
        "name": "lo",
        "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1"}],
    }
    card = {"name": "eth0", "hardware-address": mac.upper(), "ip-addresses": entries}
    return json.dumps({"return": [loopback, card]}).encode() + b"\n"


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> list[Lease]:
    """The neighbour table; and no address is this computer's own."""
    entries: list[Lease] = []
    monkeypatch.setattr(discovery, "neighbours", lambda: entries)
    monkeypatch.setattr(discovery, "is_own_address", lambda address: address == "192.168.7.1")
    return entries


@pytest.fixture
def finder(sandbox: object, tmp_path: Path) -> Iterator[Finder]:
    made = Finder(MAC, tmp_path / "agent", root=tmp_path)
    yield made
    made.close()


def look_until_found(finder: Finder) -> list[tuple[str, str | None]]:
    deadline = time.monotonic() + 10
    while not (places := finder.look(time.monotonic())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [(place.address, place.source) for place in places]


def test_a_guest_agent(finder: Finder) -> None:
    """It gets the question, answers with rubbish, an error, and at last with the addresses."""
    asked = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(b'\xff\xfe{"err\n{"error": {"class": "GenericError"}}\n')
            connection.sendall(answer("10.9.9.9", mac="52:54:00:00:00:01"))
            data = answer("192.168.7.20", "192.168.7.1", "169.254.1.1")
            for start in range(0, len(data), 7):
                connection.sendall(data[start : start + 7])
            connection.recv(1)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(finder.agent))
        listener.listen(1)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        found = look_until_found(finder)
        finder.close()
        thread.join(5)
    assert found == [("192.168.7.20", AGENT), ("169.254.1.1", AGENT)]
    assert b"guest-network-get-interfaces" in asked[0]


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"return": 3}', b'{"return": [3, null]}', b"[" * 100_000,
     b'{"return": [{"hardware-address": "52:54:00:aa:bb:cc", "ip-addresses": 3}]}',
     b'{"return": [{"hardware-address": "52:54:00:aa:bb:cc", "ip-addresses": ["x"]}]}'],
)  # fmt: skip
def test_an_agent_that_talks_nonsense(line: bytes) -> None:
    assert read_agent(line, MAC) == []


def test_sources_in_their_order(finder: Finder, table: list[Lease], tmp_path: Path) -> None:
    table.append(Lease(MAC, "192.168.7.30"))
    assert look_until_found(finder) == [("192.168.7.30", NEIGHBOURS)]
    book = tmp_path / "var/lib/misc/dnsmasq.leases"
    book.parent.mkdir(parents=True)
    book.write_text(f"0 {MAC} 192.168.7.30 web *\n0 {MAC} 192.168.7.31 web *\n")
    found = finder.look(time.monotonic() + 1)
    assert [item.address for item in found] == ["192.168.7.30", "192.168.7.31"]
    assert all("dnsmasq" in str(item.source) for item in found)


def test_what_can_not_be_the_guest(finder: Finder, table: list[Lease]) -> None:
    assert f"no DHCP lease for {MAC}" in finder.describe()
    odd = ("192.168.7.1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "::1", "x")
    table.extend(Lease(MAC, address) for address in odd)
    assert finder.look(time.monotonic()) == ()
    assert "192.168.7.1 (this computer's own address)" in finder.describe()


def test_a_stranger_is_not_asked_again(finder: Finder, table: list[Lease]) -> None:
    table.append(Lease(MAC, "192.168.7.30"))
    (place,) = finder.look(time.monotonic())
    finder.refuse(place, "somebody else")
    assert finder.look(time.monotonic() + 1) == ()
    assert "192.168.7.30 (somebody else)" in finder.describe()
