"""Words of the user's on QEMU's command line that concern the guest alone. Pure: no I/O.

Most options are about this computer: files, sockets, devices. A golden machine that was started
with them would meet what is there at that moment, or change it. A few only say what hardware a
guest sees: they are a part of a template's key like all other hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

DEVICES = frozenset(
    {
        *("virtio-balloon-pci", "virtio-balloon", "virtio-rng-pci", "virtio-rng"),
        *("virtio-keyboard-pci", "virtio-mouse-pci", "virtio-tablet-pci"),
        *("qemu-xhci", "usb-kbd", "usb-mouse", "usb-tablet"),
        *("pvpanic", "pvpanic-pci", "i6300esb", "pcie-root-port"),
    }
)
"""Devices that need nothing of this computer, and whose state QEMU saves."""
OPTIONS = ("device", "smbios", "fw_cfg", "global")
ELSEWHERE = ("file", "path", "filename", "chardev", "netdev", "drive", "rng", "romfile")
"""Properties that name something outside of the guest."""


def find_stranger(words: Sequence[str]) -> str | None:
    """The first word that may be about more than the guest; None if there is none."""
    rest = list(words)
    while rest:
        option = rest.pop(0)
        if option.lstrip("-") not in OPTIONS or not rest:
            return option
        first, *properties = rest.pop(0).split(",")
        if option.lstrip("-") == "device" and first.removeprefix("driver=") not in DEVICES:
            return f"{option} {first}"
        for item in (first, *properties):
            if item.partition("=")[0].rpartition(".")[2] in ELSEWHERE:
                return f"{option} {item}"
    return None
