"""Machines of one project on networks that they share: addresses, and who is where."""

from __future__ import annotations

import pytest

from qup import qupfile
from qup.builtin.network_bridge import BridgeNetwork
from qup.builtin.network_private import PrivateNetwork, default_address
from qup.builtin.network_tap import TapNetwork
from qup.builtin.network_user import UserNetwork
from qup.model.config import Config
from qup.qupfile import QupfileErrors
from qup.runner.peers import BEGIN, END, render_block
from qup.testing import make_plan
from tests.qupfile_registry import FakeRegistry

REGISTRY = FakeRegistry(
    network_modes={
        "user": UserNetwork(),
        "private": PrivateNetwork(),
        "tap": TapNetwork(),
        "bridge": BridgeNetwork(),
    }
)
SHARED = '[[machine.networks]]\nmode = "private"\n'


def load(text: str) -> Config:
    return qupfile.load(qupfile.parse(text.encode()), registry=REGISTRY)


def refused(text: str) -> tuple[str, str]:
    """Where the one problem is with its message, and its hint."""
    with pytest.raises(QupfileErrors) as caught:
        load(text)
    (problem,) = caught.value.problems
    return f"{problem.line}:{problem.col} {problem.message}", problem.hint or ""


def card(name: str, more: str = "") -> str:
    return f'[[machines.{name}.networks]]\nmode = "private"\n{more}\n'


# --- addresses ------------------------------------------------------------------------------


def test_addresses_don_t_depend_on_the_order_of_machines() -> None:
    one, other = (
        load(SHARED + text)
        for text in ("[machines.a]\n[machines.b]", "[machines.c]\n[machines.b]\n[machines.a]")
    )
    assert set(one.machines["a"].seats) < set(other.machines["a"].seats)


def test_a_collision_is_refused_and_a_free_address_offered() -> None:
    said, hint = refused(
        card("a", 'address = "10.128.0.1/16"') + card("b", 'address = "10.128.0.1"')
    )
    assert said == "6:11 10.128.0.1 on the network 'default' is machine 'a''s already"
    assert hint.endswith('address = "10.128.0.2/16"')


def test_a_collision_of_names_is_refused_where_the_card_is() -> None:
    taken = default_address("default", "b")
    said, _ = refused(card("b") + card("a", f'address = "{taken}"'))
    assert said.startswith("6:11 ")
    said, _ = refused(card("a", f'address = "{taken}"') + card("b"))
    assert said.startswith("4:1 ")


def test_one_address_for_all_machines_is_none() -> None:
    said, _ = refused(SHARED + 'address = "10.128.0.1/16"\n[machines.a]\n[machines.b]\n')
    assert said.startswith("3:11 10.128.0.1 on the network")


def test_the_same_address_on_two_networks_is_fine() -> None:
    load(card("a", 'address = "10.1.0.1/24"') + card("b", 'address = "10.1.0.1/24"\nname = "lab"'))


def test_one_network_is_one_subnet() -> None:
    said, hint = refused(card("a") + card("b", 'address = "10.1.0.1/24"'))
    assert "10.1.0.1/24 is not in 10.128.0.0/16, where machine 'a' is" in said
    assert "same subnet" in hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (card("a") * 2, "4:1 this card and another card would both be in the network 10.128"),
        (card("a", 'address = "10.0.2.77/24"'),
         "3:11 this card and [machine.network] would both be in the network 10.0.2.0/24"),
        (card("a", 'address = "10.1.0.1/16"') + card("a", 'name = "x"\naddress = "10.1.9.1/24"'),
         "7:11 this card and another card would both be"),
    ],
)  # fmt: skip
def test_two_cards_of_a_machine_in_one_network_are_refused(text: str, said: str) -> None:
    assert refused(text)[0].startswith(said)


def test_an_option_of_another_mode_is_called_that() -> None:
    said, hint = refused('[machine.network]\nmode = "private"\nforwards = ["8080:80"]\n')
    assert said == "3:1 unknown key 'forwards'"
    assert hint == "'forward' is for another mode; known here: address, mode, name"


# --- taps -------------------------------------------------------------------------------------

TAPS = '[machine.network]\nmode = "tap"\n'


def test_a_tap_leads_to_one_card() -> None:
    two = "[machines.a]\n[machines.b]\n"
    said, hint = refused(TAPS + two)
    assert said == "1:1 the tap tap0 is machine 'a''s already"
    assert "name another interface" in hint
    named = TAPS + 'interface = "vm0"\n'
    assert refused(named + two)[0] == "3:13 the tap vm0 is machine 'a''s already"
    own = '[machines.b]\nnetwork.interface = "vm0"\n'
    assert refused(named + "[machines.a]\n" + own)[0].startswith("6:21 ")
    load(TAPS + "[machines.a]\n" + own)
    second = '[[machine.networks]]\nmode = "tap"\n'
    assert refused(TAPS + second)[0] == "3:1 the tap tap0 is machine 'default''s already"


def test_taps_that_are_made_for_a_bridge_are_many() -> None:
    load('[machine.network]\nmode = "bridge"\n[machines.a]\n[machines.b]\n')


# --- plans ------------------------------------------------------------------------------------


def test_a_machine_without_another_way_in_gets_one_for_ssh_alone() -> None:
    plan = make_plan('[machine.network]\nmode = "private"\n')
    assert [nic.mode for nic in plan.nics] == ["private", "ssh"]
    assert plan.ssh_nic == 1
    assert plan.nics[1].plan.netdev["restrict"] == "on"
    assert len(plan.seed.nics) == 2


def test_ssh_goes_through_the_first_card_that_leads_in() -> None:
    plan = make_plan('[machine.network]\nmode = "private"\n[[machine.networks]]\n')
    assert [nic.mode for nic in plan.nics] == ["private", "user"]
    assert plan.ssh_nic == 1
    plan = make_plan('[[machine.networks]]\nmode = "private"\n')
    assert plan.ssh_nic == 0


# --- names --------------------------------------------------------------------------------------


def test_a_guest_learns_who_is_on_a_network_with_it() -> None:
    config = load(
        '[[machine.networks]]\nmode = "private"\n'
        '[machines.web]\nhostname = "www.example"\n[machines.db]\n'
        "[machines.alone]\nnetworks = []\n"
        '[[machines.lab.networks]]\nmode = "private"\nname = "lab"\n'
    )
    seats = config.machines["web"].seats
    address = default_address("default", "web").partition("/")[0]
    assert render_block("db", seats) == f"{BEGIN}\n{address} www.example web web.default\n{END}\n"
    assert render_block("alone", seats) == render_block("lab", seats) == ""


def test_who_is_met_twice_has_a_plain_name_once() -> None:
    text = "".join(card(name) + card(name, 'name = "lab"') for name in ("a", "b"))
    block = render_block("a", load(text).machines["a"].seats)
    assert [line.split()[1:] for line in block.splitlines()[1:-1]] == [
        ["b", "b.default"],
        ["b.lab"],
    ]
