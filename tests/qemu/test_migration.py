"""Saving and loading a guest's state, against a QEMU that can do less."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qup.qemu.migration import MigrationError, load_state, save_state
from qup.qemu.qmp import CommandFailed, MonitorClosed, QmpEvent


@dataclass
class FakeMonitor:
    """Refuses the capabilities in ``lacks``; dies of the command ``deadly``."""

    lacks: tuple[str, ...] = ()
    deadly: str = ""
    ends: str = "completed"
    asked: list[str] = field(default_factory=list)
    enabled: dict[str, bool] = field(default_factory=dict)

    def execute(
        self, command: str, arguments: dict[str, Any] | None = None, **_: object
    ) -> dict[str, str]:
        self.asked.append(command)
        if command == self.deadly:
            raise MonitorClosed("QEMU hung up")
        for item in (arguments or {}).get("capabilities", ()):
            if item["capability"] in self.lacks:
                text = f"Parameter 'capability' does not accept {item['capability']!r}"
                raise CommandFailed(command, "GenericError", text)
            self.enabled[item["capability"]] = item["state"]
        return {"status": "postmigrate", "error-desc": "out of luck"}

    def wait(self, deadline: float) -> QmpEvent | None:
        del deadline
        return QmpEvent("MIGRATION", {"status": self.ends}, 0.0)


def test_a_qemu_that_can_not_leave_memory_out_makes_no_template(tmp_path: Path) -> None:
    monitor = FakeMonitor(lacks=("x-ignore-shared",))
    with pytest.raises(MigrationError, match="QEMU can't do it: .*x-ignore-shared"):
        save_state(monitor, tmp_path / "state", timeout=5)
    assert "stop" not in monitor.asked  # the guest goes on


def test_but_snapshots_of_all_of_it(tmp_path: Path) -> None:
    monitor = FakeMonitor(lacks=("x-ignore-shared",))
    save_state(monitor, tmp_path / "memory", timeout=5, whole=True)
    assert monitor.asked[-3:] == ["stop", "migrate", "query-status"]
    load_state(monitor, tmp_path / "memory", timeout=5, whole=True)


def test_a_restored_guest_is_saved_as_a_whole(tmp_path: Path) -> None:
    monitor = FakeMonitor()
    (tmp_path / "state").touch()
    load_state(monitor, tmp_path / "state", timeout=5)
    assert monitor.enabled["x-ignore-shared"]
    save_state(monitor, tmp_path / "memory", timeout=5, whole=True)
    assert not monitor.enabled["x-ignore-shared"]


@pytest.mark.parametrize(
    ("monitor", "word"),
    [
        (FakeMonitor(deadly="migrate"), "did not survive it"),
        (FakeMonitor(ends="failed"), "QEMU failed: out of luck"),
    ],
)
def test_what_can_go_wrong_is_said(monitor: FakeMonitor, word: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=word):
        save_state(monitor, tmp_path / "state", timeout=5)
