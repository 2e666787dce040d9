"""``qemu.display``: what is read, what it becomes, what is refused, and what needs trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.model.display import (
    Display,
    VncAddress,
    explain_distrust,
    explain_exposure,
    parse_display,
)
from qup.qupfile import QupfileErrors, Untrusted, load, parse, untrusted
from tests.qupfile_registry import FakeRegistry


@pytest.mark.parametrize(
    ("text", "display", "again"),
    [
        ("none", Display("none"), "none"),
        ("auto", Display("auto"), "auto"),
        ("vnc", Display("vnc"), "vnc"),
        ("vnc,share=ignore", Display("vnc", None, (("share", "ignore"),)), "vnc,share=ignore"),
        ("vnc=localhost:0", Display("vnc", "localhost:0"), "vnc=localhost:0"),
        ("vnc=:1", Display("vnc", "127.0.0.1:1"), "vnc=127.0.0.1:1"),
        ("vnc=0.0.0.0:01", Display("vnc", "0.0.0.0:1"), "vnc=0.0.0.0:1"),
        ("vnc=[::1]:3,to=9", Display("vnc", "[::1]:3", (("to", "9"),)), "vnc=[::1]:3,to=9"),
        ("vnc=unix:/a,,b", Display("vnc", "unix:/a,b"), "vnc=unix:/a,,b"),
        ("vnc=none", Display("vnc", "none"), "vnc=none"),
        ("gtk", Display("gtk"), "gtk"),
        (
            "gtk,full-screen,gl=off",
            Display("gtk", None, (("full-screen", "on"), ("gl", "off"))),
            "gtk,full-screen=on,gl=off",
        ),
        ("spice-app", Display("spice-app"), "spice-app"),
        ("a-new-one,x=y,,z", Display("a-new-one", None, (("x", "y,z"),)), "a-new-one,x=y,,z"),
    ],
)
def test_what_is_read(text: str, display: Display, again: str) -> None:
    assert parse_display(text) == display
    assert str(display) == again
    assert parse_display(again) == display


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with a type"),
        ("help", "begins with a type"),
        ("gtk,help", "not an option"),
        ("vnc=help", "not an address"),
        ("-gtk", "begins with a type"),
        ("GTK", "begins with a type"),
        ('{"type": "gtk"}', "begins with a type"),
        ("gtk\n-monitor stdio", "one line"),
        ("gtk\0", "one line"),
        ("g" * 2000, "one line"),
        ("curses", "nographic"),
        ("gtk=localhost:0", "takes no address"),
        ("none,x=y", "takes no options"),
        ("auto,gl=on", "takes no options"),
        ("gtk,", "not an option"),
        ("gtk,=x", "not an option"),
        ("vnc=", "not an address"),
        ("vnc=localhost", "not an address"),
        ("vnc=localhost:", "not an address"),
        ("vnc=localhost:-1", "not an address"),
        ("vnc=localhost:１", "not an address"),
        ("vnc=local host:1", "not an address"),
        ("vnc=unix:", "not an address"),
        ("vnc=localhost:59636", "at most 59635"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_display(text)


@given(
    st.text(max_size=60) | st.from_regex(r"(vnc|gtk)(=[a-z:0-9,]*)?(,[a-z=,]*)?", fullmatch=True)
)
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        display = parse_display(text)
    except ValueError:
        return
    assert parse_display(str(display)) == display
    explain_distrust(display)
    explain_exposure(display)


def test_addresses() -> None:
    assert parse_display("vnc").vnc is None
    assert parse_display("vnc=none").vnc is None
    assert parse_display("gtk").vnc is None
    assert parse_display("vnc=unix:/x").vnc == VncAddress(path="/x")
    assert parse_display("vnc=[::1]:2").vnc == VncAddress(host="::1", port=5902)
    assert parse_display("vnc=h:5500,reverse=on").vnc == VncAddress(host="h", port=5500)


@pytest.mark.parametrize(
    "text",
    [
        "none", "auto", "vnc", "vnc,share=force-shared", "vnc=localhost:0", "vnc=:7",
        "vnc=127.0.0.1:1,to=9", "vnc=[::1]:1", "vnc=none", "gtk", "sdl,window-close=off", "cocoa",
    ],
)  # fmt: skip
def test_harmless(text: str) -> None:
    assert explain_distrust(parse_display(text)) is None
    assert explain_exposure(parse_display(text)) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vnc=0.0.0.0:0", "other computers"),
        ("vnc=[::]:0", "other computers"),
        ("vnc=db.example.org:0", "other computers"),
        ("vnc=unix:/home/me/.ssh/authorized_keys", "a file of the host"),
        ("vnc=unix:x", "a file of the host"),
        ("vnc=localhost:5500,reverse=on", "connects"),
        ("vnc=localhost:0,websocket=on", "'websocket'"),
        ("vnc,websocket=5700", "'websocket'"),
        ("vnc,tls-creds=x", "'tls-creds'"),
        ("gtk,gl=on", "'gl'"),
        ("spice-app", "starts a viewer"),
        ("dbus,addr=unix:path=/x", "bus"),
        ("egl-headless,rendernode=/dev/sda", "graphics card"),
        ("a-new-one", "does not know"),
    ],
)
def test_what_needs_trust(text: str, reason: str) -> None:
    assert reason in str(explain_distrust(parse_display(text)))


def test_exposure() -> None:
    assert "0.0.0.0:5903" in str(explain_exposure(parse_display("vnc=0.0.0.0:3")))
    assert explain_exposure(parse_display("vnc=0.0.0.0:3,sasl=on")) is None


# --- in a Qupfile -----------------------------------------------------------------------------


def read(text: str, **more: object) -> object:
    return load(parse(text.encode()), registry=FakeRegistry(), **more)  # type: ignore[arg-type]


def display_of(text: str, **more: object) -> str:
    config = read(f"[machine.qemu]\n{text}", **more)
    return config.machines["default"].settings.qemu.shown_at  # type: ignore[attr-defined,no-any-return]


def test_three_ways() -> None:
    assert display_of("") == "none"
    assert display_of("display = true") == "auto"
    assert display_of("display = false") == "none"
    assert display_of('display = "vnc=:2"') == "vnc=127.0.0.1:2"
    assert display_of('display = "gtk"', environment={"QUP_DISPLAY": "vnc"}) == "vnc"
    assert display_of("", environment={"QEMU_DISPLAY_TYPE": "sdl"}) == "sdl"
    said: dict[str, object] = {"overrides": {"qemu.display": "none"}}
    assert display_of('display = "gtk"', environment={"QUP_DISPLAY": "vnc"}, **said) == "none"


def test_nographic_has_no_display() -> None:
    assert display_of('display = "gtk"\nnographic = true') == "none"
    assert display_of('display = "gtk"', environment={"QUP_NOGRAPHIC": "yes"}) == "none"


def test_a_wrong_one_has_a_place() -> None:
    with pytest.raises(QupfileErrors) as caught:
        read('[machine.qemu]\ndisplay = "curses"')
    assert "Qupfile:2" in str(caught.value.details)
    assert "nographic" in str(caught.value.details)
    with pytest.raises(QupfileErrors):
        read("[machine.qemu]\ndisplay = 5")


def test_two_machines_at_one_place() -> None:
    text = "[machines.{}.qemu]\ndisplay = {!r}\n"
    for one, other in (
        ("vnc=localhost:0", "vnc=:0"),
        ("vnc=0.0.0.0:4", "vnc=127.0.0.1:4"),
        ("vnc=unix:/a", "vnc=unix:/a"),
    ):
        with pytest.raises(QupfileErrors) as caught:
            read(text.format("a", one) + text.format("b", other))
        assert "same place for VNC" in str(caught.value.details)
    for one, other in (
        ("vnc", "vnc"),
        ("vnc=:0", "vnc=:1"),
        ("vnc=:0,to=9", "vnc=:0,to=9"),
        ("vnc=127.0.0.1:0", "vnc=[::1]:0"),
    ):
        read(text.format("a", one) + text.format("b", other))


def find_risks(config: Any) -> list[Untrusted]:
    return untrusted(config, {}, Path("/project"))


def test_a_guest_gets_the_terminal_of_those_who_said_so() -> None:
    (item,) = find_risks(read("[machine.qemu]\nnographic = true"))
    assert item.key == "qemu.nographic"
    own_word = read("[machine.qemu]", environment={"QUP_NOGRAPHIC": "1"})
    assert find_risks(own_word) == []
    assert find_risks(read("[machine.qemu]\nnographic = false")) == []


def test_trust() -> None:
    config = read('[machine.qemu]\ndisplay = "vnc=0.0.0.0:0"')
    (item,) = find_risks(config)
    assert item.key == "qemu.display"
    assert "other computers" in item.description
    own_word = read("[machine.qemu]", environment={"QUP_DISPLAY": "vnc=0.0.0.0:0"})
    assert find_risks(own_word) == []
