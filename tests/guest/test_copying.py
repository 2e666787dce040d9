"""Copying with guests that are none: their scripts run here, by any shell that a guest may have."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qup.guest.copying import ends, far
from qup.guest.copying.ends import Chunks, CopyError, Notes, Source, Target, Wish
from qup.guest.copying.far import GuestSource, GuestTarget
from qup.guest.copying.guest import Guest
from qup.guest.copying.near import LocalSource, LocalTarget
from qup.guest.copying.pack import Packer
from qup.guest.copying.unpack import unpack
from qup.paths import SshFolder
from qup.runner import copy as runner

# Each test starts dozens of programs.
pytestmark = pytest.mark.process

SHELLS = [
    pytest.param(words, marks=[] if shutil.which(words[0]) else pytest.mark.skip("not installed"))
    for words in (["sh"], ["bash", "--posix"], ["busybox", "sh"])
]

AWKWARD = [
    *(b"plain", b"sp ace", b"new\nline", b"\xff\xfe", b"-rf", b"quo'te\"$(x)`y`", b"*", b"end "),
]


class HereGuest(Guest):
    """A "guest" whose home is a folder of this computer."""

    home = "/"
    shell = ("sh",)

    def words(self, script: str, *args: str) -> list[str]:
        # Of busybox, its own tools come first, as in box tiny.
        path = f"PATH={self.home}/../bin:{os.environ['PATH']}"
        return ["env", "-C", self.home, path, *self.shell, "-c", script, "sh", *args]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    made = HereGuest("web", SshFolder(tmp_path))
    made_home = tmp_path / "home of guest"
    made_home.mkdir()
    object.__setattr__(made, "home", str(made_home))
    object.__setattr__(made, "shell", tuple(request.param))
    if request.param[0] == "busybox":
        tools = tmp_path / "bin"
        tools.mkdir()
        busybox = shutil.which("busybox")
        listed = subprocess.run([str(busybox), "--list"], capture_output=True, text=True).stdout
        for name in {"tar", "stat", "touch", "dd", "tail", "head", "wc", "mv", "cat", "chmod"}:
            if name in listed.split():
                (tools / name).symlink_to(str(busybox))
    return made


@pytest.fixture
def home(guest: Guest) -> Path:
    return Path(guest.home)  # type: ignore[attr-defined]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def copy(source: Source, target: Target, *more: Source) -> runner.Copied:
    return runner.copy([source, *more], target, lambda title: lambda text, **numbers: None)


def leftovers(*folders: Path) -> list[str]:
    return [str(path) for folder in folders for path in folder.rglob(".qup-*")]


def write_tree(root: Path) -> None:
    (root / "sub").mkdir(parents=True)
    for name in AWKWARD:
        Path(os.fsdecode(os.fsencode(root / "sub") + b"/" + name)).write_bytes(b"in " + name)
    (root / "sub" / ("long" * 50)).write_text("long")
    (root / "empty").mkdir(mode=0o750)
    (root / "link").symlink_to("sub/plain")
    (root / "dangling").symlink_to("/nowhere at all")
    os.link(root / "sub" / "plain", root / "second name")
    (root / "sub" / "plain").chmod(0o640)
    for path in (root / "sub" / "plain", root / "sub", root):
        os.utime(path, (981173106, 981173106))


def describe(root: Path) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    for path in [root, *root.rglob("*")]:
        info = path.lstat()
        mode = stat.S_IMODE(info.st_mode)
        name = os.fsencode(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = oct(mode)
        else:
            found[name] = (path.read_bytes(), oct(mode), int(info.st_mtime))
    return found


# --- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AWKWARD, ids=repr)
def test_any_name_goes_over_and_back(guest: Guest, home: Path, here: Path, name: bytes) -> None:
    text = os.fsdecode(name)
    path = here / text
    path.write_bytes(b"what is in it\n\n")
    path.chmod(0o604)
    os.utime(path, (981173106, 981173106))
    copy(LocalSource(str(path)), GuestTarget(guest, ""))
    info = (home / text).stat()
    assert (info.st_mode & 0o7777, info.st_mtime) == (0o604, 981173106)
    copy(GuestSource(guest, text), LocalTarget(str(here / "back")))
    info = (here / "back").stat()
    assert (here / "back").read_bytes() == b"what is in it\n\n"
    assert (info.st_mode & 0o7777, info.st_mtime) == (0o604, 981173106)
    copy(GuestSource(guest, text), GuestTarget(guest, text + "2"))
    assert (home / (text + "2")).read_bytes() == b"what is in it\n\n"
    assert not leftovers(home, here)


def test_where_a_file_goes(guest: Guest, home: Path, here: Path) -> None:
    (here / "a").write_text("a")
    (home / "folder").mkdir()
    source = LocalSource("a")
    for target, place in {
        "": "a", "~": "a", ".": "a", "~/b": "b", "folder": "folder/a", "folder/": "folder/a",
        "folder/c": "folder/c", str(home / "d"): "d", "./e": "e",
    }.items():  # fmt: skip
        copy(source, GuestTarget(guest, target))
        (home / place).unlink()
    for wrong in ("nowhere/b", "nowhere/"):
        with pytest.raises(CopyError, match="there is no folder web:nowhere") as caught:
            copy(source, GuestTarget(guest, wrong))
        assert caught.value.hint == "make it: qup ssh web -- mkdir -p nowhere"
    (home / "folder" / "a").mkdir()
    with pytest.raises(CopyError, match="web:folder/a is a folder, which a file can't replace"):
        copy(source, GuestTarget(guest, "folder"))
    with pytest.raises(CopyError, match="web:nothing is not there"):
        copy(GuestSource(guest, "nothing"), LocalTarget("x"))
    assert os.listdir(here) == ["a"]


def test_a_link_that_is_named_is_followed(guest: Guest, home: Path, here: Path) -> None:
    (home / "real").write_text("there")
    (home / "link").symlink_to("real")
    copy(GuestSource(guest, "link"), LocalTarget("got"))
    assert not (here / "got").is_symlink()
    (here / "new").write_text("new")
    copy(LocalSource("new"), GuestTarget(guest, "link"))
    assert (home / "real").read_text() == "new"
    (here / "mine").symlink_to("got")
    copy(GuestSource(guest, "link"), LocalTarget("mine"))
    assert (here / "got").read_text() == "new"
    assert (here / "mine").is_symlink()


def test_several_sources(guest: Guest, home: Path, here: Path) -> None:
    for name in ("a", "b"):
        (here / name).write_text(name)
    sources = [LocalSource("a"), LocalSource("b")]
    with pytest.raises(CopyError, match="there is no folder web:x"):
        copy(sources[0], GuestTarget(guest, "x"), sources[1])
    (home / "x").mkdir()
    copy(sources[0], GuestTarget(guest, "x"), sources[1])
    assert sorted(os.listdir(home / "x")) == ["a", "b"]
    with pytest.raises(CopyError, match="is no folder"):
        copy(GuestSource(guest, "x/a"), LocalTarget("a"), GuestSource(guest, "x/b"))


def test_wildcards(guest: Guest, home: Path) -> None:
    for name in ("a 1", "a\n2", "b"):
        (home / name).touch()
    os.close(os.open(os.fsencode(home) + b"/a\xff", os.O_CREAT))
    found = guest.expand("a*")
    assert {os.fsencode(name) for name in found} == {b"./a 1", b"./a\n2", b"./a\xff"}
    assert guest.expand("~/[b-z]") == ["./b"]
    with pytest.raises(CopyError, match=r"nothing in web matches \*.log"):
        guest.expand("*.log")


# --- cut off ------------------------------------------------------------------------------


class Cut(Exception):
    pass


def cut(chunks: Chunks) -> Iterator[bytes]:
    yield next(chunks)[:1]
    raise Cut


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ends, far, runner):
        monkeypatch.setattr(module, "BLOCK", 1000, raising=False)
    monkeypatch.setattr("qup.guest.copying.near.BLOCK", 1000)
    monkeypatch.setattr(ends, "RESUMED", 2000)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_large_file_is_gone_on_with(
    guest: Guest, home: Path, here: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(5000)
    there = here if way == "up" else home
    arrives = home if way == "up" else here
    (there / "big").write_bytes(content)
    source: Any = LocalSource("big") if way == "up" else GuestSource(guest, "big")
    target: Target = GuestTarget(guest, "") if way == "up" else LocalTarget(".")
    starts = []
    read_file = type(source).read_file

    def spy(self: Any, start: int) -> Any:
        starts.append(start)
        return read_file(self, start)

    monkeypatch.setattr(type(source), "read_file", spy)
    prepared = target.prepare(Wish(source.look(), source.name, source.label))
    assert prepared.kept
    draft = arrives / prepared.draft
    draft.write_bytes(content[:2500])  # as a copy leaves it that was cut off
    copy(source, target)
    assert (arrives / "big").read_bytes() == content
    assert starts == [2500]
    assert not leftovers(home, here)

    # One that isn't the beginning of the same file is not gone on with.
    draft.write_bytes(b"x" * 2500)
    copy(source, target)
    assert (arrives / "big").read_bytes() == content
    assert starts[1:] == [0]
    # What another version has left goes away.
    stale = draft.with_name(draft.name.rpartition("-")[0] + "-00000000.part")
    stale.write_bytes(b"old")
    copy(source, target)
    assert not leftovers(home, here)


def test_one_that_is_cut_off_is_not_there(
    guest: Guest, home: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "small").write_text("longer than what arrives")
    (here / "tree").mkdir()
    (here / "tree" / "x").touch()
    (home / "small").write_text("old")
    bounded = runner._Copy._bounded
    monkeypatch.setattr(
        runner._Copy, "_bounded", lambda self, chunks, *rest: cut(bounded(self, chunks, *rest))
    )
    for source, target in (
        (LocalSource("small"), GuestTarget(guest, "")),
        (GuestSource(guest, "small"), LocalTarget("got")),
    ):
        with pytest.raises(Cut):
            copy(source, target)  # type: ignore[arg-type]
    pack = Packer.pack
    monkeypatch.setattr(Packer, "pack", lambda self: cut(pack(self)))
    with pytest.raises(Cut):
        copy(LocalSource("tree"), GuestTarget(guest, ""))
    assert (home / "small").read_text() == "old"
    assert os.listdir(home) == ["small"]
    assert not (here / "got").exists()
    assert not leftovers(home, here)


# --- trees --------------------------------------------------------------------------------


def test_a_tree_goes_over_and_back(guest: Guest, home: Path, here: Path) -> None:
    write_tree(here / "tree")
    copy(LocalSource("tree"), GuestTarget(guest, ""))
    assert describe(home / "tree") == describe(here / "tree")
    assert (home / "tree").stat().st_mtime == 981173106
    copy(GuestSource(guest, "tree"), LocalTarget("back"))
    assert describe(here / "back") == describe(here / "tree")
    copy(GuestSource(guest, "tree"), GuestTarget(guest, "again"))
    assert describe(home / "again") == describe(here / "tree")
    assert (home / "tree" / "second name").stat().st_nlink == 2
    assert not leftovers(home, here)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_tree_is_put_into_one_that_is_there(
    guest: Guest, home: Path, here: Path, way: str
) -> None:
    start, end = (here, home) if way == "up" else (home, here)
    write_tree(start / "tree")
    (end / "tree" / "sub").mkdir(parents=True)
    (end / "tree" / "sub" / "plain").write_text("old")
    (end / "tree" / "sub" / "mine").write_text("mine")
    (end / "tree" / ".hidden").write_text("mine")
    (start / "tree" / ".dot").write_text("dot")
    source: Source = LocalSource("tree") if way == "up" else GuestSource(guest, "tree")
    target: Target = GuestTarget(guest, ".") if way == "up" else LocalTarget(".")
    copy(source, target)
    wanted = describe(start / "tree")
    found = describe(end / "tree")
    assert found.pop(b"sub/mine")[0] == b"mine"
    assert found.pop(b".hidden")[0] == b"mine"
    for one in (wanted, found):  # a folder that is there keeps its permissions
        one.pop(b".")
        one.pop(b"sub")
    assert found == wanted

    # What is in a folder, not the folder.
    contents: Source = LocalSource("tree/.") if way == "up" else GuestSource(guest, "tree/.")
    copy(contents, target)
    assert (end / "second name").read_bytes() == b"in plain"
    assert not leftovers(home, here)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_file_takes_no_folders_place(guest: Guest, home: Path, here: Path, way: str) -> None:
    start, end = (here, home) if way == "up" else (home, here)
    (start / "tree" / "folder").mkdir(parents=True)
    (start / "tree" / "folder" / "x").touch()
    (start / "tree" / "file").touch()
    (start / "tree" / "fine").touch()
    (end / "tree" / "file").mkdir(parents=True)
    (end / "elsewhere").mkdir()
    (end / "tree" / "folder").symlink_to("../elsewhere")
    source: Source = LocalSource("tree") if way == "up" else GuestSource(guest, "tree")
    target: Target = GuestTarget(guest, "") if way == "up" else LocalTarget(".")
    with pytest.raises(CopyError, match="2 (files )?could not be put") as caught:
        copy(source, target)
    assert "tree/file" in str(caught.value.details)
    assert (end / "tree" / "fine").is_file()
    assert os.listdir(end / "elsewhere") == []  # nothing was written through the link
    assert not leftovers(home, here)
    with pytest.raises(CopyError, match="is there and no folder"):
        place = "tree/fine"
        copy(source, GuestTarget(guest, place) if way == "up" else LocalTarget(place))


def test_links_in_a_tree_can_be_followed(guest: Guest, home: Path, here: Path) -> None:
    (here / "tree").mkdir()
    (here / "outside").mkdir()
    (here / "outside" / "file").write_text("outside")
    (here / "tree" / "link").symlink_to("../outside")
    (here / "tree" / "back").symlink_to("..")
    copied = copy(LocalSource("tree", follow=True), GuestTarget(guest, ""))
    assert (home / "tree" / "link" / "file").read_text() == "outside"
    assert any("leads back" in text for text in copied.notes.left_out)
    (home / "tree" / "back").exists()
    (home / "own").mkdir()
    (home / "own" / "link").symlink_to("../tree/link/file")
    copy(GuestSource(guest, "own", follow=True), LocalTarget("."))
    assert not (here / "own" / "link").is_symlink()


def test_what_is_no_file_is_left_out(guest: Guest, home: Path, here: Path) -> None:
    for root in (here, home):
        (root / "tree" / ".qup").mkdir(parents=True)
        os.mkfifo(root / "tree" / "fifo")
        (root / "tree" / "x").touch()
    copied = copy(LocalSource("tree"), GuestTarget(guest, "new"))
    assert sorted(os.listdir(home / "new")) == ["x"]
    assert len(copied.notes.left_out) == 2
    copied = copy(GuestSource(guest, "tree"), LocalTarget("new"))
    assert sorted(os.listdir(here / "new")) == [".qup", "x"]
    assert [text for text in copied.notes.left_out if "fifo" in text]


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_what_can_not_be_read_is_named(guest: Guest, home: Path, here: Path) -> None:
    for root in (here, home):
        (root / "tree").mkdir()
        (root / "tree" / "secret").touch(mode=0)
        (root / "tree" / "x").touch()
    for source, target, end in (
        (LocalSource("tree"), GuestTarget(guest, "new"), home),
        (GuestSource(guest, "tree"), LocalTarget("new"), here),
    ):
        with pytest.raises(CopyError, match="could not be copied; the rest was") as caught:
            copy(source, target)  # type: ignore[arg-type]
        assert "secret" in str(caught.value.details)
        assert "x" in os.listdir(end / "new")


# --- holes --------------------------------------------------------------------------------


def write_holey(path: Path) -> bytes:
    with path.open("wb") as file:
        file.write(b"start")
        file.seek(40 << 20)
        file.write(b"middle")
        file.truncate((60 << 20) + 123)
    return path.read_bytes()


def test_holes_stay_holes(guest: Guest, home: Path, here: Path) -> None:
    content = write_holey(here / "disk")
    copy(LocalSource("disk"), GuestTarget(guest, ""))
    assert (home / "disk").read_bytes() == content
    assert (home / "disk").stat().st_blocks < 2000
    copy(GuestSource(guest, "disk"), LocalTarget("back"))
    assert (here / "back").read_bytes() == content
    assert (here / "back").stat().st_blocks < 2000
    (here / "tree").mkdir()
    (here / "tree" / "x").touch()
    os.rename(here / "disk", here / "tree" / "disk")
    copy(LocalSource("tree"), GuestTarget(guest, ""))
    assert (home / "tree" / "disk").read_bytes() == content
    assert (home / "tree" / "disk").stat().st_blocks < 2000
    assert sorted(os.listdir(home / "tree")) == ["disk", "x"]
    copy(GuestSource(guest, "tree"), LocalTarget("tree back"))
    assert (here / "tree back" / "disk").read_bytes() == content
    assert not leftovers(home, here)


# --- what a stranger sends ----------------------------------------------------------------


def archive(*members: tuple[str, bytes, str, bytes]) -> Iterator[bytes]:
    """Names, types, what they link to, contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as made:
        for name, kind, link, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o6755
            made.addfile(info, io.BytesIO(data))
    return iter([buffer.getvalue()])


