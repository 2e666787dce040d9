"""What runs a guest's instructions: KVM, HVF and WHPX on hardware, TCG in software.

Each looks cheaply first; what looks good is then proved by a tiny guest (``Host.prove``),
because a device that opens and a library that loads have been seen to promise too much.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

from qup.api import Accelerator, AcceleratorPlan, Host, Verdict, hookimpl

KVM_DEVICE = "/dev/kvm"


@dataclass(frozen=True)
class Hardware:
    """An accelerator that needs a host of the guest's own architecture.

    Attributes:
        name: its word in the Qupfile, and QEMU's name for it.
        summary: one line for lists and docs.
        priority: its place in the order of ``auto``.
        system: the operating system that has it, as :data:`sys.platform` names it.
        cpu: the CPU model for ``cpu = "auto"``.
        properties: of ``-accel``, besides its name.
    """

    name: str
    summary: str
    priority: int
    system: str
    cpu: str
    properties: tuple[tuple[str, str], ...] = ()

    def usable(self, host: Host, program: str, arch: str, *, prove: bool) -> Verdict:
        """Look at the system, the architecture, QEMU and the device; then prove it."""
        objection = self._objection(host, program, arch)
        if objection is not None:
            return objection
        if not prove:
            return Verdict(True, f"{self.name} looks usable, not proved")
        plan = self.plan(arch)
        return host.prove(program, plan.properties, plan.cpu)

    def plan(self, arch: str) -> AcceleratorPlan:  # noqa: ARG002  the same for every one
        return AcceleratorPlan(self.name, {"accel": self.name, **dict(self.properties)}, self.cpu)

    def _objection(self, host: Host, program: str, arch: str) -> Verdict | None:
        if host.system != self.system:
            return Verdict(False, f"{self.name} does not exist on {host.system}")
        if host.arch != arch:
            return Verdict(False, f"{self.name} can't run {arch} guests on {host.arch}")
        if not host.qemu_supports(program, self.name):
            return Verdict(
                False,
                f"{program} was built without {self.name}",
                "install your system's own QEMU package",
            )
        return look_at_kvm() if self.name == "kvm" else None


@dataclass(frozen=True)
class Tcg:
    """Emulation: works everywhere, for guests of every architecture, slowly."""

    name: str = "tcg"
    summary: str = "emulation in software: works everywhere, slow"
    priority: int = 0

    def usable(
        self,
        host: Host,
        program: str,
        arch: str,  # noqa: ARG002  every one can be emulated
        *,
        prove: bool,  # noqa: ARG002  nothing to prove
    ) -> Verdict:
        """Look whether QEMU has it; a distribution may leave it out."""
        if not host.qemu_supports(program, self.name):
            return Verdict(
                False, f"{program} was built without tcg", "install your system's full QEMU package"
            )
        return Verdict(True, "emulation works everywhere")

    def plan(self, arch: str) -> AcceleratorPlan:
        # QEMU's own choices of thread= and tb-size= are right: it knows which hosts are safe for
        # threads, and other sizes gained nothing. Page tables of five levels (la57) help nobody
        # and cost an emulated Linux a tenth of its boot.
        return AcceleratorPlan(
            self.name, {"accel": "tcg"}, "max,-la57" if arch == "x86_64" else "max"
        )


KVM = Hardware("kvm", "Linux's hypervisor", 100, "linux", "host")
HVF = Hardware("hvf", "the hypervisor of macOS", 90, "darwin", "host")
WHPX = Hardware(
    "whpx", "the hypervisor of Windows", 80, "win32", "qemu64", (("kernel-irqchip", "off"),)
)


@hookimpl
def qup_accelerators() -> Iterable[Accelerator]:
    return [KVM, HVF, WHPX, Tcg()]


def look_at_kvm() -> Verdict | None:
    """Why ``/dev/kvm`` can't be opened; None when it can."""
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return _refused(exc)
    return None


def _refused(exc: OSError) -> Verdict:
    match exc.errno:
        case errno.ENOENT:
            return Verdict(
                False,
                f"there is no {KVM_DEVICE}",
                "switch virtualisation on in the firmware, then 'modprobe kvm_intel' or kvm_amd",
            )
        case errno.EACCES | errno.EPERM:
            return Verdict(
                False,
                f"{KVM_DEVICE} may not be opened by you",
                "add yourself to its group: 'sudo usermod -aG kvm $USER', then log in again",
            )
        case _:
            return Verdict(False, f"{KVM_DEVICE} can't be opened: {exc.strerror}")
