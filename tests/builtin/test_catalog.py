"""Boxes by name and what they are pinned to: catalogs, qup.lock, and what the cache can do without.

A server on loopback stands in for the distributors'.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qup.api import BoxError
from qup.builtin.catalog.entries import ARCHES, parse_catalog, read_entries
from qup.builtin.catalog.source import Catalog
from tests.conftest import Done, Qup
from tests.fakes.web import Web, serve


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


def image(mark: bytes) -> bytes:
    return bytes(510) + b"\x55\xaa" + mark.ljust(512, b".") + bytes((1 << 20) - 1024)


ONE, TWO = image(b"one"), image(b"two")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def publish(web: Web, data: bytes) -> None:
    web.put("/img/acme-x86_64.img", data)
    web.put("/img/SUMS", f"{sha256(data)} *acme-x86_64.img\n")


def catalog(web: Web, name: str = "acme/1", more: str = "") -> str:
    return (
        f'["{name}"]\ntitle = "Acme Linux"\nuser = "acme"\narches = ["x86_64"]\n{more}'
        f'url = "{web.url("/img/acme-{arch}.img")}"\nsums = "{web.url("/img/SUMS")}"\n'
    )


def boxes(qup: Qup) -> list[dict[str, Any]]:
    return list(json.loads(qup("box", "list", "--json").ok().stdout)["boxes"])


# --- catalogs -----------------------------------------------------------------------------


def test_qups_own_catalog_is_sound() -> None:
    """Every address is https, names its processor, and has its digests at the same host."""
    entries = list(read_entries(None))
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names))
    for distribution in ("debian", "ubuntu", "fedora", "almalinux", "rocky", "opensuse", "arch",
                         "alpine", "freebsd"):  # fmt: skip
        assert any(name.startswith(f"{distribution}/") for name in names), distribution
    for entry in entries:
        if entry.recipe:  # made here, from the host's own sources
            continue
        for arch in entry.arches:
            urls, sums = (
                [entry.address(text, arch) for text in texts]
                for texts in ((entry.url, *entry.mirrors), entry.sums)
            )
            for url, place in zip(urls, sums, strict=True):
                assert urlsplit(url).scheme == urlsplit(place).scheme == "https", entry
                assert urlsplit(url).netloc == urlsplit(place).netloc, entry
                assert "{" not in url + place
                assert arch in url or ARCHES[arch] in url, entry


def test_a_users_catalog(qup: Qup, project: Callable[..., Path], web: Web) -> None:
    publish(web, ONE)
    folder = Path(os.environ["QUP_CONFIG_DIR"])
    folder.mkdir(parents=True)
    (folder / "boxes.toml").write_text(catalog(web))
    project('[machine]\nbox = "acme/1"\n')
    plan = json.loads(qup("plan", "--json").ok().stdout)["machines"]["default"]
    assert plan["seed"]["user"] == "acme"
    qup("box", "build", "acme/1").ok()
    (box,) = boxes(qup)
    assert box["spec"]["user"] == "acme"
    assert box["details"]["sha256"] == sha256(ONE)
    assert box["details"]["vouched"].endswith("/img/SUMS")


def test_the_project_comes_first_and_search_finds_it(
    qup: Qup, project: Callable[..., Path], web: Web
) -> None:
    folder = project()
    (folder / "boxes.toml").write_text(catalog(web, "ubuntu/24.04"))
    done = qup("box", "search", "ACME").ok()
    assert "ubuntu/24.04" in done.stdout
    found = json.loads(qup("box", "search", "ubuntu", "--json").ok().stdout)["boxes"]
    by_name = {item["name"]: item for item in found}
    assert by_name["ubuntu/24.04"]["origin"] == str(folder / "boxes.toml")
    assert by_name["ubuntu/22.04"]["origin"] == "qup"
    assert qup("box", "search", "no-such-thing").code == 8


def test_a_catalog_can_not_speak_to_the_terminal(qup: Qup, project: Callable[..., Path]) -> None:
    folder = project()
    text = r'"\u001b[31mred\u0007 \u202eblue"'
    (folder / "boxes.toml").write_text(
        f'["evil/1"]\ntitle = {text}\nnote = {text}\nurl = "https://x.example/a.img"\n'
        f'sha256 = "{"a" * 64}"\n'
    )
    said = qup("box", "search", "evil").ok().stdout
    assert said.count("red blue") == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


def test_what_is_not_published_is_not_trusted(
    qup: Qup, project: Callable[..., Path], web: Web
) -> None:
    publish(web, ONE)
    web.put("/img/SUMS", f"{sha256(ONE)}  another.img\n")
    folder = project()
    (folder / "boxes.toml").write_text(catalog(web))
    done = qup("box", "build", "acme/1")
    assert done.code == 8
    assert "has no digest for acme-x86_64.img" in done.stderr
    publish(web, ONE)
    web.put("/img/acme-x86_64.img", TWO)
    done = qup("box", "build", "acme/1")
    assert done.code == 8
    assert sha256(TWO) in done.stderr
    assert boxes(qup) == []


def test_mirrors_are_asked_in_their_order(qup: Qup, project: Callable[..., Path], web: Web) -> None:
    """One is gone, one has another file, the third has the very one; the digest decides."""
    publish(web, ONE)
    del web.files["/img/acme-x86_64.img"]
    web.put("/second/acme-x86_64.img", TWO)
    web.put("/third/acme-x86_64.img", ONE)
    mirrors = [web.url(f"/{place}/acme-{{arch}}.img") for place in ("second", "third")]
    folder = project()
    (folder / "boxes.toml").write_text(catalog(web, more=f"mirrors = {json.dumps(mirrors)}\n"))
    done = qup("box", "build", "acme/1").ok()
    assert "2 more places to try" in done.stderr
    assert "1 more place to try" in done.stderr
    [box] = boxes(qup)
    assert box["details"]["url"] == web.url("/third/acme-x86_64.img")
    assert box["details"]["sha256"] == sha256(ONE)

    web.files.pop("/third/acme-x86_64.img")
    done = qup("box", "build", "--force", "acme/1")
    assert done.code == 8
    assert "none of 3 places" in done.stderr


def test_lists_of_digests_have_mirrors_too(
    qup: Qup, project: Callable[..., Path], web: Web
) -> None:
    """The first that has the digest counts, and is named; none of them is an error with all."""
    publish(web, ONE)
    web.put("/old/SUMS", "nothing\n")
    folder = project('[machine]\nbox = "acme/1"\n')
    entry = catalog(web).rpartition("sums = ")[0]
    places = [web.url("/gone/SUMS"), web.url("/old/SUMS"), web.url("/img/SUMS")]
    (folder / "boxes.toml").write_text(f"{entry}sums = {json.dumps(places)}\n")
    qup("box", "update").ok()
    assert boxes(qup)[0]["details"]["vouched"] == places[2]
    assert qup("box", "outdated").ok().stdout.split()[-1] == "no"
    (folder / "boxes.toml").write_text(f"{entry}sums = {json.dumps(places[:2])}\n")
    done = qup("box", "build", "acme/1", "--force")
    assert done.code == 8
    for word in ("none of 2 places", "/gone/SUMS", "/old/SUMS has no digest"):
        assert word in done.stderr


def test_many_at_once_fetch_a_box_once(qup: Qup, project: Callable[..., Path], web: Web) -> None:
    """The others wait for the first, and use what it has got."""
    publish(web, ONE)
    folder = project()
    (folder / "boxes.toml").write_text(catalog(web))
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: qup("box", "build", "acme/1", timeout=120), range(4)))
    assert [one.code for one in done] == [0, 0, 0, 0]
    assert len(web.requests("/img/acme-x86_64.img")) == 1
    assert len(boxes(qup)) == 1


def test_a_processor_that_a_box_is_not_for(tmp_path: Path) -> None:
    (tmp_path / "boxes.toml").write_text(
        '["a/1"]\nurl = "https://x/y"\nsha256 = "0"\narches = []\n'
    )
    with pytest.raises(BoxError, match="does not exist for x86_64"):
        Catalog().resolve("a/1", "x86_64", tmp_path)


def test_recipes(tmp_path: Path) -> None:
    (tmp_path / "boxes.toml").write_text(
        '["team/base"]\nrecipe = { suite = "bookworm", packages = ["git", "g++"] }\n'
        '["team/plain"]\nrecipe = { suite = "bookworm" }\n'
        '["team/quiet"]\n'
        'recipe = { suite = "bookworm", packages = ["git", "g++"], disabled = ["x.service"] }\n'
    )
    one = Catalog().resolve("team/base", "x86_64", tmp_path)
    two = Catalog().resolve("team/plain", "x86_64", tmp_path)
    assert one is not None
    assert two is not None
    assert (one.user, one.kernel) == ("debian", True)
    three = Catalog().resolve("team/quiet", "x86_64", tmp_path)
    assert three is not None
    assert len({one.key, two.key, three.key}) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("=", "damaged"),
        ("schema = 9", "schema 9"),
        ('["A/1"]\nurl = "https://x"\nsha256 = "0"', "lower case"),
        ('["a/b/c"]\nurl = "https://x"\nsha256 = "0"', "one '/'"),
        ('["a/1"]', "either 'url' or 'recipe'"),
        ('["a/1"]\nurl = "https://x"', "sums"),
        ('["a/1"]\nurl = "https://x"\nsums = "https://x"\nscript = "rm"', "script is not known"),
        ('["a/1"]\nurl = 7\nsums = "https://x"', "url has to be text"),
        ('["a/1"]\nurl = "https://x"\nsums = "https://x"\nuser = "-oX"', "no user's name"),
        ('["a/1"]\nurl = "https://x"\nsums = "https://x"\narches = ["vax"]', "arches"),
        ('["a/1"]\nrecipe = { suite = "../x" }', "code name"),
        ('["a/1"]\nrecipe = { suite = "sid", packages = ["--option"] }', "packages"),
        ('["a/1"]\nrecipe = { suite = "sid", hook = "x" }', "recipe"),
        ('["a/1"]\nrecipe = { suite = "sid", disabled = ["$(x).service"] }', "disabled"),
        ('["a/1"]\nrecipe = { suite = "sid", disabled = "x.service" }', "disabled"),
        ("a = 1", "not a table"),
    ],
)
def test_wrong_catalogs(text: str, word: str) -> None:
    with pytest.raises(BoxError) as caught:
        parse_catalog(text.encode(), "boxes.toml")
    assert word in str(caught.value)
    assert "boxes.toml" in str(caught.value)


# --- qup.lock -----------------------------------------------------------------------------


@pytest.fixture
def acme(project: Callable[..., Path], web: Web) -> Path:
    publish(web, ONE)
    folder = project('[machine]\nbox = "acme/1"\n[machine.qemu]\naccelerator = "tcg"\n')
    (folder / "boxes.toml").write_text(catalog(web))
    return folder


def update(qup: Qup) -> Done:
    return qup("box", "update")


def pin(folder: Path) -> dict[str, Any]:
    (found,) = tomllib.loads((folder / "qup.lock").read_text())["box"]
    return dict(found)


def test_update_pins_and_build_holds_to_it(qup: Qup, acme: Path, web: Web) -> None:
    assert "qup.lock" in update(qup).ok().stderr
    pinned = pin(acme)
    assert (pinned["name"], pinned["arch"]) == ("acme/1", "x86_64")
    assert (pinned["sha256"], pinned["size"]) == (sha256(ONE), len(ONE))
    before = (acme / "qup.lock").read_bytes()

    # Another one is published: whoever has the lock and no cache is told.
    publish(web, TWO)
    done = qup("box", "build", "acme/1", env={"QUP_CACHE_DIR": str(acme / "other")})
    assert done.code == 8, done
    assert "has changed since qup.lock was written" in done.stderr
    assert "qup box update acme/1" in done.stderr
    assert (acme / "qup.lock").read_bytes() == before

    # Who has the pinned one in the cache goes on with it, whatever is current.
    qup("box", "build", "acme/1").ok()
    listed = json.loads(qup("box", "outdated", "--json").ok().stdout)["boxes"]
    assert [row["newer"] for row in listed] == ["there is a newer image"]
    update(qup).ok()
    assert pin(acme)["sha256"] == sha256(TWO)
    (acme / "qup.lock").write_bytes(before)
    plan = json.loads(qup("plan", "--json").ok().stdout)["machines"]["default"]
    old = next(box for box in boxes(qup) if box["details"]["sha256"] == sha256(ONE))
    assert plan["box_digest"] == old["digest"]


def test_what_nobody_vouches_for_is_pinned_aloud(
    qup: Qup, project: Callable[..., Path], web: Web
) -> None:
    web.put("/a.img", ONE)
    folder = project(f'[machine]\nbox = "{web.url("/a.img")}"\n')
    assert "nobody else vouches" in update(qup).ok().stderr
    assert pin(folder)["sha256"] == sha256(ONE)
    web.put("/a.img", TWO)
    done = qup("box", "build", web.url("/a.img"), env={"QUP_CACHE_DIR": str(folder / "other")})
    assert done.code == 8
    assert sha256(TWO) in done.stderr


@pytest.mark.qemu
def test_the_first_machine_pins(qup: Qup, acme: Path, web: Web) -> None:
    """Nothing on the disk boots; what matters here has happened by then."""
    done = qup("up", "--boot-timeout", "1s")
    assert done.code == 10, done
    assert "qup.lock: box acme/1 is" in done.stderr
    assert pin(acme)["sha256"] == sha256(ONE)
    publish(web, TWO)
    qup("destroy", "-y").ok()
    done = qup("up", "--boot-timeout", "1s")
    assert done.code == 10, done
    assert "getting box" not in done.stderr
    assert pin(acme)["sha256"] == sha256(ONE)


@pytest.mark.parametrize(
    "text",
    ["=", "schema = 2", "schema = 1\nbox = 7", "schema = 1\n[[box]]\nname = 1",
     'schema = 1\n[[box]]\nname = "a"\narch = "b"\nurl = ""\nsha256 = "x"\nsize = 1\n'],
)  # fmt: skip
def test_a_damaged_lock(qup: Qup, acme: Path, text: str) -> None:
    (acme / "qup.lock").write_text(text)
    done = qup("plan")
    assert done.code == 4, done
    assert "qup.lock" in done.stderr
    assert "Traceback" not in done.stderr


def test_update_knows_the_projects_boxes_only(qup: Qup, acme: Path) -> None:
    done = qup("box", "update", "ubuntu/24.04")
    assert done.code == 4
    assert "acme/1" in done.stderr


# --- the cache ----------------------------------------------------------------------------


def test_prune_keeps_what_is_current(qup: Qup, acme: Path, web: Web) -> None:
    update(qup).ok()
    publish(web, TWO)
    update(qup).ok()
    assert len(boxes(qup)) == 2
    done = qup("box", "prune", "--dry-run").ok()
    assert "would be freed" in done.stdout
    assert len(boxes(qup)) == 2
    removed = json.loads(qup("box", "prune", "--json").ok().stdout)["removed"]
    assert len(removed) == 1
    (left,) = boxes(qup)
    assert left["details"]["sha256"] == sha256(TWO)
    assert "nothing to remove" in qup("box", "prune").ok().stdout
    qup("box", "prune", "--all").ok()
    assert boxes(qup) == []


def test_outdated_without_a_network(qup: Qup, acme: Path) -> None:
    update(qup).ok()
    (row,) = json.loads(qup("--offline", "box", "outdated", "--json").ok().stdout)["boxes"]
    assert row["newer"] is None
    assert row["problem"]


# --- names ------------------------------------------------------------------------------------


def test_an_image_gets_a_name(qup: Qup, project: Callable[..., Path], web: Web) -> None:
    web.put("/db.img", TWO)
    folder = project('[machine]\nbox = "team/web"\n')
    (folder / "web image.img").write_bytes(ONE)
    qup("box", "add", "team/web", "./web image.img", "--user", "web").ok()
    qup("box", "add", "team/db", web.url("/db.img"), "--title", 'The "db"').ok()
    found = {box["spec"]["name"]: box for box in boxes(qup)}
    assert found["team/web"]["spec"]["user"] == "web"
    catalog = tomllib.loads((Path(os.environ["QUP_CONFIG_DIR"]) / "boxes.toml").read_text())
    assert catalog["team/web"]["sha256"] == sha256(ONE)
    assert catalog["team/db"]["sha256"] == sha256(TWO)
    assert 'The "db"' in qup("box", "search", "team").ok().stdout
    plan = json.loads(qup("plan", "--json").ok().stdout)["machines"]["default"]
    assert plan["box"]["name"] == "team/web"

    again = qup("box", "add", "team/web", "./web image.img")
    assert again.code == 8
    assert "already" in again.stderr
    # The file is another one now: who has no cache is told.
    (folder / "web image.img").write_bytes(TWO)
    done = qup("box", "build", "team/web", env={"QUP_CACHE_DIR": str(folder / "other")})
    assert done.code == 8
    assert sha256(TWO) in done.stderr


@pytest.mark.parametrize(
    ("name", "source"),
    [("Team", "./a.img"), ("team/a", "./none.img"), ("team/a", "./html.img"), ("a/b/c", "./a.img")],
)
def test_what_gets_no_name(qup: Qup, project: Callable[..., Path], name: str, source: str) -> None:
    project()
    Path("a.img").write_bytes(ONE)
    Path("html.img").write_bytes(b"<html>" + bytes(1024))
    done = qup("box", "add", name, source)
    assert done.code == 8, done
    catalog = Path(os.environ["QUP_CONFIG_DIR"]) / "boxes.toml"
    assert not catalog.exists() or catalog.read_text() == ""
    qup("box", "search").ok()


def test_what_killed_makings_left_goes(qup: Qup, project: Callable[..., Path]) -> None:
    project()
    cache = Path(os.environ["QUP_CACHE_DIR"]) / "boxes"
    for name, age in (("old", 90_000), ("new", 10)):
        draft = cache / f".building-{name}"
        draft.mkdir(parents=True)
        (draft / "root.raw").write_bytes(b"x")
        for path in (draft / "root.raw", draft):
            then = time.time() - age
            os.utime(path, (then, then))
    qup("box", "prune").ok()
    assert [path.name for path in cache.glob(".building-*")] == [".building-new"]
