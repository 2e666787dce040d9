"""Guests on CDs: boot2docker's and RancherOS's ways, upgrades, and guests that nobody knows.

The ISOs are made by :mod:`tests.vm.iso_guest`; servers on loopback play the releases API.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.fakes.isos import API, make_iso, publish
from tests.fakes.web import Web, serve
from tests.vm import iso_guest
from tests.vm.lab import Lab, open_lab, wait_until

pytestmark = pytest.mark.vm

MAGIC = b"boot2docker, please format-me"
MACHINE = 'memory = "256M"\ndisk = "1G"\nboot-timeout = "2m"\n'


@dataclass(frozen=True)
class Isos:
    """The ISOs of this run."""

    old: Path
    new: Path
    broken: Path
    rancheros: Path


@pytest.fixture(scope="module")
def isos(vm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Isos:
    iso_guest.require_tools()
    folder = tmp_path_factory.mktemp("isos")

    def make(name: str, label: str, **words: str) -> Path:
        return iso_guest.make_iso(vm_cache, folder / f"{name}.iso", label, **words)

    return Isos(
        make("old", "b2d-v18.09.1", guest="boot2docker", version="v18.09.1"),
        make("new", "b2d-v19.03.12", guest="boot2docker", version="v19.03.12"),
        make("broken", "b2d-v20.0.0", guest="boot2docker", version="v20.0.0", broken="1"),
        make("rancheros", "RancherOS", guest="rancheros", version="v1.5.8"),
    )


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def cache(vm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this module's own: what was newest must not come from another run."""
    return cache_at(tmp_path_factory.mktemp("isos") / "cache", vm_cache)


def cache_at(folder: Path, vm_cache: Path) -> Path:
    """An empty cache, but for what is known about this computer."""
    folder.mkdir(mode=0o700)
    if (vm_cache / "host").is_dir():
        shutil.copytree(vm_cache / "host", folder / "host")
    return folder


@pytest.fixture(scope="module")
def docker(isos: Isos, web: Web, cache: Path) -> Iterator[Lab]:
    """A machine of the newest boot2docker, running, with something on its disk."""
    publish(web, "v18.09.1", isos.old.read_bytes(), digest=True)
    with open_lab(cache, f'[machine]\nbox = "boot2docker"\n{MACHINE}') as lab:
        done = up(lab, web).ok()
        assert "release v18.09.1" in done.stderr
        assert "made its own host key, SHA256:" in done.stderr
        lab.sh("echo kept >/data/note; sync")
        yield lab


def up(lab: Lab, web: Web, *words: str) -> Done:
    return lab(*(words or ("up",)), env={"QUP_BOOT2DOCKER_RELEASES": web.url(API)})


def version(lab: Lab, name: str = "default") -> str:
    return lab.sh(". /etc/os-release; echo $VERSION_ID", name).strip()


# --- boot2docker ----------------------------------------------------------------------------


def test_boot2docker_finds_its_disk_and_its_key(docker: Lab) -> None:
    assert docker.sh("id -un; cat /drives").split() == ["docker", "vda", "vdb"]
    assert "/dev/vdb" in docker.sh("df /data")
    assert docker.sh("cd .ssh; ls").split() == ["authorized_keys", "authorized_keys2"]
    assert "formatting /dev/vdb" in docker("logs").ok().stdout


def test_the_host_key_is_pinned_from_then_on(docker: Lab) -> None:
    known = docker.machine() / "ssh" / "known_hosts"
    kept = known.read_text()
    alias, kind, _ = kept.split()
    assert alias.startswith("qup-")
    other = kept.replace("AAAAC3NzaC1lZDI1NTE5AAAAI", "AAAAC3NzaC1lZDI1NTE5AAAAJ")
    assert (kind, other != kept) == ("ssh-ed25519", True)
    known.write_text(other)
    try:
        done = docker("ssh", "-o", "ControlPath=none", "--", "true")
        assert done.code == 255
    finally:
        known.write_text(kept)


def test_the_old_disk_stays_and_nobody_is_asked(docker: Lab, web: Web) -> None:
    asked = len(web.asked)
    docker("down").ok()
    done = docker("--offline", "up").ok()
    assert "seen for the first time" not in done.stderr
    assert len(web.asked) == asked
    assert docker.sh("cat /data/note") == "kept\n"
    assert "found /dev/vdb by its label" in docker("logs").ok().stdout


def test_a_new_release_is_booted_and_the_disk_kept(docker: Lab, isos: Isos, web: Web) -> None:
    assert "already has the newest ISO" in up(docker, web, "upgrade").ok().stderr
    publish(web, "v19.03.12", isos.new.read_bytes())
    done = up(docker, web, "upgrade").ok()
    assert "release v19.03.12 is there (here: v18.09.1)" in done.stderr
    assert version(docker) == "v19.03.12"
    assert docker.sh("cat /data/note") == "kept\n"


