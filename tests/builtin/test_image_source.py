"""Disk images as boxes: by path and by address, through the command line."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Qup
from tests.fakes.web import File, Web, serve


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


@pytest.fixture
def raw(tmp_path: Path) -> bytes:
    return bytes(510) + b"\x55\xaa" + os.urandom(512) + bytes((1 << 20) - 1024)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def box(qup: Qup) -> dict[str, Any]:
    (found,) = json.loads(qup("box", "list", "--json").ok().stdout)["boxes"]
    return dict(found)


def disk_of(qup: Qup, name: str) -> bytes:
    folder = Path(qup("box", "path", name).ok().stdout.strip())
    target = folder.parent / "copy.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", folder / "disk.qcow2", target],
        check=True,
    )
    data = target.read_bytes()
    target.unlink()
    return data


def test_a_packed_image_by_path(qup: Qup, project: Callable[..., Path], raw: bytes) -> None:
    project('[machine]\nbox = "./a.img.gz"\n')
    Path("a.img.gz").write_bytes(gzip.compress(raw))
    qup("box", "build", "./a.img.gz").ok()
    assert box(qup)["details"]["packing"] == "gzip"
    assert disk_of(qup, "./a.img.gz") == raw
    qup("validate").ok()


def test_a_digest_of_a_path(qup: Qup, project: Callable[..., Path], raw: bytes) -> None:
    project()
    Path("a.img").write_bytes(raw)
    done = qup("box", "build", f"./a.img#sha256={sha256(b'other')}")
    assert done.code == 8
    assert sha256(raw) in done.stderr
    assert sha256(b"other") in done.stderr
    qup("box", "build", f"./a.img#sha256={sha256(raw)}").ok()
    Path("with#hash.img").write_bytes(raw)
    qup("box", "build", "./with#hash.img").ok()
    assert qup("box", "build", "./a.img#md5=1").code == 8


def test_by_address(qup: Qup, project: Callable[..., Path], web: Web, raw: bytes) -> None:
    """Packed in a tar in a gzip; the digest is beside it, as distributors do it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("disk.raw")
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))
    web.put("/cloud/image.tar.gz", buffer.getvalue())
    web.put("/cloud/SHA256SUMS", f"{sha256(buffer.getvalue())}  image.tar.gz\n")
    url = web.url("/cloud/image.tar.gz")
    project()
    done = qup("box", "build", url).ok()
    assert "nobody says" not in done.stderr
    assert disk_of(qup, url) == raw
    details = box(qup)["details"]
    assert (details["format"], details["packing"]) == ("raw", "gzip, tar")
    assert details["vouched"].endswith("/cloud/SHA256SUMS")
    assert details["sha256"] == sha256(buffer.getvalue())
    assert details["virtual_size"] == len(raw)


def test_what_nobody_vouches_for_is_said_aloud(
    qup: Qup, project: Callable[..., Path], web: Web, raw: bytes
) -> None:
    web.put("/a.img", raw)
    project()
    done = qup("box", "build", web.url("/a.img")).ok()
    assert "nobody says" in done.stderr
    assert sha256(raw) in done.stderr


