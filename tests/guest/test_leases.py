"""Books of DHCP servers and the neighbour table, as their owners write them, and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.guest import leases
from qup.guest.leases import Books, Lease, read_neighbours

MAC = "52:54:00:aa:bb:cc"
NOW = 1_800_000_000.0

DNSMASQ = f"""1800000100 {MAC.upper()} 192.168.7.50 web 01:{MAC}
1700000000 {MAC} 192.168.7.40 web *
0 52:54:00:00:00:01 192.168.7.51 * *
nonsense
duid 00:01:00:01
1800000100 {MAC} fd00::5 web 00:01
"""
LIBVIRT = json.dumps(
    [
        {"ip-address": "192.168.122.9", "mac-address": MAC, "expiry-time": 1800000100},
        {"ip-address": "192.168.122.8", "mac-address": MAC, "expiry-time": 1700000000},
        "odd",
    ]
)
DHCPD = f"""# The format of this file is documented in the dhcpd.leases(5) manual page.
lease 10.0.0.7 {{
  starts 2 2026/11/24 06:00:00;
  ends never;
  binding state active;
  hardware ethernet {MAC};
}}
lease 10.0.0.8 {{
  ends 5 2027/01/15 08:00:01;
  binding state active;
  hardware ethernet {MAC};
}}
lease 10.0.0.9 {{
  ends 5 2027/01/15 07:59:59;
  binding state active;
  hardware ethernet {MAC};
}}
lease 10.0.0.7 {{
  ends never;
  binding state free;
  hardware ethernet {MAC};
}}
lease 10.0.0.10 {{
  ends epoch 1800000001; # Fri Jan 15
  hardware ethernet {MAC};
}}
lease 10.0.0.11 {{
  ends epoch
"""
KEA = f"""address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state
10.1.0.5,{MAC},01,3600,1800000100,1,0,0,web,0
10.1.0.6,{MAC},01,3600,1800000100,1,0,0,web,0
10.1.0.6,{MAC},01,3600,1800000100,1,0,0,web,2
10.1.0.7,{MAC}
"""
NETWORKD = json.dumps(
    {
        "BootID": "x",
        "Leases": [
            {
                "Address": [10, 2, 0, 5],
                "HardwareAddress": [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC, *[0] * 10],
                "ExpirationRealtimeUSec": 1_800_000_100_000_000,
            },
            {"Address": [10, 2, 0, 6], "HardwareAddress": [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC]},
            {"Address": [10, 2, 0, 900], "HardwareAddress": [1]},
            {"Address": "10.2.0.7"},
            3,
        ],
    }
)


@pytest.mark.parametrize(
    ("place", "text", "server", "found"),
    [
        ("var/lib/misc/dnsmasq.leases", DNSMASQ, "dnsmasq", ["192.168.7.50"]),
        ("var/lib/misc/dnsmasq.br0.leases", DNSMASQ, "dnsmasq", ["192.168.7.50"]),
        ("var/lib/NetworkManager/dnsmasq-eth1.leases", DNSMASQ, "NetworkManager", ["192.168.7.50"]),
        ("var/lib/libvirt/dnsmasq/virbr0.status", LIBVIRT, "libvirt", ["192.168.122.9"]),
        ("var/lib/dhcp/dhcpd.leases", DHCPD, "ISC dhcpd", ["10.0.0.8", "10.0.0.10"]),
        ("var/lib/kea/kea-leases4.csv", KEA, "Kea", ["10.1.0.5"]),
        (
            "var/lib/systemd/network/dhcp-server-lease/br0",
            NETWORKD,
            "systemd-networkd",
            ["10.2.0.5", "10.2.0.6"],
        ),
    ],
)
def test_books(tmp_path: Path, place: str, text: str, server: str, found: list[str]) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    books = Books(tmp_path)
    seen = list(books.find(MAC, NOW))
    assert list(books.find(MAC, NOW)) == seen
    assert [item.address for item in seen] == found
    assert all(server in item.source and str(path) in item.source for item in seen)
    assert list(books.find("52:54:00:ff:ff:ff", NOW)) == []
    path.write_text("")
    assert list(books.find(MAC, NOW)) == []


def test_a_book_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "var/lib/misc/dnsmasq.leases").mkdir(parents=True)
    (tmp_path / "var/lib/dhcp").mkdir(parents=True)
    (tmp_path / "var/lib/dhcp/dhcpd.leases").symlink_to("nowhere")
    assert list(Books(tmp_path).find(MAC, NOW)) == []


READERS = sorted({reader for reader, _ in leases.BOOKS.values()}, key=lambda item: item.__name__)


@pytest.mark.parametrize("reader", READERS)
@given(text=st.text(max_size=200) | st.sampled_from([DNSMASQ, DHCPD, KEA, LIBVIRT, NETWORKD]))
def test_nothing_breaks_a_reader(reader: leases.Reader, text: str) -> None:
    assert all(isinstance(item, Lease) for item in reader(text))
    assert all(isinstance(item, Lease) for item in reader(text[: len(text) // 2]))


def test_neighbours() -> None:
    table = f"""IP address       HW type     Flags       HW address            Mask     Device
192.168.7.2      0x1         0x2         {MAC}     *        tap0
192.168.7.3      0x1         0x0         00:00:00:00:00:00     *        tap0
192.168.7.4      0x1         0x6         52:54:00:00:00:09     *        tap0
broken
"""
    assert list(read_neighbours(table)) == [
        Lease(MAC, "192.168.7.2"),
        Lease("52:54:00:00:00:09", "192.168.7.4"),
    ]