def test_a_release_that_does_not_come_up_is_taken_back(docker: Lab, isos: Isos, web: Web) -> None:
    publish(web, "v20.0.0", isos.broken.read_bytes())
    done = up(docker, web, "upgrade", "default")
    assert done.code == 10, done
    assert "was given its old one, v19.03.12" in done.stderr
    assert "it runs with it again" in done.stderr
    assert "kernel panicked" in done.stderr
    assert version(docker) == "v19.03.12"
    assert docker.sh("cat /data/note") == "kept\n"


def test_a_server_that_is_down_changes_nothing(docker: Lab, web: Web) -> None:
    web.files.pop(API)
    pid = docker.pid()
    done = up(docker, web, "upgrade")
    assert done.code == 8
    assert "HTTP 404" in done.stderr
    assert docker.pid() == pid


# --- other drives, RancherOS ----------------------------------------------------------------


@pytest.fixture(scope="module")
def others(isos: Isos, cache: Path) -> Iterator[Lab]:
    """Three guests at once: IDE drives, RancherOS on virtio drives, a drive as a share."""
    text = f"""
[machine]
{MACHINE}
[machines.ide]
box = "{isos.old}"
qemu.virtio-drives = false
[machines.ros]
box = "file://{isos.rancheros}"
user-data = "#cloud-config\\nrancher: {{}}\\n"
[machines.share]
box = "{isos.rancheros}"
seeder = "config-2-9p"
qemu.virtio-drives = false
"""
    with open_lab(cache, text, "three") as lab:
        lab("up").ok()
        yield lab


def test_ide_drives(others: Lab) -> None:
    assert others.sh("id -un; cat /drives", "ide").split() == ["docker", "sda", "sr0"]
    assert "/dev/sda" in others.sh("df /data", "ide")


def test_rancheros_finds_its_disk_on_virtio(others: Lab) -> None:
    assert others.sh("id -un; cat /drives", "ros").split() == ["rancher", "vda", "vdb", "vdc"]
    assert "/dev/vda" in others.sh("df /data", "ros")
    assert "label B2D_STATE" in others("logs", "ros").ok().stdout


def test_user_data_comes_by_a_configuration_drive(others: Lab) -> None:
    assert others.sh("cat /var/lib/config/user_data", "ros") == "#cloud-config\nrancher: {}\n"
    meta = json.loads(others.sh("cat /var/lib/config/meta_data.json", "ros"))
    assert meta["hostname"] == "ros"


def test_the_drive_as_a_share(others: Lab) -> None:
    said = others("logs", "share").ok().stdout
    assert "configuration drive by 9p" in said
    assert "can be written to" not in said
    assert others.sh("id -un; cat /drives", "share").split() == ["rancher", "sda", "sr0"]
    assert "label RANCHER_STATE" in said


# --- ISOs that nobody knows -----------------------------------------------------------------


def test_an_unknown_iso_runs_without_ssh(lab: Lab) -> None:
    (lab.folder / "installer.iso").write_bytes(make_iso("Installer 1"))
    lab.write('[machine]\nbox = "./installer.iso"\nmemory = "64M"\ndisk = "64M"\n')
    done = lab("up").ok()
    assert "not waiting for ssh" in done.stderr
    assert done.seconds < 20
    assert "qup ssh" not in done.stdout
    assert lab.status() == "running"
    assert "no key in this guest" in lab("status").ok().stdout
    assert lab("up").ok().stderr.strip().endswith("is up already")
    assert lab("down", "--timeout", "0").ok()
    lab.write('[machine]\nbox = "./installer.iso"\n[[machine.provision]]\nshell = "true"\n')
    done = lab("up")
    assert done.code == 4
    assert "provisioning needs ssh" in done.stderr


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ('user-data = "#!/bin/sh\\n"', "reads none"),
        ('userdata = "."', "is a folder"),
        ('userdata = "nosuch"', "No such file"),
    ],
)
def test_user_data_that_can_not_be_told(lab: Lab, more: str, word: str) -> None:
    (lab.folder / "b2d.iso").write_bytes(make_iso("b2d-v1"))
    lab.write(f'[machine]\nbox = "./b2d.iso"\n{more}\n')
    done = lab("up")
    assert done.code == 4
    assert word in done.stderr
    assert lab.status() == "not-created"


def test_a_key_that_is_too_long_for_the_message(lab: Lab) -> None:
    (lab.folder / "b2d.iso").write_bytes(make_iso("b2d-v1"))
    lab.write('[machine]\nbox = "./b2d.iso"\ndisk = "64M"\n')
    keys = lab.machine() / "ssh"
    for folder in (*reversed(keys.relative_to(lab.folder).parents), keys.relative_to(lab.folder)):
        (lab.folder / folder).mkdir(mode=0o700, exist_ok=True)
    (keys / "key").write_text("a private key")
    (keys / "key.pub").write_text(f"ssh-rsa {'A' * 700} me\n")
    done = lab("up")
    assert done.code == 4
    assert "use an Ed25519 key" in done.stderr
    assert not (lab.machine() / "disk.qcow2").exists()