def test_a_table_in_the_qupfile(
    qup: Qup, project: Callable[..., Path], web: Web, raw: bytes
) -> None:
    web.put("/a.img", raw)
    url = web.url("/a.img")
    folder = project(
        f'[machine]\nbox = {{ url = "{url}", sha256 = "{sha256(raw)}", format = "raw" }}\n'
    )
    qup("validate").ok()
    name = f"{url}#sha256={sha256(raw)}&format=raw"
    plan = json.loads(qup("plan", "--json").ok().stdout)
    assert plan["machines"]["default"]["box"]["name"] == name
    qup("box", "build", name).ok()
    assert box(qup)["details"]["vouched"] == "given"

    (folder / "Qupfile").write_text(
        f'[machine]\nbox = {{ url = "{url}", sha256 = "{sha256(b"")}" }}\n'
    )
    done = qup("up")
    assert done.code == 8, done
    assert sha256(raw) in done.stderr


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("{}", "url"),
        ('{ url = "https://x/y.img", sha256 = "12" }', "64 hexadecimal digits"),
        ('{ url = "https://x/y.img", format = "iso" }', "qcow2"),
        ('{ url = "https://x/y.img", md5 = "12" }', "md5"),
        ('{ url = "https://x/y.img#a" }', "#"),
        ("{ url = 7 }", "text"),
        ("[1]", "box"),
    ],
)
def test_wrong_tables(qup: Qup, project: Callable[..., Path], table: str, word: str) -> None:
    project(f"[machine]\nbox = {table}\n")
    done = qup("validate")
    assert done.code == 4, done
    assert "Qupfile:2" in done.stderr
    assert word in done.stderr


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<!doctype html><html>sign in</html>", "web page"),
        (b"", "empty"),
        (b"MZ not zipped at all"[:2] + b"PK", None),
    ],
)
def test_what_a_server_sends_instead(
    qup: Qup, project: Callable[..., Path], web: Web, data: bytes, word: str | None
) -> None:
    web.put("/a.qcow2", data)
    project()
    done = qup("box", "build", f"{web.url('/a.qcow2')}#format=qcow2")
    assert done.code == 8, done
    assert "Traceback" not in done.stderr
    if word:
        assert word in done.stderr
    assert json.loads(qup("box", "list", "--json").ok().stdout)["boxes"] == []


SHORT = {"QUP_DOWNLOAD_TIMEOUT": "0.2"}


@pytest.mark.parametrize(
    ("file", "word"),
    [
        (File(location="/a.img"), "redirects in circles"),
        (File(location="file:///etc/passwd"), "not an http or https"),
        (File(bytes(1 << 20), claims=2 << 20, ranges=False), "breaks off after 1M"),
        (File(bytes(1 << 20), pace=30), "stalled: nothing came for 0.2 s"),
        (File(bytes(1 << 20), claims=1 << 60), "the most is 64G"),
    ],
    ids=["a circle", "a file", "a lie", "silence", "a petabyte"],
)
def test_servers_that_lead_nowhere(
    qup: Qup, project: Callable[..., Path], web: Web, file: File, word: str
) -> None:
    """Each ends soon, says why, and leaves no box; the next command works."""
    web.files["/a.img"] = file
    folder = project()
    done = qup("box", "build", web.url("/a.img"), env=SHORT)
    assert done.code == 8, done
    assert "Traceback" not in done.stderr
    assert word in done.stderr.partition("error: ")[2]
    assert json.loads(qup("box", "list", "--json").ok().stdout)["boxes"] == []
    assert [path.name for path in folder.iterdir()] == ["Qupfile"]


def test_plain_http_needs_a_digest(qup: Qup, project: Callable[..., Path]) -> None:
    project()
    done = qup("box", "build", "http://images.example/a.img")
    assert done.code == 8
    assert "#sha256=" in done.stderr


def test_a_vagrant_box(qup: Qup, project: Callable[..., Path], raw: bytes) -> None:
    """Its image is taken; its Vagrantfile, which would be a program, is not looked at."""
    project()
    with tarfile.open("acme.box", "w:gz") as tar:
        for name, data in (
            ("./metadata.json", b'{"provider": "libvirt", "format": "raw", "virtual_size": 1}'),
            ("./Vagrantfile", b"abort 'executed'"),
            ("./box.img", raw),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    qup("box", "build", "acme.box").ok()
    assert disk_of(qup, "acme.box") == raw


# --- images that are none, by path: clear, and nothing is left ------------------------------


def make_qcow2(path: Path, *more: str) -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, path, "8M"], check=True)
    return path.read_bytes()


def make_encrypted(path: Path) -> bytes:
    """One whose header says LUKS: QEMU itself measures this computer to make a real one."""
    data = bytearray(make_qcow2(path))
    data[32:36] = (2).to_bytes(4, "big")
    return bytes(data)


