"""Which accelerator is usable where, and the reason when it is not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qup.api import Accelerator, Host, Verdict
from qup.builtin import accelerators
from qup.builtin.accelerators import HVF, KVM, WHPX, Tcg, qup_accelerators

QEMU = "qemu-system-x86_64"


@dataclass
class FakeHost:
    system: str = "linux"
    arch: str = "x86_64"
    memory_mib: int = 4096
    accelerators: tuple[str, ...] = ("tcg", "kvm", "hvf", "whpx")
    verdict: Verdict = field(default_factory=lambda: Verdict(True, "it ran"))
    asked: list[tuple[dict[str, str], str]] = field(default_factory=list)

    def which(self, program: str) -> Path | None:
        return Path("/usr/bin") / program

    def qemu_version(self, program: str) -> tuple[int, int, int]:
        return (7, 2, 0)

    def qemu_supports(self, program: str, accelerator: str) -> bool:
        return accelerator in self.accelerators

    def prove(self, program: str, properties: Mapping[str, str], cpu: str) -> Verdict:
        self.asked.append((dict(properties), cpu))
        return self.verdict


@pytest.fixture(autouse=True)
def kvm_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerators, "KVM_DEVICE", str(device))
    return device


def test_order_and_names() -> None:
    found: list[Accelerator] = sorted(qup_accelerators(), key=lambda one: -one.priority)
    assert [(one.name, one.priority) for one in found] == [
        ("kvm", 100),
        ("hvf", 90),
        ("whpx", 80),
        ("tcg", 0),
    ]
    assert all(one.summary for one in found)


def test_plans() -> None:
    assert KVM.plan("x86_64").properties == {"accel": "kvm"}
    assert KVM.plan("x86_64").cpu == "host"
    assert HVF.plan("x86_64").properties == {"accel": "hvf"}
    assert WHPX.plan("x86_64").properties == {"accel": "whpx", "kernel-irqchip": "off"}
    assert Tcg().plan("x86_64").properties == {"accel": "tcg"}
    assert Tcg().plan("x86_64").cpu == "max,-la57"
    assert Tcg().plan("aarch64").cpu == "max"


def test_kvm_is_proved_when_asked() -> None:
    fake = FakeHost()
    host: Host = fake
    verdict = KVM.usable(host, QEMU, "x86_64", prove=False)
    assert (verdict.usable, verdict.reason) == (True, "kvm looks usable, not proved")
    assert fake.asked == []
    assert KVM.usable(host, QEMU, "x86_64", prove=True) == Verdict(True, "it ran")
    assert fake.asked == [({"accel": "kvm"}, "host")]


def test_kvm_that_opens_and_fails_is_not_usable() -> None:
    host = FakeHost(verdict=Verdict(False, "it hangs", "a hint"))
    assert KVM.usable(host, QEMU, "x86_64", prove=True) == Verdict(False, "it hangs", "a hint")


@pytest.mark.parametrize(
    ("host", "arch", "reason"),
    [
        (FakeHost(system="darwin"), "x86_64", "does not exist on darwin"),
        (FakeHost(), "aarch64", "can't run aarch64 guests on x86_64"),
        (FakeHost(accelerators=("tcg",)), "x86_64", "built without kvm"),
    ],
)
def test_objections_come_before_the_proof(host: FakeHost, arch: str, reason: str) -> None:
    verdict = KVM.usable(host, QEMU, arch, prove=True)
    assert not verdict.usable
    assert reason in verdict.reason
    assert host.asked == []


def test_no_device(kvm_device: Path) -> None:
    kvm_device.unlink()
    verdict = KVM.usable(FakeHost(), QEMU, "x86_64", prove=True)
    assert not verdict.usable
    assert "there is no" in verdict.reason
    assert "modprobe" in str(verdict.hint)


def test_device_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    verdict = KVM.usable(FakeHost(), QEMU, "x86_64", prove=True)
    assert not verdict.usable
    assert "may not be opened" in verdict.reason
    assert "usermod -aG kvm" in str(verdict.hint)


def test_device_that_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "open", refuse)
    assert "busy" in KVM.usable(FakeHost(), QEMU, "x86_64", prove=False).reason


def test_others_have_their_system() -> None:
    mac = FakeHost(system="darwin")
    assert HVF.usable(mac, QEMU, "x86_64", prove=True).usable
    assert not WHPX.usable(mac, QEMU, "x86_64", prove=True).usable
    assert WHPX.usable(FakeHost(system="win32"), QEMU, "x86_64", prove=False).usable
    assert mac.asked == [({"accel": "hvf"}, "host")]


def test_emulation_needs_nothing_but_qemu() -> None:
    host = FakeHost(system="plan9", arch="riscv64")
    assert Tcg().usable(host, "qemu-system-aarch64", "aarch64", prove=True).usable
    assert host.asked == []
    without = FakeHost(accelerators=("kvm",))
    assert "built without tcg" in Tcg().usable(without, QEMU, "x86_64", prove=True).reason