def test_a_family_that_is_named_by_hand(lab: Lab, isos: Isos) -> None:
    """The disk of a machine begins with the message, as a guest of that family would find it."""
    (lab.folder / "x.iso").write_bytes(make_iso("unheard of"))
    lab.write(
        '[machine]\nbox = "x.iso"\nmemory = "64M"\ndisk = "64M"\nseeder = "format-me"\n'
        'ssh.user = "docker"\nboot-timeout = "1s"\n'
    )
    assert lab("up").code == 10  # nothing boots from it
    lab("down", "--force").ok()
    raw = lab.folder / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    disk = lab.machine() / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    with raw.open("rb") as file:
        assert file.read(29) == MAGIC
    assert raw.stat().st_size == 64 << 20


# --- servers --------------------------------------------------------------------------------


def small(text: str = "boot2docker") -> str:
    return f'[machine]\nbox = "{text}"\nmemory = "64M"\ndisk = "64M"\nseeder = "none"\n'


def test_a_new_machine_asks_and_an_old_one_does_not(
    lab: Lab, web: Web, vm_cache: Path, tmp_path: Path
) -> None:
    own = cache_at(tmp_path / "own", vm_cache)
    env = {"QUP_BOOT2DOCKER_RELEASES": web.url(API), "QUP_CACHE_DIR": str(own)}
    publish(web, "v1", make_iso("b2d-v1", b"one"))
    lab.write(small())
    lab("up", env=env).ok()
    lab("destroy", "-y", env=env).ok()
    publish(web, "v2", make_iso("b2d-v2", b"two"))
    done = lab("up", env=env).ok()
    assert "asking for the newest boot2docker" in done.stderr
    assert "release v2 is there (here: v1)" in done.stderr
    asked = len(web.asked)
    lab("down", "--timeout", "0", env=env).ok()
    lab("up", env=env).ok()
    assert len(web.asked) == asked
    lab("destroy", "-y", env=env).ok()
    web.files.pop(API)
    done = lab("up", env=env).ok()
    assert "taken from the cache (v2" in done.stderr
    lab("destroy", "-y", env=env).ok()
    done = lab("--offline", "up", env=env).ok()
    assert "--offline" in done.stderr


def test_an_address_that_has_changed(lab: Lab, web: Web, vm_cache: Path, tmp_path: Path) -> None:
    own = cache_at(tmp_path / "own", vm_cache)
    env = {"QUP_CACHE_DIR": str(own)}
    first, second = make_iso("b2d-v1", b"one"), make_iso("b2d-v1", b"two")
    web.put("/x.iso", first)
    lab.write(small(web.url("/x.iso")))
    lab("up", env=env).ok()
    assert "already has the newest ISO" in lab("upgrade", env=env).ok().stderr
    web.put("/x.iso", second)
    pid = json.loads(lab("inspect", "default", env=env).ok().stdout)["pid"]
    done = lab("upgrade", "--force", env=env).ok()
    assert "has changed" in done.stderr
    assert json.loads(lab("inspect", "default", env=env).ok().stdout)["pid"] != pid
    lab("down", "--timeout", "0", env=env).ok()
    web.put("/x.iso", first)
    done = lab("upgrade", env=env).ok()
    assert "'qup up' boots it from the new ISO" in done.stderr
    digest = json.loads((lab.machine() / "state.json").read_text())["box_digest"]
    boot = own / "boxes" / digest[:16] / "boot.iso"
    assert hashlib.sha256(boot.read_bytes()).digest() == hashlib.sha256(first).digest()


def test_another_iso_in_the_qupfile(lab: Lab) -> None:
    for name in ("a", "b"):
        (lab.folder / f"{name}.iso").write_bytes(make_iso(f"b2d-{name}", name.encode()))
    lab.write(small("./a.iso"))
    lab("up").ok()
    lab.write(small("./b.iso"))
    assert "'qup upgrade default' boots it from that" in lab("up").ok().stderr
    lab("down", "--timeout", "0").ok()
    done = lab("up")
    assert done.code == 9
    assert "qup upgrade default" in done.stderr
    lab("upgrade").ok()
    lab("up").ok()
    for name in ("a", "b"):
        (lab.folder / f"{name}.iso").unlink()
    lab("up").ok()
    lab("down", "--timeout", "0").ok()
    lab("up").ok()  # it is in the cache


def test_what_can_not_be_upgraded(lab: Lab) -> None:
    done = lab("upgrade", "default")
    assert done.code == 9
    assert "never created" in done.stderr
    assert "nothing to upgrade" in lab("upgrade").ok().stderr


def test_an_interrupted_download_goes_on(web: Web, vm_cache: Path, tmp_path: Path) -> None:
    data = make_iso("b2d-v1", bytes(1 << 20))
    web.put("/slow.iso", data, hangs=1 << 20)
    with open_lab(cache_at(tmp_path / "slow", vm_cache), small(web.url("/slow.iso"))) as lab:
        process = lab.spawn("up")
        parts = tmp_path / "slow" / "downloads"
        assert wait_until(lambda: any(path.stat().st_size for path in parts.glob("*.part")), 60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
        web.put("/slow.iso", data)
        lab("up").ok()
        assert "Range" in web.requests("/slow.iso")[-1]
        assert list(parts.glob("*.part")) == []
