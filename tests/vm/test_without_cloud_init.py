"""A Debian without cloud-init, made by `box export` of one with it, and told by credentials."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.vm.lab import Lab, open_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SOURCE = """\
[machine]
box = "debian/12"
memory = "512M"
"""
SETUP = r"""
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n' >/etc/systemd/network/80-dhcp.network
touch /etc/cloud/cloud-init.disabled
echo set up >/etc/set-up
sync
"""
QUPFILE = """\
[machine]
box = "plain/1"
memory = "512M"
hostname = "credible"
boot-timeout = "10m"
seeder = "systemd-credentials"
[machine.ssh]
user = "admin"
"""


@pytest.fixture(scope="module")
def lab(debian_cache: Path) -> Iterator[Lab]:
    """A machine of a box that has no cloud-init any more."""
    with open_lab(debian_cache, SOURCE, templates=True) as made:
        made("up", timeout=900).ok()
        made.sh(f"sudo sh -e <<'END'\n{SETUP}END\n")
        made("down", timeout=120).ok()
        made("box", "export", "default", "plain.box", timeout=900).ok()
        check_box(made)
        made("destroy", "-y").ok()
        made("box", "add", "plain/1", "plain.box", timeout=300).ok()
        (made.folder / "plain.box").unlink()
        made.write(QUPFILE)
        made("up", timeout=700).ok()
        yield made


def check_box(lab: Lab) -> None:
    """The exported image has nothing by which the machine could be known."""
    image, raw = lab.folder / "box.img", lab.folder / "raw"
    with (lab.folder / "plain.box").open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name == image.name:
                    content = archive.extractfile(member)
                    assert content is not None
                    with image.open("wb") as target:
                        shutil.copyfileobj(content, target)
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    keys = lab.machine() / "ssh"
    secrets = [
        (keys / "key.pub").read_text().split()[1].encode(),
        (keys / "host_key").read_text().splitlines()[2].encode(),
    ]
    for piece in read_pieces(raw):
        assert not any(secret in piece for secret in secrets)
    # cloud-init, were it not switched off, would take it for a new machine.
    assert "set-up" in list_folder(raw, "/etc")
    assert {"instance", "instances", "data"}.isdisjoint(list_folder(raw, "/var/lib/cloud"))
    assert not [name for name in list_folder(raw, "/etc/ssh") if "host" in name]
    image.unlink()
    raw.unlink()


def list_folder(image: Path, folder: str) -> list[str]:
    """The names in a folder of an image's file system; ``-p`` of debugfs is for programs."""
    words = ["debugfs", "-R", f"ls -p {folder}", str(image)]
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    said = subprocess.run(words, check=True, capture_output=True, text=True, env=env).stdout
    return [line.split("/")[5] for line in said.splitlines() if line.startswith("/")]


def read_pieces(path: Path) -> Iterator[bytes]:
    """What is in a file between its holes."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        place = 0
        while place < end:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # holes alone
                return
            hole = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            yield os.pread(file.fileno(), min(hole - place, 1 << 26) + 200, place)
            place = min(hole, place + (1 << 26))


def test_systemd_takes_the_credentials(lab: Lab) -> None:
    """Name, user, key, sudo and host key, all by SMBIOS; the pinned host key let us in."""
    said = lab.sh("hostname; cat /etc/hostname; id -un; sudo id -un; cat /etc/set-up")
    assert said.splitlines() == ["credible", "credible", "admin", "root", "set up"]
    assert lab.sh("stat -c '%a %U' .ssh .ssh/authorized_keys") == "700 admin\n600 admin\n"
    assert lab.sh("ls /etc/ssh/ssh_host_*").split() == [
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
    ]
    assert lab.sh("systemctl list-units --failed --no-legend; sudo ls /home/debian/.ssh") == ""
