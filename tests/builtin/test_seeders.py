"""The guest seeders: what they write, byte by byte."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest

from qup.builtin import seeder_config_drive, seeder_format_me, seeder_nocloud, seeder_none
from qup.errors import ConfigError
from qup.guest.cd import write_cd
from qup.guest.keys import make_key_pair
from qup.model.network import AddressPlan
from qup.model.plan import NicSeed, SeedPlan
from qup.model.seed import KeyPair, Seed
from qup.plugins import Plugins

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMHPTBK0J4K1aIBXYTJHKxnOyDWx9qhL0J1Vw0jZyC1v qup:web"
PLAN = SeedPlan("the-uuid", "web.example", "docker")
SEED = Seed(PLAN, KEY, KeyPair("PRIVATE", "ssh-ed25519 AAAAhost"))
MAGIC = b"boot2docker, please format-me"


def test_all_are_built_in() -> None:
    names = list(Plugins(installed=False).guest_seeders)
    assert names == ["nocloud", "config-2", "config-2-9p", "format-me", "rancheros", "none"]


# --- format-me ------------------------------------------------------------------------------


def test_the_disk_begins_with_the_magic() -> None:
    payload = seeder_format_me.build_payload(KEY)
    assert payload.startswith(MAGIC)
    assert payload[29] == 0
    assert len(payload) == 4608  # as docker-machine's, with a key of one block
    assert payload[-1024:] == bytes(1024)


def test_what_the_guest_keeps_is_an_archive_with_the_key_twice() -> None:
    kept = seeder_format_me.build_payload(KEY)[:4096]
    with tarfile.open(fileobj=io.BytesIO(kept)) as archive:
        members = archive.getmembers()
        assert [(one.name, one.mode, one.isdir()) for one in members] == [
            (MAGIC.decode(), 0, False),
            (".ssh", 0o700, True),
            (".ssh/authorized_keys", 0o644, False),
            (".ssh/authorized_keys2", 0o644, False),
        ]
        for member, text in (
            (members[0], MAGIC),
            *((one, f"{KEY}\n".encode()) for one in members[2:]),
        ):
            file = archive.extractfile(member)
            assert file is not None
            assert file.read() == text


def test_the_headers_are_ustar_as_tarfile_writes_them() -> None:
    payload = seeder_format_me.build_payload(KEY)
    info = tarfile.TarInfo(".ssh/authorized_keys")
    info.mode, info.size = 0o644, len(KEY) + 1
    expected = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    found = bytearray(payload[1536:2048])
    for part in (slice(148, 156), slice(329, 345)):  # the device's numbers, so the checksum
        expected[part] = found[part]
    assert found == expected


@pytest.mark.parametrize("length", [511, 512])
def test_the_budget_of_a_key(length: int) -> None:
    key = "k" * length
    if length < 512:
        assert len(seeder_format_me.build_payload(key)) == 4608
    else:
        with pytest.raises(ConfigError, match="513 bytes"):
            seeder_format_me.build_payload(key)


def test_a_key_that_qup_makes_fits() -> None:
    machine = "m" * 63
    seeder_format_me.build_payload(make_key_pair(f"qup:{machine}").public)


def test_boot2docker_reads_no_user_data() -> None:
    seeder = seeder_format_me.FormatMe()
    assert not seeder.problems(PLAN)
    (problem,) = seeder.problems(replace(PLAN, user_data="#!/bin/sh\n"))
    assert "reads none" in problem.message
    form = seeder.form(PLAN)
    assert (form.payload, form.label, form.host_key) == (True, None, False)


def test_rancheros_gets_user_data_by_a_drive() -> None:
    seeder = seeder_format_me.RancherOs()
    assert seeder.form(PLAN).label is None
    assert seeder.form(replace(PLAN, user_data="#cloud-config\n")).label == "config-2"


# --- config-2 -------------------------------------------------------------------------------


def test_a_configuration_drive(tmp_path: Path) -> None:
    seed = replace(SEED, plan=replace(PLAN, user_data="#cloud-config\nrancher: {}\n"))
    files = seeder_config_drive.CD.files(seed)
    assert files["openstack/latest/user_data"] == "#cloud-config\nrancher: {}\n"
    meta = json.loads(files["openstack/latest/meta_data.json"])
    assert meta["public_keys"] == {"qup": KEY}
    assert (meta["hostname"], meta["uuid"]) == ("web.example", "the-uuid")
    assert "PRIVATE" not in "".join(files.values())
    write_cd(tmp_path / "cd", "config-2", files)
    iso = pycdlib.PyCdlib()
    iso.open(str(tmp_path / "cd"))
    try:
        assert iso.pvd.volume_identifier.decode().strip() == "config-2"
        for name, text in files.items():
            for way in ("rr_path", "joliet_path"):
                read = io.BytesIO()
                iso.get_file_from_iso_fp(read, **{way: f"/{name}"})
                assert read.getvalue().decode() == text
    finally:
        iso.close()


def test_fixed_addresses_in_a_configuration_drive() -> None:
    fixed = AddressPlan(
        dhcp=False, addresses=("10.1.2.3/24",), gateway="10.1.2.1", nameservers=("10.1.2.2",)
    )
    nics = (NicSeed("52:54:00:00:00:01", AddressPlan()), NicSeed("52:54:00:00:00:02", fixed))
    files = seeder_config_drive.CD.files(replace(SEED, plan=replace(PLAN, nics=nics)))
    data = json.loads(files["openstack/latest/network_data.json"])
    assert [link["ethernet_mac_address"] for link in data["links"]] == [nic.mac for nic in nics]
    dhcp, static = data["networks"]
    assert dhcp["type"] == "ipv4_dhcp"
    assert (static["ip_address"], static["netmask"]) == ("10.1.2.3", "255.255.255.0")
    assert static["routes"][0]["gateway"] == "10.1.2.1"
    assert data["services"] == [{"type": "dns", "address": "10.1.2.2"}]


def test_a_share_has_a_tag() -> None:
    assert seeder_config_drive.SHARE.form(PLAN).share == "config-2"


# --- the others -----------------------------------------------------------------------------


def test_nobody_is_told_user_data() -> None:
    seeder = seeder_none.Nobody()
    assert not seeder.form(PLAN).login
    assert seeder.problems(replace(PLAN, user_data="#!")) != []


def test_nocloud_refuses_user_data_of_other_kinds() -> None:
    (problem,) = seeder_nocloud.NoCloud().problems(replace(PLAN, user_data="hello"))
    assert "neither a script" in problem.message
