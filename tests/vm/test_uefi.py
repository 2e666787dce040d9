"""Guests that UEFI firmware starts: by its own loader of kernels, and from a disk of its kind."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup.qemu.firmware import descriptor_folders, find_firmware
from tests.vm.lab import Lab, open_lab

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        find_firmware(descriptor_folders(), "x86_64", "pc-q35-7.2") is None,
        reason="no UEFI firmware: apt install ovmf",
    ),
]

QUPFILE = """
[machine]
memory = "256M"
disk = "1G"
[machine.qemu]
firmware = "uefi"
"""
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SECTIONS = {".cmdline": 0x30000, ".linux": 0x2000000, ".initrd": 0x4000000}
"""Where the stub looks for its parts (``systemd-stub(7)``)."""

VARIABLE = "/sys/firmware/efi/efivars/QupTest-71757074-696e-7900-8000-000000000001"
MOUNTED = "until grep -q efivarfs /proc/mounts; do sleep 0.1; done;"


@pytest.fixture
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, QUPFILE) as made:
        yield made


def test_variables_outlive_a_restart_and_nothing_outlives_destroy(lab: Lab) -> None:
    lab("up").ok()
    file = lab.machine() / "vars.qcow2"
    assert file.stat().st_mode & 0o077 == 0
    fresh = file.read_bytes()
    # Its attributes (non-volatile, at boot, at run time), then the value.
    lab.sh(f"{MOUNTED} printf '\\7\\0\\0\\0kept' | sudo tee {VARIABLE} >/dev/null; sync")
    assert file.read_bytes() != fresh
    lab("reload").ok()
    assert lab.sh(f"{MOUNTED} tail -c 4 {VARIABLE}") == "kept"
    lab("destroy", "-y").ok()
    assert not file.exists()


def make_esp(folder: Path, box: Path) -> Path:
    """A disk with nothing but an EFI program on it: the kernel and the initrd of a box."""
    parts = {
        ".cmdline": b"console=ttyS0 quiet panic=1",
        ".linux": (box / "kernel.efi").read_bytes(),
        ".initrd": gzip.compress((box / "initrd").read_bytes(), 1),
    }
    words: list[str | Path] = ["objcopy"]
    for name, data in parts.items():
        path = folder / name[1:]
        path.write_bytes(data)
        words += ["--add-section", f"{name}={path}"]
        words += ["--change-section-vma", f"{name}={SECTIONS[name]:#x}"]
    program, disk = folder / "program.efi", folder / "esp.img"
    subprocess.run([*words, STUB, program], check=True)
    with disk.open("wb") as file:
        file.truncate(48 << 20)
    for command in (
        ("mformat", "-F", "::"),
        ("mmd", "::/EFI", "::/EFI/BOOT"),
        ("mcopy", program, "::/EFI/BOOT/BOOTX64.EFI"),
    ):
        subprocess.run([command[0], "-i", disk, *command[1:]], check=True)
    return disk


def test_an_ide_disk_that_only_uefi_boots(lab: Lab, tmp_path: Path) -> None:
    for program, package in (("objcopy", "binutils"), ("mformat", "mtools")):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt install {package}")
    if not STUB.exists():
        pytest.skip("no EFI stub: apt install systemd-boot-efi")
    box = Path(lab("box", "path", "tiny").ok().stdout.strip())
    shutil.move(make_esp(tmp_path, box), lab.folder / "esp.img")
    lab.write(
        QUPFILE.replace("[machine]", '[machine]\nbox = "./esp.img"')
        + 'machine = "pc"\nvirtio-drives = false\n'
    )
    lab("up").ok()
    assert lab.sh("ls -d /sys/firmware/efi; ls /sys/block") == "/sys/firmware/efi\nsda\nsr0\n"
    serial = (lab.machine() / "logs" / "serial.log").read_text(errors="replace")
    assert "BdsDxe: starting Boot" in serial
