"""Folder type virtiofs: which virtiofsd is taken, and with which words it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from qup.builtin.folder_virtiofs import ONE_USER, PLACES, Virtiofs
from qup.errors import HostError
from qup.testing import FakeHost

OLD, NEW, BETWEEN = "-o source=PATH\n", "--shared-dir\n--translate-uid\n", "--shared-dir\n"
PLACE = Path("/run/qup/folders/folder0")


class Host(FakeHost):
    """A computer with programs wherever they are said to be."""

    def which(self, program: str) -> Path | None:
        return Path(program) if program in self.answers else super().which(program)


def host_with(**said: str) -> Host:
    places = {"libexec": PLACES[1], "qemu": PLACES[2]}
    return Host(answers={places[name]: text for name, text in said.items()})


def test_a_computer_without_one() -> None:
    (problem,) = Virtiofs().problems(Host(), "qemu-system-x86_64")
    assert problem.message == "there is no virtiofsd"
    host = host_with(qemu=OLD)
    host.missing_devices.add("vhost-user-fs-pci")
    (problem,) = Virtiofs().problems(host, "qemu-system-x86_64")
    assert problem.message == "qemu-system-x86_64 was built without it"
    with pytest.raises(HostError, match="no virtiofsd"):
        Virtiofs().serve(Host(), PLACE, 1000, 1000)


def test_one_that_can_not_map_users_is_refused() -> None:
    (problem,) = Virtiofs().problems(host_with(libexec=BETWEEN), "qemu-system-x86_64")
    assert "can't map users" in problem.message


def test_qemus_own_locks_itself_up_and_maps_one_user() -> None:
    host = host_with(qemu=OLD)
    assert not Virtiofs().problems(host, "qemu-system-x86_64")
    assert Virtiofs().reservations(host) == ONE_USER
    server = Virtiofs().serve(host, Path("/run/a,b"), 1000, 1000)
    assert server.privileged
    assert server.words[:3] == (PLACES[2], "-f", "--fd=0")
    assert server.words[-1].startswith("source=/run/a\\,b,sandbox=namespace,")


def test_a_newer_one_is_taken_before_and_takes_all_users_for_one() -> None:
    host = host_with(libexec=NEW, qemu=OLD)
    assert Virtiofs().reservations(host) is None
    server = Virtiofs().serve(host, PLACE, 0, 1000)
    assert not server.privileged
    assert server.words[:4] == (PLACES[1], "--fd=0", "--shared-dir", str(PLACE))
    assert "squash-guest:0:0:4294967295" in server.words
    assert "squash-guest:0:1000:4294967295" in server.words
