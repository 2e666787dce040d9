"""The guest seeders: what they write, byte by byte."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest

from qup.builtin import (
    seeder_config_drive,
    seeder_credentials,
    seeder_format_me,
    seeder_ignition,
    seeder_nocloud,
    seeder_none,
    seeder_vagrant,
)
from qup.errors import ConfigError
from qup.guest.cd import write_cd
from qup.guest.keys import make_key_pair
from qup.guest.takeover import find_known_keys, write_known_keys
from qup.model.network import AddressPlan
from qup.model.plan import NicSeed, SeedPlan
from qup.model.seed import KeyPair, Seed
from qup.paths import SshFolder
from qup.plugins import Plugins

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMHPTBK0J4K1aIBXYTJHKxnOyDWx9qhL0J1Vw0jZyC1v qup:web"
PLAN = SeedPlan("the-uuid", "web.example", "docker")
SEED = Seed(PLAN, KEY, KeyPair("PRIVATE", "ssh-ed25519 AAAAhost"))
MAGIC = b"boot2docker, please format-me"


def test_all_are_built_in() -> None:
    names = list(Plugins(installed=False).guest_seeders)
    assert names == [
        *("nocloud", "config-2", "config-2-9p", "format-me", "rancheros"),
        *("ignition", "systemd-credentials", "vagrant", "none"),
    ]


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


# --- ignition -------------------------------------------------------------------------------

FIXED = AddressPlan(
    dhcp=False, addresses=("10.1.2.3/24",), gateway="10.1.2.1", nameservers=("10.1.2.2",)
)


def read_data(source: str) -> str:
    head, _, data = source.partition(",")
    assert head == "data:;base64"
    return base64.b64decode(data).decode()


def test_an_ignition_configuration() -> None:
    """User, key, name and host key in the form of specification 3.0.0."""
    seeder = seeder_ignition.Ignition()
    plan = replace(PLAN, user="core", nics=(NicSeed("52:54:00:00:00:01", FIXED),))
    files = seeder.files(replace(SEED, plan=plan))
    assert seeder.form(plan).fw_cfg == tuple(files) == ("opt/com.coreos/config",)
    config = json.loads(files["opt/com.coreos/config"])
    assert set(config) == {"ignition", "passwd", "storage"}
    assert config["ignition"] == {"version": "3.0.0"}
    assert config["passwd"] == {"users": [{"name": "core", "sshAuthorizedKeys": [KEY]}]}
    found = {file["path"]: file for file in config["storage"]["files"]}
    for file in found.values():
        assert set(file) == {"path", "mode", "overwrite", "contents"}
        assert isinstance(file["mode"], int)
    texts = {path: read_data(file["contents"]["source"]) for path, file in found.items()}
    assert texts["/etc/hostname"] == "web.example\n"
    assert texts["/etc/ssh/ssh_host_ed25519_key"] == "PRIVATE"
    assert found["/etc/ssh/ssh_host_ed25519_key"]["mode"] == 0o600
    assert texts["/etc/sudoers.d/qup"] == "core ALL=(ALL) NOPASSWD:ALL\n"
    profile = texts["/etc/NetworkManager/system-connections/qup-0.nmconnection"]
    assert "address1=10.1.2.3/24,10.1.2.1\ndns=10.1.2.2;" in profile
    assert "[ipv6]\nmethod=disabled" in profile
    unit = texts["/etc/systemd/network/10-qup-0.network"]
    assert "MACAddress=52:54:00:00:00:01" in unit
    assert "Address=10.1.2.3/24\nGateway=10.1.2.1\nDNS=10.1.2.2\n" in unit


def test_an_ignition_configuration_of_the_users_is_merged() -> None:
    seeder = seeder_ignition.Ignition()
    own = '{"ignition": {"version": "3.4.0"}}'
    plan = replace(PLAN, user_data=own)
    assert not seeder.problems(plan)
    config = json.loads(seeder.files(replace(SEED, plan=plan))["opt/com.coreos/config"])
    [merged] = config["ignition"]["config"]["merge"]
    assert read_data(merged["source"]) == own


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("#cloud-config\n", "not JSON"),
        ("[]", "no 'ignition.version'"),
        ('{"ignition": 3}', "no 'ignition.version'"),
        ('{"ignition": {"version": "2.3.0"}}', "its version is 2.3.0"),
    ],
)
def test_what_is_no_ignition_configuration(text: str, word: str) -> None:
    [problem] = seeder_ignition.Ignition().problems(replace(PLAN, user_data=text))
    assert word in problem.message


# --- systemd-credentials --------------------------------------------------------------------


def test_credentials_of_a_user() -> None:
    """A user, his key and sudo by files of tmpfiles.d, whose content is base64."""
    seeder = seeder_credentials.Credentials()
    files = seeder.files(SEED)
    assert sorted(files) == sorted(seeder.form(PLAN).oem_strings)
    assert all(text.startswith(f"io.systemd.credential:{name}=") for name, text in files.items())
    credentials = {name: text.partition("=")[2] for name, text in files.items()}
    assert credentials["sysusers.extra"] == 'u docker - "docker" /home/docker /bin/sh'
    assert credentials["system.hostname"] == "web.example"
    lines = [line.split() for line in credentials["tmpfiles.extra"].splitlines()]
    assert all(len(line) == (7 if "~" in line[0] else 5) for line in lines)
    texts = {line[1]: base64.b64decode(line[6]).decode() for line in lines if "~" in line[0]}
    assert texts["/home/docker/.ssh/authorized_keys"] == f"{KEY}\n"
    assert texts["/etc/ssh/ssh_host_ed25519_key"] == "PRIVATE"
    assert texts["/etc/sudoers.d/90-qup"] == "docker ALL=(ALL) NOPASSWD:ALL\n"


def test_credentials_of_root_make_no_user() -> None:
    seeder = seeder_credentials.Credentials()
    plan = replace(PLAN, user="root")
    files = seeder.files(replace(SEED, plan=plan))
    assert sorted(files) == sorted(seeder.form(plan).oem_strings)
    assert files["ssh.authorized_keys.root"].endswith(f"={KEY}\n")
    assert "sysusers.extra" not in files
    assert "sudoers" not in files["tmpfiles.extra"]


@pytest.mark.parametrize(
    "seeder", [seeder_credentials.Credentials(), seeder_vagrant.Vagrant()], ids=lambda it: it.name
)
def test_who_can_not_be_told_more(seeder: object) -> None:
    plan = replace(PLAN, user_data="#!/bin/sh\n", nics=(NicSeed("52:54:00:00:00:01", FIXED),))
    assert not seeder.problems(PLAN)  # type: ignore[attr-defined]
    assert len(seeder.problems(plan)) == 2  # type: ignore[attr-defined]


# --- vagrant --------------------------------------------------------------------------------


def test_vagrants_keys_are_the_well_known_ones(tmp_path: Path) -> None:
    """Their public halves are what boxes have, by their well-known beginnings and ends."""
    folder = SshFolder(tmp_path)
    write_known_keys(folder, seeder_vagrant.Vagrant().known_keys())
    rsa, ed25519 = find_known_keys(folder)
    assert rsa.stat().st_mode & 0o777 == ed25519.stat().st_mode & 0o777 == 0o600
    publics = [
        subprocess.run(
            ["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True
        ).stdout.split()[1]
        for path in (rsa, ed25519)
    ]
    assert publics[0].startswith("AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr")
    assert publics[0].endswith("LbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ==")
    assert publics[1].endswith("IN1YdxBpNlzxDqfJyw/QKow1F+wvG9hXGoqiysfJOn5Y")
