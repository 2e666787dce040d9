"""Catalogs of Vagrant's: versions, providers, checksums; by address and by path."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qup.builtin.vagrant.catalog import choose
from qup.builtin.vagrant.versions import fits, make_key
from qup.errors import BoxError
from qup.model.reference import parse_reference, reference_of
from tests.conftest import Qup
from tests.fakes.web import Web, serve


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


def make_box(mark: bytes) -> bytes:
    """A box for libvirt, as ``vagrant package`` makes it."""
    image = bytes(510) + b"\x55\xaa" + mark.ljust(512, b".") + bytes((1 << 20) - 1024)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {
            "box.img": image,
            "metadata.json": b'{"provider": "libvirt", "format": "raw", "virtual_size": 1}',
            "Vagrantfile": b"Vagrant.configure('2') { raise }",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


ONE, TWO = make_box(b"one"), make_box(b"two")


def provider(url: str, data: bytes | None = None, **more: Any) -> dict[str, Any]:
    found = {"name": "libvirt", "url": url, **more}
    if data is not None:
        found |= {"checksum_type": "sha256", "checksum": hashlib.sha256(data).hexdigest()}
    return found


def versions(**providers: list[dict[str, Any]]) -> dict[str, Any]:
    """A catalog; ``v1_2`` is version 1.2."""
    entries = [
        {"version": name[1:].replace("_", "."), "providers": listed}
        for name, listed in providers.items()
    ]
    return {"name": "team/web", "description": "", "versions": entries}


# --- versions -------------------------------------------------------------------------------


def test_the_order_of_versions() -> None:
    """As RubyGems has it: numbers by value, letters before numbers, missing parts are zero."""
    ordered = ["0.9", "1.0.a", "1.0.rc1", "1.0", "1.0.1", "1.2", "1.10", "2", "20240101.0.0"]
    assert sorted(ordered, key=make_key) == ordered
    assert make_key("1") == make_key("1.0.0")
    assert make_key("1.0-rc1") < make_key("1.0")


@pytest.mark.parametrize(
    ("version", "constraint", "fit"),
    [
        ("1.2.3", "", True),
        ("1.2.3", "1.2.3", True),
        ("1.2.3", "= 1.2", False),
        ("1.2.3", ">= 1.2, < 2", True),
        ("2.0", ">= 1.2, < 2", False),
        ("1.2.9", "~> 1.2.3", True),
        ("1.3", "~> 1.2.3", False),
        ("1.9", "~> 1.2", True),
        ("2.0", "~> 1.2", False),
        ("1.1", "!= 1.1", False),
        ("1.2.rc1", "", False),
        ("1.2.rc1", ">= 1.2.rc1", True),
        ("1.2", "<= 1.2", True),
        ("1.2", "> 1.2", False),
    ],
)
def test_constraints(version: str, constraint: str, fit: bool) -> None:
    assert fits(version, constraint) is fit


@pytest.mark.parametrize("constraint", ["newest", ">=", "~> x", "1.2 3", "=> 1"])
def test_what_is_no_constraint(constraint: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        fits("1.2", constraint)


# --- catalogs -------------------------------------------------------------------------------


def test_the_newest_that_can_be_used_is_taken() -> None:
    """Another provider, another processor, a withdrawn version: the next one is it."""
    data = versions(
        v1_0=[provider("a")],
        v1_2=[provider("b", ONE), provider("c", name="virtualbox")],
        v1_3=[provider("d", architecture="arm64")],
        v1_4=[provider("e", name="virtualbox")],
        v1_5=[provider("f")],
    )
    data["versions"][-1]["status"] = "revoked"
    choice = choose(data, "here", "x86_64", "")
    assert (choice.version, choice.url) == ("1.2", "b")
    assert choice.digest == f"sha256:{hashlib.sha256(ONE).hexdigest()}"
    assert choose(data, "here", "aarch64", "").url == "d"
    # As Vagrant 2.4 lists them: one entry for each processor, one of which is the default.
    listed = [
        provider("x", architecture="i386", default_architecture=False),
        provider("y", architecture="arm64", default_architecture=True),
        provider("z", architecture="amd64", default_architecture=False, checksum="AB" * 32,
                 checksum_type="SHA256"),
    ]  # fmt: skip
    both = versions(v2_0_0=listed)
    assert choose(both, "here", "aarch64", "").url == "y"
    assert choose(both, "here", "x86_64", "").url == "z"
    assert choose(both, "here", "x86_64", "").digest == f"sha256:{'ab' * 32}"
    unsaid = versions(v1=[provider("u", architecture="unknown", default_architecture=True)])
    assert choose(unsaid, "here", "x86_64", "").url == "u"
    assert choose(data, "here", "x86_64", "< 1.2").url == "a"


@pytest.mark.parametrize(
    "checksum", [("md5", "0" * 32), ("sha1", "0" * 40), ("sha256", ""), (1, 2)]
)
def test_weak_checksums_are_none(checksum: tuple[Any, Any]) -> None:
    kind, value = checksum
    data = versions(v1=[provider("a", checksum_type=kind, checksum=value)])
    assert choose(data, "here", "x86_64", "").digest is None


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ([], "no 'versions'"),
        ({"versions": {}}, "no 'versions'"),
        ({"versions": []}, "no version"),
        ({"versions": [1, {"version": 2}, {"version": "x y"}]}, "no version"),
        ({"versions": [{"version": "1", "providers": "x"}]}, "no box for libvirt or qemu"),
        ({"versions": [{"version": "1", "providers": [{"name": "libvirt"}]}]}, "no box for"),
        (versions(v1=[provider("a", name="hyperv")]), "no box for libvirt or qemu with amd64"),
    ],
)
def test_what_is_no_catalog(data: Any, word: str) -> None:
    with pytest.raises(BoxError, match=word):
        choose(data, "here", "x86_64", "")


def test_references_with_a_version() -> None:
    text = reference_of({"url": "https://x/web.json", "version": ">= 1.2, < 2"})
    assert parse_reference(text).version == ">= 1.2, < 2"
    for wrong in (
        {"url": "https://x/web.img", "version": "1"},
        {"url": "a.json", "version": "$(x)"},
    ):
        with pytest.raises(ValueError, match="version"):
            reference_of(wrong)


# --- as a user ------------------------------------------------------------------------------


def boxes(qup: Qup) -> list[dict[str, Any]]:
    return list(json.loads(qup("box", "list", "--json").ok().stdout)["boxes"])


def publish(web: Web, *marks: bytes) -> None:
    """A catalog whose addresses are relative to it, with a version for each box."""
    listed = {}
    for number, data in enumerate(marks, 1):
        web.put(f"/boxes/{number}.box", data)
        listed[f"v1_{number}"] = [provider(f"{number}.box", data)]
    web.put_json("/boxes/web.json", versions(**listed))


def test_by_address(qup: Qup, project: Callable[..., Path], web: Web) -> None:
    """The newest is taken and pinned; a newer one is noticed, and taken when that is asked for."""
    publish(web, ONE)
    url = web.url("/boxes/web.json")
    folder = project(f'[machine]\nbox = "{url}"\n')
    qup("box", "update").ok()
    [box] = boxes(qup)
    assert box["spec"]["version"] == "1.1"
    assert (box["spec"]["user"], box["spec"]["seeder"]) == ("vagrant", "vagrant")
    assert box["details"]["vouched"] == "given"
    assert hashlib.sha256(ONE).hexdigest() in (folder / "qup.lock").read_text()

    publish(web, ONE, TWO)
    assert "there is version 1.2" in qup("box", "outdated").ok().stdout
    qup("box", "rm", url).ok()
    qup("box", "build", url).ok()  # the lock holds, though there is a newer one
    assert boxes(qup)[0]["spec"]["version"] == "1.1"
    qup("box", "update").ok()
    assert {box["spec"]["version"] for box in boxes(qup)} == {"1.1", "1.2"}
    assert hashlib.sha256(TWO).hexdigest() in (folder / "qup.lock").read_text()


def test_by_path_with_a_constraint(qup: Qup, project: Callable[..., Path]) -> None:
    folder = project('[machine]\nbox = { url = "boxes/web.json", version = "< 1.2" }\n')
    (folder / "boxes").mkdir()
    (folder / "boxes" / "1.box").write_bytes(ONE)
    (folder / "boxes" / "2.box").write_bytes(TWO)
    data = versions(v1_1=[provider("1.box", ONE)], v1_2=[provider("2.box", TWO)])
    (folder / "boxes" / "web.json").write_text(json.dumps(data))
    qup("validate").ok()
    qup("box", "update").ok()
    assert boxes(qup)[0]["spec"]["version"] == "1.1"


def test_a_wrong_checksum(qup: Qup, project: Callable[..., Path], web: Web) -> None:
    publish(web, ONE)
    web.put("/boxes/1.box", TWO)
    project()
    done = qup("box", "build", web.url("/boxes/web.json"))
    assert done.code == 8
    assert hashlib.sha256(TWO).hexdigest() in done.stderr


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://x/y.box"])
def test_a_catalog_names_no_file_of_this_computer(
    qup: Qup, project: Callable[..., Path], web: Web, place: str
) -> None:
    web.put_json("/web.json", versions(v1=[provider(place)]))
    project()
    done = qup("box", "build", web.url("/web.json"))
    assert done.code == 8
    assert "not an http(s) address" in done.stderr


@pytest.mark.parametrize(
    ("text", "word"), [("<html>", "not JSON"), ("[1]", "not a Vagrant catalog")]
)
def test_documents_of_another_kind(
    qup: Qup, project: Callable[..., Path], web: Web, text: str, word: str
) -> None:
    web.put("/web.json", text)
    folder = project()
    (folder / "web.json").write_text(text)
    for name in (web.url("/web.json"), "./web.json"):
        done = qup("box", "build", name)
        assert done.code == 8, done
        assert word in done.stderr or "does not return JSON" in done.stderr