def test_a_hostile_archive(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    notes = Notes()
    unpack(
        archive(
            ("../outside/a", tarfile.REGTYPE, "", b"x"),
            (f"{outside}/b", tarfile.REGTYPE, "", b"x"),
            ("door", tarfile.SYMTYPE, str(outside), b""),
            ("door/c", tarfile.REGTYPE, "", b"x"),
            ("hard", tarfile.LNKTYPE, "../outside/secret", b""),
            ("device", tarfile.CHRTYPE, "", b""),
            ("program", tarfile.REGTYPE, "", b"x"),
        ),
        root,
        notes,
    )
    assert os.listdir(outside) == []
    assert (root / "program").stat().st_mode & 0o7777 == 0o755
    assert (root / "door" / "c").read_bytes() == b"x"  # a folder: the link came too late
    assert not (root / "door").is_symlink()
    assert len(notes.failed) == 2
    assert len(notes.left_out) == 1


def test_half_an_archive_is_none(guest: Guest, here: Path, home: Path) -> None:
    (whole,) = archive(("a", tarfile.REGTYPE, "", b"x" * 2000))
    draft = ends.Draft(".", "x", ".qup-x.part")
    with pytest.raises(CopyError, match="archive that arrived is incomplete"):
        LocalTarget(".").write_tree(draft, iter([whole[:1000]]), Notes())
    with pytest.raises(CopyError):
        GuestTarget(guest, ".").write_tree(draft, iter([whole[:1000]]), Notes())
    assert not leftovers(home)


# --- what goes wrong ----------------------------------------------------------------------


def test_a_connection_that_breaks(tmp_path: Path, here: Path, monkeypatch: Any) -> None:
    class Broken(Guest):
        def words(self, script: str, *args: str) -> list[str]:
            return ["sh", "-c", "echo 'client_loop: send disconnect' >&2; exit 255"]

    guest = Broken("web", SshFolder(tmp_path))
    (here / "x").touch()
    for source, target in (
        (LocalSource("x"), GuestTarget(guest, "")),
        (GuestSource(guest, "x"), LocalTarget("y")),
    ):
        with pytest.raises(Exception, match="machine web: the connection broke"):
            copy(source, target)  # type: ignore[arg-type]


def test_root_is_asked_for(tmp_path: Path) -> None:
    words = Guest("web", SshFolder(tmp_path), sudo=True).words("true", "a b")
    assert 'exec sudo -n "$@"' in words[-1]
    assert words[-1].endswith(" sh sh -c true sh 'a b'")
