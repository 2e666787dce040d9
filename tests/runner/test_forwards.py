"""Forwards of a running machine, against a monitor that keeps them as QEMU does."""

from __future__ import annotations

import pytest

from qup.errors import MachineError
from qup.model.network import parse_forward
from qup.runner.forwards import add_forward


class FakeMonitor:
    """Lists one forward, 127.0.0.1:8080 to port 80, and takes every other."""

    def __init__(self) -> None:
        self.added: list[str] = []

    def hmp(self, command_line: str, *, timeout: float = 5.0) -> str:
        if command_line == "info usernet":
            return "  TCP[HOST_FORWARD]  12  127.0.0.1  8080  10.0.2.15  80  0  0\n"
        self.added.append(command_line)
        return ""


@pytest.mark.parametrize("rule", ["127.0.0.2:8080:81", "8080:81/udp", "8081:81"])
def test_another_address_protocol_or_port_is_another_place(rule: str) -> None:
    monitor = FakeMonitor()
    forward = parse_forward(rule)
    assert add_forward(monitor, forward) == forward
    assert len(monitor.added) == 1


@pytest.mark.parametrize("rule", ["8080:81", "0.0.0.0:8080:81"])
def test_the_same_place_is_refused_without_asking_qemu(rule: str) -> None:
    monitor = FakeMonitor()
    with pytest.raises(MachineError, match="open already"):
        add_forward(monitor, parse_forward(rule))
    assert monitor.added == []
