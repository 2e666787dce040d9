"""Box debian without making one: apt's sources, mmdebstrap's words and failures, what boots."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from qup.api import BoxError, Result
from qup.builtin.box_debian import Debian
from qup.builtin.debian import archive, boot, recipe
from qup.builtin.debian.archive import Source
from qup.builtin.tiny import debs
from qup.builtin.tiny.errors import RecipeError
from tests.conftest import Qup


def target(uri: str, release: str, *, origin: str = "Debian", component: str = "main") -> str:
    return (
        f"MetaKey: {component}/binary-amd64/Packages\nArchitecture: amd64\nComponent: {component}\n"
        f"Release: {release}\nRepo-URI: {uri}\nOrigin: {origin}\nSourcesentry: /nowhere:1\n"
    )


ARCHIVE, SECURITY = "http://one.example/debian/", "http://two.example/security/"
LISTING = "\n".join(
    [
        target(ARCHIVE, "bookworm"),
        target(ARCHIVE, "bookworm-updates"),
        target(ARCHIVE, "bookworm-backports"),
        target(ARCHIVE, "bookworm", component="contrib"),
        target(SECURITY, "bookworm-security"),
        target("http://other.example/", "bookworm", origin="Somebody"),
        target(ARCHIVE, "bookworm").replace("Architecture: amd64", "Architecture: all"),
    ]
)


def choose(listing: str, suite: str) -> list[tuple[str, str]]:
    sources = archive.choose_sources(archive.parse_targets(listing, "amd64"), suite)
    return [(source.uri, source.release) for source in sources]


def test_the_sources_of_a_release_are_debians_alone() -> None:
    assert choose(LISTING, "bookworm") == [
        (ARCHIVE, "bookworm"),
        (ARCHIVE, "bookworm-updates"),
        (SECURITY, "bookworm-security"),
    ]


def test_another_release_is_at_the_same_addresses() -> None:
    """Only what every release has: backports are a choice."""
    assert choose(LISTING, "trixie") == [
        (ARCHIVE, "trixie"),
        (ARCHIVE, "trixie-updates"),
        (SECURITY, "trixie-security"),
    ]


@pytest.mark.parametrize("listing", ["", target("http://u.example/", "noble", origin="Ubuntu")])
def test_a_computer_without_debian(listing: str) -> None:
    assert choose(listing, "bookworm") == []


class FakeApt:
    """Lists that only say whose archive is whose once they have been fetched."""

    def __init__(self, before: str, after: str, failure: RecipeError | None = None) -> None:
        self.answers = [before, after]
        self.failure = failure

    def targets(self) -> str:
        return self.answers[0]

    def fetch_lists(self) -> RecipeError | None:
        self.answers.pop(0)
        return self.failure


def find(apt: FakeApt) -> list[Source]:
    return archive.find_sources(apt, "bookworm", "amd64")  # type: ignore[arg-type]


def test_lists_are_fetched_where_there_are_none() -> None:
    assert [source.release for source in find(FakeApt("", LISTING))][:1] == ["bookworm"]


def test_no_network_and_no_debian_are_told_apart() -> None:
    offline = RecipeError("apt-get failed: no route", "look at the network")
    with pytest.raises(RecipeError, match="no route"):
        find(FakeApt("", "", offline))
    with pytest.raises(RecipeError, match="nothing of Debian") as caught:
        find(FakeApt("", target("http://u.example/", "noble", origin="Ubuntu")))
    assert "u.example" in str(caught.value)
    assert "sources.list" in caught.value.hint


def test_keys_are_the_ones_that_a_source_names(tmp_path: Path) -> None:
    one_line, deb822 = tmp_path / "a.list", tmp_path / "b.sources"
    one_line.write_text("# mine\ndeb [arch=amd64 signed-by=/k/one.gpg] http://x/ bookworm main\n")
    deb822.write_text("Types: deb\n\nTypes: deb\nSigned-By: /k/two.gpg\n")
    found = [
        archive.choose_sources([(ARCHIVE, "bookworm", "Debian", entry)], "bookworm")[0].keyring
        for entry in (f"{one_line}:2", f"{deb822}:2")
    ]
    assert found == ["/k/one.gpg", "/k/two.gpg"]


def test_settings_for_downloads_are_taken_along() -> None:
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://cache:3142";\n'
        'Acquire::https "";\nAcquire::Check-Valid-Until "false";\nAcquire::Languages "none";\n'
    )
    assert archive.find_settings(dump) == [
        'Acquire::http::Proxy "http://cache:3142";',
        'Acquire::Check-Valid-Until "false";',
    ]


def test_the_overlay_belongs_to_root_and_names_the_sources() -> None:
    data = recipe.make_overlay([Source(ARCHIVE, "bookworm", "/host/only.gpg")])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {member.uid for member in tar} == {0}
        sources = tar.extractfile("etc/apt/sources.list")
        assert sources is not None
        text = sources.read().decode()
        assert "etc/cloud/cloud.cfg.d/90-qup.cfg" in tar.getnames()
    assert text == f"deb [signed-by={archive.KEYRING}] {ARCHIVE} bookworm main\n"


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            "E: Failed to fetch http://one.example/x.deb  Could not connect to one.example",
            "Failed to fetch",
            "apt-get update",
        ),
        ("tar: write error: No space left on device\nE: setup failed", "no space left", "TMPDIR"),
        ("E: Unable to locate package nonesuch", "nonesuch", "no package of that name"),
        ("E: GPG error: x InRelease: NO_PUBKEY 12", "NO_PUBKEY", "debian-archive-keyring"),
        ("E: unable to pick chroot mode automatically", "chroot mode", "uidmap"),
        ("E: newuidmap 1 failed: 256", "newuidmap", "uidmap"),
        ("dpkg: error processing package x\nE: command failed: set -eu unshare", "package x", "|"),
        (
            (
                "exec: 12: cannot create /x/etc/motd: Permission denied\n"
                "E: setup failed: E: command failed: set -eu\nE: mmdebstrap failed to run"
            ),
            "cannot create /x/etc/motd",
            "last lines",
        ),
        ("", "exit code 25", "last lines"),
    ],
)
def test_failures_of_mmdebstrap_say_what_to_do(said: str, message: str, hint: str) -> None:
    error = recipe.explain_failure(Result(("mmdebstrap",), 25, said, ""), Path("/tmp"))
    assert message in str(error)
    assert hint in error.hint


def test_dpkgs_status_is_read() -> None:
    text = (
        "Package: b\nStatus: install ok installed\nVersion: 2\nDescription: x\n more: y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: a\nStatus: hold ok installed\nVersion: 1:0\n"
    )
    assert boot.parse_status(text) == ("a 1:0", "b 2")


def test_an_archive_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "boot.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("var/lib/dpkg/status"))
    with pytest.raises(RecipeError, match="no kernel"):
        boot.make_boot(tmp_path / "boot.tar", tmp_path)


@pytest.mark.parametrize("script", ["customize.sh", "guest/init"])
def test_scripts_are_posix_shell(script: str) -> None:
    path = Path(recipe.__file__).parent / script
    subprocess.run(["sh", "-n", path], check=True)


def test_names() -> None:
    source, here = Debian(), Path()
    assert "debian/12" in source.names()
    spec = source.resolve("debian/12", "x86_64", here)
    assert spec is not None
    assert (spec.user, spec.kernel, spec.disk) == ("debian", True, True)
    assert "console=ttyS0" in spec.cmdline
    assert source.resolve("./debian/12", "x86_64", here) is None
    assert source.resolve("tiny", "x86_64", here) is None
    with pytest.raises(BoxError) as caught:
        source.resolve("debian/3", "x86_64", here)
    assert "debian/12" in str(caught.value.hint)
    with pytest.raises(BoxError, match="riscv64"):
        source.resolve("debian/12", "riscv64", here)


def test_without_mmdebstrap_its_package_is_named(qup: Qup, tmp_path: Path) -> None:
    """Also root's own folders are looked in, so the lookup itself is replaced."""
    real = debs.find_tool

    def find_tool(name: str, package: str) -> str:
        return real("no-such-program" if name == "mmdebstrap" else name, package)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debs, "find_tool", find_tool)
        spec = Debian().resolve("debian/12", "x86_64", tmp_path)
        assert spec is not None
        with pytest.raises(BoxError) as caught:
            Debian().fetch(spec, tmp_path, tmp_path, print)
    assert "mmdebstrap" in str(caught.value.hint)
    done = qup("box", "build", "debian/11")
    assert done.code == 8
    assert "debian/12" in done.stderr


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
def test_a_failed_making_leaves_nothing(qup: Qup, tmp_path: Path) -> None:
    """mmdebstrap is real, and the program that it would begin with isn't there."""
    done = qup("box", "build", "debian/12", env={"TMPDIR": str(tmp_path), "PATH": "/nonexistent"})
    assert done.code == 8, done
    assert "Traceback" not in done.stderr
    assert list(Path(os.environ["QUP_CACHE_DIR"]).glob("boxes/.building-*")) == []
    assert list(tmp_path.iterdir()) == []


def test_the_computers_own_apt_is_left_alone(tmp_path: Path) -> None:
    """What mmdebstrap would clean up with is in the root's /tmp: without it, its apt would take
    this computer's lists for the root's.
    """
    words = list(recipe._arguments("bookworm", "amd64", [], [], tmp_path / "o.tar", []))
    skipped = next(word for word in words if word.startswith("--skip="))
    for what in ("apt", "mmdebstrap", "tmp"):
        assert f"cleanup/{what}" in skipped
    script = (Path(recipe.__file__).parent / "customize.sh").read_text()
    assert "trap put_back EXIT" in script
    assert not [line for line in script.splitlines() if "rm " in line and "/tmp" in line]