def make_truncated(path: Path) -> bytes:
    """A qcow2 whose header and tables are there, and most of its data isn't."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(os.urandom(4 << 20))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, path], check=True)
    return path.read_bytes()[: 2 << 20]


def make_backed(path: Path) -> bytes:
    make_qcow2(path.with_suffix(".base"))
    return make_qcow2(path, "-b", str(path.with_suffix(".base")), "-F", "qcow2")


def make_two_disks(path: Path) -> bytes:
    """A box for vagrant-libvirt with two disks."""
    told = {"provider": "libvirt", "disks": [{"path": "a.img"}, {"path": "b.img"}]}
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (("metadata.json", json.dumps(told).encode()), ("a.img", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


BAD: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a page": (lambda _: b"<html><title>Sign in</title>" + bytes(4096), "a web page"),
    "empty": (lambda _: b"", "empty"),
    "encrypted": (make_encrypted, "is encrypted"),
    "luks": (lambda _: b"LUKS\xba\xbe" + bytes(1 << 20), "an encrypted volume"),
    "cut off": (make_truncated, "breaks off"),
    "cut off in its header": (lambda path: make_qcow2(path)[:60], "damaged qcow2"),
    "over another": (make_backed, "backing file"),
    "with its data elsewhere": (
        lambda path: make_qcow2(path, "-o", f"data_file={path}.data"),
        "keeps its data in another",
    ),
    "of two disks": (make_two_disks, "it has 2 disks"),
    "of zeros": (lambda path: make_qcow2(path)[:4] + bytes(1 << 16), "version 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_path_that_leads_to_no_image(
    qup: Qup, project: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    make, word = BAD[name]
    project('[machine]\nbox = "./bad.img"\n')
    Path("bad.img").write_bytes(make(tmp_path / "made.qcow2"))
    done = qup("up")
    assert done.code == 8, done
    assert word in done.stderr
    assert "bad.img" in done.stderr
    assert not json.loads(qup("box", "list", "--json").ok().stdout)["boxes"]
    assert json.loads(qup("status", "--json").ok().stdout)["machines"][0]["status"] == "not-created"


@pytest.mark.parametrize(("kind", "word"), [("folder", "no regular file"), ("pipe", "no regular"),
                                            ("nothing", "does not exist")])  # fmt: skip
def test_a_path_that_leads_to_no_file(
    qup: Qup, project: Callable[..., Path], kind: str, word: str
) -> None:
    project('[machine]\nbox = "./bad.img"\n')
    if kind == "folder":
        Path("bad.img").mkdir()
    elif kind == "pipe":
        os.mkfifo("bad.img")
    done = qup("up", timeout=30)
    assert done.code == 8, done
    assert word in done.stderr


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ("nbd:localhost:1", "there is no box"),
        ("nbd:unix:x.img", "nbd:unix:x.img does not exist"),
        ('json:{"driver":"nbd"}', "there is no box"),
        ("fat:rw:/", "fat:rw: does not exist"),
        ("ssh://host/x.img", "begins with https://"),
        ("/dev/null", "no regular file"),
        ("ubuntu/24.4", "'qup box search' lists boxes by name"),
        ("tinny", "did you mean 'tiny'? 'qup box search' lists"),
    ],
)
def test_what_qemu_would_take_for_more_than_a_file(
    qup: Qup, project: Callable[..., Path], box: str, word: str
) -> None:
    project(f"[machine]\nbox = '{box}'\n")
    done = qup("plan")
    assert done.code == 8, done
    assert word in done.stderr
    assert len(done.stderr) < 400


def test_an_image_that_is_larger_than_the_disk(qup: Qup, project: Callable[..., Path]) -> None:
    """The key that is to be changed is named, and no machine is left."""
    project('[machine]\nbox = "./big.img"\ndisk = "1G"\n[machine.qemu]\naccelerator = "tcg"\n')
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "big.img", "2G"], check=True)
    done = qup("up")
    assert done.code == 4, done
    assert "a disk of 1G is too small: the box has 2G" in done.stderr
    assert "raise 'disk'" in done.stderr
    assert json.loads(qup("status", "--json").ok().stdout)["machines"][0]["status"] == "not-created"
