"""A box that is made of a machine: what was the machine's is not in it, and others can use it.

The same box serves as one of Vagrant's: somebody has put the well-known keys into it.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from qup.builtin.seeder_vagrant import Vagrant
from qup.guest.keys import public_half
from tests.vm.lab import Lab, open_lab, wait_until
from tests.vm.stops import stopped

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

QUPFILE = """\
[machine]
memory = "192M"
disk = "1G"
hostname = "origin"
[machine.ssh]
user = "vagrant"
[[machine.provision]]
shell = '''
echo made >/srv-made
mkdir -p /etc/docker/tls
echo key-of-an-engine >/etc/docker/tls/server-key.pem
cat >>/home/vagrant/.ssh/authorized_keys <<END
{known}
END
dd if=/dev/urandom of=/big bs=1M count=24 2>/dev/null
sync
rm /big
echo secret-in-a-deleted-file >/deleted
sync
rm /deleted
'''
"""
FROM_BOX = """\
[machine]
box = "../project/origin.box"
memory = "192M"
disk = "1G"
{more}
"""


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    """A machine that was up, and the box that was made of it."""
    known = "\n".join(public_half(key) for key in Vagrant().known_keys())
    with open_lab(vm_cache, QUPFILE.format(known=known)) as made:
        made("up", timeout=240).ok()
        done = made("box", "export", "default", "origin.box")
        assert done.code == 9
        assert "'qup down default' first" in done.stderr
        made("down").ok()
        before = digest(made.machine() / "disk.qcow2")
        done = made("box", "export", "default", "origin.box", "--json", timeout=240).ok()
        assert digest(made.machine() / "disk.qcow2") == before
        [finished] = [
            event for event in map(json.loads, done.stdout.splitlines())
            if event["event"] == "finished"
        ]  # fmt: skip
        assert finished["verb"] == "export"
        assert finished["data"]["cleaned"] is True
        yield made


def start(lab: Lab, name: str, more: str = "") -> Path:
    """A machine of a project of its own, made from the box."""
    folder = lab.box.root / name
    folder.mkdir()
    (folder / "Qupfile").write_text(FROM_BOX.format(more=more))
    return folder


def test_the_box_has_nothing_of_the_machine(lab: Lab, tmp_path: Path) -> None:
    """Not even in what is free on its disk."""
    with (lab.folder / "origin.box").open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            data = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    assert list(data) == ["metadata.json", "box.img", "kernel", "initrd", "kernel.efi"]
    image, raw = tmp_path / "box.img", tmp_path / "raw"
    image.write_bytes(data["box.img"])
    assert image.stat().st_size < 8 << 20  # the 24 MiB that were deleted are not there
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    content = raw.read_bytes()
    keys = lab.machine() / "ssh"
    for secret in (
        (keys / "key.pub").read_text().split()[1],
        (keys / "host_key").read_text().splitlines()[2],
        lab.inspect()["id"],
        "secret-in-a-deleted-file",
        "key-of-an-engine",  # of a Docker host
    ):
        assert secret.encode() not in content
    assert b"made\n" in content
    summed = subprocess.run(
        ["sha256sum", "-c", "origin.box.sha256"], cwd=lab.folder, capture_output=True, check=False
    )
    assert summed.returncode == 0
    assert sorted(path.name for path in lab.machine().iterdir() if path.name == "export") == []
    assert not list(lab.folder.glob(".origin.box*"))


def test_what_is_there_is_not_replaced_unasked(lab: Lab) -> None:
    done = lab("box", "export", "default", "origin.box")
    assert done.code == 5
    assert "--force" in done.stderr


def test_a_machine_of_the_box(lab: Lab) -> None:
    """It has what the other one was given, and is somebody else."""
    folder = start(lab, "copy", 'hostname = "copy"\n')
    try:
        lab("up", cwd=folder, timeout=240).ok()
        said = lab("ssh", "--", "cat /srv-made; hostname; id -un; sudo cat /etc/machine-id",
                   cwd=folder).ok().stdout.splitlines()  # fmt: skip
        assert said[:3] == ["made", "copy", "vagrant"]
        assert len(said[3]) == 32
        keys = lab("ssh", "--", "cat .ssh/authorized_keys", cwd=folder).ok().stdout
        assert (lab.machine() / "ssh" / "key.pub").read_text().split()[1] not in keys
    finally:
        lab("destroy", "-y", cwd=folder).ok()


def test_a_box_without_cloud_init(lab: Lab) -> None:
    """The well-known key gets in once, and never again."""
    folder = start(lab, "vagrants", 'seeder = "vagrant"\n')
    try:
        done = lab("up", cwd=folder, timeout=240).ok()
        assert "well-known key" in done.stdout + done.stderr
        assert "made its own host key" in done.stdout + done.stderr
        keys = lab("ssh", "--", "cat .ssh/authorized_keys", cwd=folder).ok().stdout
        ours = folder / ".qup" / "machines" / "default" / "ssh"
        assert (ours / "key.pub").read_text().split()[1] in keys
        for key in Vagrant().known_keys():
            assert public_half(key).split()[1] not in keys
        assert not (ours / "known_keys").exists()
        assert lab("reload", cwd=folder, timeout=240).ok()
        assert lab("ssh", "--", "id -un", cwd=folder).ok().stdout == "vagrant\n"
    finally:
        lab("destroy", "-y", cwd=folder).ok()


def assert_untouched(lab: Lab, before: str) -> None:
    """Nothing runs, the machine is as it was, and nothing lies beside the box that isn't there."""
    assert wait_until(lambda: not lab.qemus())
    assert digest(lab.machine() / "disk.qcow2") == before
    assert lab.status() == "stopped"
    assert [path.name for path in lab.folder.iterdir() if "whole" in path.name] == []


