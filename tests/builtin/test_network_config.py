"""The seed's network-config: nothing for plain machines, and what the others need."""

from __future__ import annotations

from qup.api import Seed
from qup.builtin.network_config import render_network_config
from qup.builtin.seeder_nocloud import NoCloud
from qup.model.network import AddressPlan
from qup.model.plan import NicSeed, SeedPlan
from tests.guest.test_seed import HOST, USER

DHCP = AddressPlan()
FIXED = AddressPlan(
    dhcp=False,
    addresses=("10.1.2.3/24", "fd00::3/64"),
    gateway="10.1.2.1",
    nameservers=("10.1.2.2",),
    search=("example", "test"),
)


def nics(*addresses: AddressPlan) -> tuple[NicSeed, ...]:
    return tuple(NicSeed(f"52:54:00:00:00:0{i}", address) for i, address in enumerate(addresses))


def files_of(plan: SeedPlan) -> dict[str, str]:
    return dict(NoCloud().files(Seed(plan, USER.public, HOST)))


def test_a_plain_machine_needs_none() -> None:
    assert render_network_config(nics(DHCP)) is None
    assert render_network_config(()) is None
    plain = files_of(SeedPlan("id", "web", "me", nics=nics(DHCP)))
    assert plain.keys() == {"meta-data", "user-data"}
    assert "updates" not in plain["user-data"]


def test_further_resolvers() -> None:
    text = render_network_config(nics(AddressPlan(nameservers=("10.0.2.3", "192.0.2.1"))))
    assert text is not None
    assert "route-metric" not in text
    assert (
        '    nameservers:\n      addresses:\n        - "10.0.2.3"\n        - "192.0.2.1"\n' in text
    )


def test_fixed_addresses() -> None:
    assert render_network_config(nics(DHCP, FIXED)) == (
        "version: 2\nethernets:\n"
        '  eth0:\n    match:\n      macaddress: "52:54:00:00:00:00"\n'
        "    dhcp4: true\n"
        '  eth1:\n    match:\n      macaddress: "52:54:00:00:00:01"\n'
        "    dhcp4: false\n"
        '    addresses:\n      - "10.1.2.3/24"\n      - "fd00::3/64"\n'
        '    routes:\n      - to: "0.0.0.0/0"\n        via: "10.1.2.1"\n'
        '    nameservers:\n      addresses:\n        - "10.1.2.2"\n'
        '      search:\n        - "example"\n        - "test"\n'
    )


def test_the_first_card_with_dhcp_has_the_default_route() -> None:
    text = render_network_config(nics(DHCP, DHCP))
    assert text is not None
    assert text.index("route-metric: 100") < text.index("eth1:") < text.index("route-metric: 200")


def test_a_gateway_of_ipv6() -> None:
    text = render_network_config(nics(AddressPlan(False, ("fd00::3/64",), "fd00::1")))
    assert text is not None
    assert 'to: "::/0"\n        via: "fd00::1"' in text


def test_the_network_is_looked_at_at_each_boot_and_users_may_say_otherwise() -> None:
    seed = SeedPlan("id", "web", "me", "#cloud-config\npackages: [vim]", nics(DHCP, FIXED))
    files = files_of(seed)
    assert files["network-config"].startswith("version: 2\n")
    assert "updates:\n  network:\n    when: [boot-new-instance, boot]\n" in files["user-data"]
    assert files["user-data"].endswith("packages: [vim]")
