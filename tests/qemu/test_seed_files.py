"""What a guest finds of a seed that the firmware hands on: read by qtest, as a guest would.

Real guests are in ``tests/vm``; Fedora CoreOS, which reads Ignition's item, can't be had here.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qup.builtin.seeder_credentials import Credentials
from qup.builtin.seeder_ignition import Ignition
from qup.guest.keys import make_key_pair
from qup.model.plan import SeedPlan
from qup.model.seed import Seed
from qup.paths import MachineFolder
from qup.qemu.argv import build, words
from qup.runner.materials import write_seed
from tests.qemu.test_argv import PATHS, TINY, replace

pytestmark = pytest.mark.qemu

SELECTOR, DATA, DIRECTORY = 0x510, 0x511, 0x19
"""Ports and the key of the list of files (``docs/specs/fw_cfg.txt`` in QEMU's source)."""


class Ports:
    """The guest's view of QEMU's fw_cfg."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        assert answer[0] == "OK", answer
        return answer[-1]

    def read(self, key: int, size: int) -> bytes:
        self._ask(f"outw {SELECTOR:#x} {key:#x}")
        return bytes(int(self._ask(f"inb {DATA:#x}"), 16) for _ in range(size))

    def files(self) -> dict[str, bytes]:
        """What there is, by name; only what is asked for is read."""
        (count,) = struct.unpack(">I", self.read(DIRECTORY, 4))
        listed = self.read(DIRECTORY, 4 + count * 64)[4:]
        found = {}
        for size, key, _, name in struct.iter_unpack(">IHH56s", listed):
            text = name.rstrip(b"\0").decode()
            if text.startswith(("opt/", "etc/smbios/smbios-tables")):
                found[text] = self.read(key, size)
        return found


@contextmanager
def start(options: list[str]) -> Iterator[Ports]:
    argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-S", "-nodefaults"]
    argv += ["-display", "none", "-qtest", "stdio", "-qtest-log", "/dev/null", *options]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Ports(process)
        finally:
            process.kill()


@pytest.mark.parametrize("seeder", [Ignition(), Credentials()], ids=lambda seeder: seeder.name)
def test_what_the_guest_finds(seeder: Ignition | Credentials, tmp_path: Path) -> None:
    """All of it, byte by byte, and none of it on the command line."""
    plan = SeedPlan("the-uuid", "web", "admin")
    host_key = make_key_pair("host")
    form, files = seeder.form(plan), seeder.files(Seed(plan, "ssh-ed25519 AAAA qup", host_key))
    folder = MachineFolder(tmp_path / "machine, with a comma")
    folder.root.mkdir()
    write_seed(folder, form, files)
    layout = replace(PATHS, seed_share=folder.seed_share)
    said = words(build(replace(TINY, seed_form=form), layout))
    assert not any("PRIVATE KEY" in word for word in said)
    pairs = [
        word for index, option in enumerate(said) if option in ("-fw_cfg", "-smbios")
        for word in (option, said[index + 1])
    ]  # fmt: skip
    with start(pairs) as ports:
        found = ports.files()
    if isinstance(seeder, Ignition):
        assert found["opt/com.coreos/config"].decode() == files["opt/com.coreos/config"]
    else:
        tables = found["etc/smbios/smbios-tables"]
        for text in files.values():
            assert text.encode() + b"\0" in tables
    assert all(
        path.stat().st_mode & 0o077 == 0 for path in folder.seed_share.rglob("*") if path.is_file()
    )