def test_killed_while_it_cleans(lab: Lab) -> None:
    """The copy's QEMU ends with qup."""
    before = digest(lab.machine() / "disk.qcow2")
    with stopped(
        lab, "box", "export", "default", "whole.box",
        at="subprocess.Popen", path="-T", after=("subprocess.Popen", "-M"),
    ) as process:  # fmt: skip
        assert len(lab.qemus()) == 1
        process.kill()
    assert_untouched(lab, before)


@pytest.mark.parametrize(("at", "path"), [("os.rename", "/box.img"), ("os.remove", "box.img")])
def test_killed_while_it_writes_and_tidies_up(lab: Lab, at: str, path: str) -> None:
    before = digest(lab.machine() / "disk.qcow2")
    done = lab.folder / "whole.box"
    with stopped(
        lab, "box", "export", "default", "whole.box", "--as-is", at=at, path=path
    ) as process:
        process.kill()
    if done.exists():  # what was left to do was tidying up
        lab("box", "add", "killed/1", "whole.box").ok()
        for file in (done, done.with_name("whole.box.sha256")):
            file.unlink()
    assert_untouched(lab, before)
    assert (lab.machine() / "export").exists()


def test_as_it_is(lab: Lab) -> None:
    """Without cleaning nothing has to boot, and everything is in the box."""
    lab("box", "export", "default", "whole.box", "--as-is", timeout=240).ok()
    with (lab.folder / "whole.box").open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file)
        data = io.BytesIO(reader.read())
    with tarfile.open(fileobj=data) as archive:
        assert "box.img" in archive.getnames()
    assert not (lab.machine() / "export").exists()


def test_a_copy_that_can_not_be_cleaned(lab: Lab) -> None:
    """The first step that fails is named, there is no box, and the machine goes on."""
    (lab.machine() / "export").mkdir()  # as SIGKILL leaves it
    lab("up", timeout=240).ok()
    assert not (lab.machine() / "export").exists()
    lab.sh("sudo sh -c 'rm -f /etc/machine-id && mkdir /etc/machine-id && sync'")
    lab("down").ok()
    done = lab("box", "export", "default", "none.box", timeout=240)
    assert done.code == 10, done
    assert "its copy can't be cleaned: /etc/machine-id can't be emptied" in done.stderr
    assert "--as-is" in done.stderr
    assert not (lab.folder / "none.box").exists()
    assert not lab.qemus()


def test_a_guest_that_is_told_its_key_only_once(lab: Lab) -> None:
    """Ignition runs at a disk's first boot: whoever makes a box of it is warned."""
    folder = lab.box.root / "ignition"
    folder.mkdir()
    text = '[machine]\nmemory = "192M"\nseeder = "ignition"\nboot-timeout = "1s"\n'
    (folder / "Qupfile").write_text(text)
    try:
        assert lab("up", cwd=folder).code == 10
        lab("down", "--force", cwd=folder).ok()
        done = lab("box", "export", "default", "--as-is", cwd=folder, timeout=240).ok()
        assert "at its first boot only" in done.stderr
    finally:
        lab("destroy", "-y", cwd=folder).ok()
