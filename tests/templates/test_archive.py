"""Templates as files: what is read is what was written, or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qup.boxes.cache import compute_digest
from qup.errors import TemplateError
from qup.files import write_atomic
from qup.model.box import Box, BoxFile, BoxSpec
from qup.paths import Project
from qup.qemu import disk
from qup.runner import transfer
from qup.runner.context import Context
from qup.templates.archive import ABOUT, BOX, read_archive, write_archive
from qup.templates.key import RECIPE
from qup.templates.template import DISK, FILES, RAM, STATE, Template, TemplateFile

SPEC = BoxSpec("small", "image", "x86_64", "1", "0123456789ab", kernel=False)


def make(folder: Path) -> tuple[Template, dict[str, Path], Box]:
    """A template's files and its box's, in a folder."""
    base = folder / "base.qcow2"
    disk.create_blank(base, 1 << 20)
    box_files = {DISK: BoxFile(base.stat().st_size, hashlib.sha256(base.read_bytes()).hexdigest())}
    box = Box(SPEC, compute_digest(SPEC, box_files), box_files)
    (folder / RAM).write_bytes(bytes(4 << 20) + os.urandom(5000) + bytes(4 << 20))
    (folder / STATE).write_bytes(b"state")
    disk.create_overlay(folder / DISK, base, "qcow2", 1 << 20)
    files = {name: folder / name for name in FILES}
    template = Template(
        "0123456789ab", "f" * 32, {"recipe": RECIPE}, "small", box.digest, {},
        {name: TemplateFile(path.stat().st_size, 1) for name, path in files.items()},
    )  # fmt: skip
    return template, {**files, BOX + DISK: base}, box


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    place = tmp_path / "made"
    place.mkdir()
    template, files, box = make(place)
    write_archive(tmp_path / "one", template, str(place / "base.qcow2"), files, box)
    return tmp_path / "one"


def take(archive: Path, into: Path) -> None:
    into.mkdir()
    read_archive(archive, lambda _: into)


def test_what_is_read_is_what_was_written(archive: Path, tmp_path: Path) -> None:
    take(archive, tmp_path / "out")
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    assert (tmp_path / "out" / RAM).stat().st_blocks * 512 < 4 << 20  # what is zero is a hole
    assert archive.stat().st_size < 100_000
    assert archive.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.glob(".one*")] == []


def rewrite(archive: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> None:
    """Make another archive of it, as anybody could; this one isn't packed."""
    import zstandard

    data = zstandard.ZstdDecompressor().decompressobj().decompress(archive.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as old:
        members = {item.name: old.extractfile(item).read() for item in old}  # type: ignore[union-attr]
    about = json.loads(members.pop(ABOUT))
    change(about, members)
    with tarfile.open(archive, "w") as new:
        for name, content in {ABOUT: json.dumps(about).encode(), **members}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))


def set_at(*path: str, to: Any) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(about: dict[str, Any], _: dict[str, bytes]) -> None:
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = to

    return change


CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, bytes]], None], str]] = {
    "other content": (lambda _, files: files.update({STATE: b"other"}), "state is not what"),
    "longer": (lambda _, files: files.update({STATE: b"state and more"}), "state is not what"),
    "missing": (lambda _, files: files.pop(RAM) and None, "incomplete: it has no ram"),
    "more": (lambda _, files: files.update({"x": b""}), "doesn't tell of: 'x'"),
    "schema": (set_at("schema", to=2), "not understood"),
    "id": (set_at("template", "id", to="../../../x"), "not understood"),
    "key": (set_at("template", "key", to="../x"), "not understood"),
    "digest": (set_at("template", "box_digest", to="../x"), "not understood"),
    "source": (set_at("box", "spec", "source", to="../x"), "not understood"),
    "box's file": (
        set_at("box", "files", to={"../x": {"size": 1, "sha256": ""}}),
        "not understood",
    ),
    "size": (set_at("files", RAM, "size", to=1 << 60), "not understood"),
    "no list": (set_at("files", to=[]), "not understood"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_refused(name: str, archive: Path, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    rewrite(archive, change)
    with pytest.raises(TemplateError, match=said):
        take(archive, tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 100, 4000, -1])
def test_what_breaks_off_is_refused(cut: int, archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(TemplateError):
        take(archive, tmp_path / "out")


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("<html>")
    with pytest.raises(TemplateError):
        take(tmp_path / "file", tmp_path / "out")


# --- into a cache -----------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A computer that is not like the one where the template was made."""
    monkeypatch.setattr("qup.runner.golden.SPARE", 0)
    write_atomic(tmp_path / "Qupfile", "")
    return Context(Project(tmp_path))


@pytest.fixture
def ctx(elsewhere: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A computer with the QEMU that the template was made with."""
    monkeypatch.setattr(transfer, "_find_emulator_reasons", lambda *_: iter(()))
    return elsewhere


def test_a_template_and_its_box_are_put_into_the_caches(ctx: Context, archive: Path) -> None:
    done = transfer.import_archive(ctx, archive)
    assert done.done
    present = ctx.templates.current("f" * 32)
    assert present == done.template
    ctx.templates.check(present, "another boot")  # it is safely on disk
    box = ctx.boxes.get(present.box_digest)
    assert box is not None
    assert ctx.boxes.find(SPEC) == box
    base = ctx.boxes.folder(box.digest) / DISK
    transfer.images.check_overlay(ctx.templates.folder(present.id) / DISK, base)
    assert not list(ctx.templates.root.glob(".making-*"))
    assert not transfer.import_archive(ctx, archive).done


def refused(ctx: Context, archive: Path, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        transfer.import_archive(ctx, archive)
    assert ctx.templates.templates() == []
    assert ctx.boxes.boxes() == []
    assert not list(ctx.templates.root.glob(".making-*"))


def test_what_does_not_fit_is_refused_before_anything_is_written(
    elsewhere: Context, archive: Path
) -> None:
    refused(elsewhere, archive, "there is no accelerator")
    rewrite(archive, set_at("template", "visible", to={
        "recipe": RECIPE + 1, "qemu": "1.0.0 /nowhere/qemu-system-x86_64|1|2",
        "accelerator": {"name": "tcg"},
    }))  # fmt: skip
    refused(
        elsewhere,
        archive,
        "another version of qup; it was made by /nowhere/qemu-system-x86_64 1.0.0",
    )


def test_a_damaged_one_leaves_nothing(ctx: Context, archive: Path) -> None:
    rewrite(archive, CHANGES["other content"][0])
    refused(ctx, archive, "damaged")


def test_a_box_that_is_another_one_is_refused(ctx: Context, archive: Path) -> None:
    rewrite(archive, set_at("box", "spec", "cmdline", to="init=/bin/sh"))
    refused(ctx, archive, "its box is not the one that it was made from")


@pytest.mark.parametrize("base", ["/etc/shadow", "base.qcow2"])
def test_a_disk_that_is_based_on_something_else_is_refused(
    ctx: Context, archive: Path, base: str
) -> None:
    rewrite(archive, set_at("base", to=base))
    with pytest.raises(TemplateError, match="is based on"):
        transfer.import_archive(ctx, archive)
    assert ctx.templates.templates() == []


def test_without_its_box_it_needs_the_one_here(ctx: Context, archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    template, files, _ = make(folder)
    plain = {name: path for name, path in files.items() if not name.startswith(BOX)}
    other = tmp_path / "two"
    write_archive(other, replace(template, key="e" * 32), str(folder / "base.qcow2"), plain, None)
    refused(ctx, other, "neither in it nor here")
