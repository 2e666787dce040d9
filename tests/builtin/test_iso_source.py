"""Boxes that are ISOs, from servers on loopback, through the command line."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qup.builtin.iso import releases
from qup.builtin.iso.families import find_family
from qup.builtin.iso.source import Iso, Latest
from qup.errors import BoxError
from qup.images import inspect_iso
from tests.conftest import Done, Qup
from tests.fakes.isos import API, make_iso, publish
from tests.fakes.web import Web, serve

NEW, OLD = make_iso("b2d-v19.03.12", b"new"), make_iso("b2d-v18.09.1", b"old")


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


@pytest.fixture
def folder(project: Callable[..., Path]) -> Path:
    return project("")


def build(qup: Qup, reference: str, *words: str, **env: str) -> Done:
    return qup("box", "build", *words, reference, env=env)


def box_of(qup: Qup) -> dict[str, Any]:
    """The newest box in the cache."""
    found: dict[str, Any] = json.loads(qup("box", "list", "--json").ok().stdout)["boxes"][0]
    return found


# --- what an ISO is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "family", "version"),
    [
        ("b2d-v19.03.12", "boot2docker", "v19.03.12"),
        ("Boot2Docker-v1.9.1", "boot2docker", "v1.9.1"),
        ("RancherOS", "rancheros", ""),
        ("RANCHEROS-v1.5.8", "rancheros", "v1.5.8"),
    ],
)
def test_families_by_label(label: str, family: str, version: str) -> None:
    found = find_family(label)
    assert found is not None
    assert (found.name, found.version(label)) == (family, version)


def test_others_have_no_family() -> None:
    assert find_family("Debian 12.5.0 amd64 n") is None


def test_the_label_is_at_0x8028(tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(NEW)
    assert NEW[0x8028:].startswith(b"b2d-v19.03.12 ")
    assert inspect_iso(path) == "b2d-v19.03.12"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"<html><title>404</title>", "a web page, not an ISO"),
        (b"QFI\xfb" + bytes(40000), "a qcow2 image, not an ISO"),
        (bytes(40000), "something else"),
        (NEW[:32769] + b"CD001", "not an ISO"),
        (NEW[:-4096], "was cut off"),
    ],
)
def test_what_is_no_iso(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(data)
    with pytest.raises(BoxError, match=match):
        inspect_iso(path)


def test_escapes_in_a_label_are_taken_out(tmp_path: Path) -> None:
    data = bytearray(NEW)
    data[0x8028:0x8048] = b"\x1b[31mred\x07".ljust(32)
    path = tmp_path / "x.iso"
    path.write_bytes(data)
    assert inspect_iso(path) == "red"


# --- by path --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_by_path(qup: Qup, folder: Path, prefix: str) -> None:
    (folder / "b2d.iso").write_bytes(NEW)
    reference = f"{prefix}{folder}/b2d.iso" if prefix else "./b2d.iso"
    place = Path(build(qup, reference).ok().stdout.strip())
    assert (place / "boot.iso").read_bytes() == NEW
    assert (place / "boot.iso").stat().st_mode & 0o777 == 0o444
    spec = box_of(qup)["spec"]
    assert (spec["user"], spec["seeder"], spec["version"]) == ("docker", "format-me", "v19.03.12")


def test_rancheros_wants_its_disk_first(qup: Qup, folder: Path) -> None:
    (folder / "r.iso").write_bytes(make_iso("RancherOS"))
    build(qup, "r.iso").ok()
    spec = box_of(qup)["spec"]
    assert (spec["user"], spec["seeder"], spec["disk_first"]) == ("rancher", "rancheros", True)


@pytest.mark.parametrize("right", [True, False])
def test_a_pinned_path(qup: Qup, folder: Path, right: bool) -> None:
    (folder / "b2d.iso").write_bytes(NEW if right else OLD)
    done = build(qup, f"./b2d.iso#sha256={hashlib.sha256(NEW).hexdigest()}")
    assert done.code == (0 if right else 8)
    assert right or "not what it should be" in done.stderr


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None])
def test_a_folder_or_nothing(qup: Qup, folder: Path, make: Callable[[Path], Any]) -> None:
    make(folder / "x.iso")
    done = build(qup, "x.iso")
    assert done.code == 8
    assert "x.iso is a folder" in done.stderr or "does not exist" in done.stderr


def test_an_iso_where_a_disk_is_expected(qup: Qup, folder: Path) -> None:
    (folder / "x.img").write_bytes(NEW)
    done = build(qup, "./x.img")
    assert done.code == 8
    assert "an ISO image" in done.stderr


# --- by address -----------------------------------------------------------------------------


def test_by_address(qup: Qup, folder: Path, web: Web) -> None:
    web.put("/x/b2d.iso", NEW)
    done = build(qup, web.url("/x/b2d.iso")).ok()
    assert hashlib.sha256(NEW).hexdigest() in done.stderr  # how to pin it
    details = box_of(qup)["details"]
    assert (details["family"], details["label"]) == ("boot2docker", "b2d-v19.03.12")
    again = build(qup, web.url("/x/b2d.iso")).ok()
    assert "is here already" in again.stderr
    assert len(web.requests("/x/b2d.iso")) == 1


def test_an_address_is_pinned(qup: Qup, folder: Path, web: Web) -> None:
    """Another file at that address is refused until somebody asks for it."""
    web.put("/x.iso", OLD)
    url = web.url("/x.iso")
    (folder / "Qupfile").write_text(f'[machine]\nbox = "{url}"\n')
    qup("box", "update").ok()
    pinned = (folder / "qup.lock").read_text()
    assert hashlib.sha256(OLD).hexdigest() in pinned
    assert f"size = {len(OLD)}" in pinned
    web.put("/x.iso", NEW)
    qup("box", "rm", url).ok()
    done = qup("box", "build", url)
    assert done.code == 8
    assert "has changed since qup.lock was written" in done.stderr
    assert f"'qup box update {url}'" in done.stderr
    qup("box", "update").ok()
    assert hashlib.sha256(NEW).hexdigest() in (folder / "qup.lock").read_text()


@pytest.mark.parametrize("right", [True, False])
def test_a_pinned_address(qup: Qup, folder: Path, web: Web, right: bool) -> None:
    web.put("/b2d.iso", NEW if right else OLD)
    done = build(qup, f"{web.url('/b2d.iso')}#sha256={hashlib.sha256(NEW).hexdigest()}")
    assert done.code == (0 if right else 8)
    if not right:
        assert "not what it should be" in done.stderr
        assert json.loads(qup("box", "list", "--json").ok().stdout)["boxes"] == []


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("http://example.org/b2d.iso", "plain http"),
        ("https://user:secret@example.org/b2d.iso", "user or password"),
        ("https://api.github.com/repos/a/b/releases/latest#sha256=" + "0" * 64, "newest"),
        ("ftp://example.org/b2d.iso", "there is no box"),
        ("https://example.org/b2d.iso#format=raw", "it has no 'format'"),
        ("https://example.org/b2d.iso#nonsense", "not understood"),
    ],
)
def test_refused_addresses(qup: Qup, folder: Path, reference: str, word: str) -> None:
    done = build(qup, reference)
    assert done.code == 8
    assert word in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"<!doctype html>" + bytes(40000), "web page"), (bytes(40000), "not an ISO")],
)
def test_an_address_without_an_iso(
    qup: Qup, folder: Path, web: Web, data: bytes, word: str
) -> None:
    web.put("/b2d.iso", data)
    done = build(qup, web.url("/b2d.iso"))
    assert done.code == 8
    assert word in done.stderr
    assert list(folder.parent.glob("**/.building-*")) == []


# --- by a releases API ----------------------------------------------------------------------


@pytest.mark.parametrize("digest", [True, False])
def test_by_an_api(qup: Qup, folder: Path, web: Web, digest: bool) -> None:
    publish(web, "v19.03.12", NEW, digest=digest)
    build(qup, web.url(API)).ok()
    details = box_of(qup)["details"]
    assert (details["release"], details["vouched"]) == ("v19.03.12", "given" if digest else None)


def test_the_digest_of_an_api_counts(qup: Qup, folder: Path, web: Web) -> None:
    path = publish(web, "v19.03.12", NEW, digest=True)
    web.put(path, OLD)
    assert build(qup, web.url(API)).code == 8


def test_the_newest_boot2docker(qup: Qup, folder: Path, web: Web) -> None:
    publish(web, "v19.03.12", NEW)
    env = {"QUP_BOOT2DOCKER_RELEASES": web.url(API), "QUP_GITHUB_TOKEN": "t0ken"}
    build(qup, "boot2docker", **env).ok()
    assert box_of(qup)["spec"]["version"] == "v19.03.12"
    assert web.requests(API)[0]["Authorization"] == "token t0ken"
    assert "Authorization" not in web.requests("/download/v19.03.12/boot2docker.iso")[0]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({}, "has no release"),
        ([], "has no release"),
        ({"tag_name": "v1", "assets": []}, "no boot2docker.iso"),
        ({"tag_name": "v1", "assets": [7, {"name": 3}]}, "no boot2docker.iso"),
    ],
)
def test_an_api_that_says_nothing(
    qup: Qup, folder: Path, web: Web, answer: object, word: str
) -> None:
    web.put_json(API, answer)
    done = build(qup, "boot2docker", QUP_BOOT2DOCKER_RELEASES=web.url(API))
    assert done.code == 8
    assert word in done.stderr


def test_an_api_that_is_gone(qup: Qup, folder: Path, web: Web) -> None:
    done = build(qup, "boot2docker", QUP_BOOT2DOCKER_RELEASES=web.url(API))
    assert done.code == 8
    assert "HTTP 404" in done.stderr


def test_offline_without_a_cache(qup: Qup, folder: Path, web: Web) -> None:
    done = qup("--offline", "box", "build", "boot2docker")
    assert done.code == 8
    assert "--offline" in done.stderr
    assert "api.github.com" in done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.github.com/repos/a/b/releases/latest", True),
        ("https://api.github.com/repos/a/b/releases/tags/v1", True),
        ("https://git.example/api/v3/repos/a/b/releases/latest", True),
        ("https://git.example/api/v3/repos/a/b/releases", True),
        ("https://github.com/a/b/releases/latest", False),
        ("https://git.example/repos/a/b/releases/latest", False),
        ("https://api.github.com/repos/a/b/releases/latest/../../x", False),
        ("https://[::1/api/v3/repos/a/b/releases/latest", False),
    ],
)
def test_what_looks_like_an_api(url: str, expected: bool) -> None:
    assert releases.is_api(url) is expected


def test_empty_means_boot2docker(tmp_path: Path) -> None:
    from qup.builtin.iso.families import FAMILIES

    found = [source.resolve("", "x86_64", tmp_path) for source in (Iso(), *map(Latest, FAMILIES))]
    assert [spec and spec.name for spec in found] == [None, "boot2docker", None]


def test_a_lying_size(tmp_path: Path) -> None:
    data = bytearray(NEW)
    struct.pack_into("<I", data, 0x8050, 1 << 31)
    (tmp_path / "x.iso").write_bytes(data)
    with pytest.raises(BoxError, match=r"cut off: .* of 4T"):
        inspect_iso(tmp_path / "x.iso")
