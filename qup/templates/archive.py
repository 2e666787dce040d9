"""Templates as single files, to carry them from one computer to another like it.

An archive is a tar packed with zstd. Its first member says what is in it::

    qup-template.json   {schema, template, box, base, files: {name: {size, sha256}}}
    ram state disk.qcow2 ...        the template's files
    box-kernel box-disk.qcow2 ...   the box's, if it is in there

Whoever reads one takes nothing from it but the files that this names, each with the size and
the digest that it says.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from qup.boxes.cache import DIGEST_LENGTH, DISK, EFI_KERNEL, INITRD, ISO, KERNEL, parse_box
from qup.errors import BoxError, TemplateError
from qup.files import explain_os_error
from qup.model.box import Box, BoxFile
from qup.templates.template import Template, parse_template, write_template
from qup.unpacking.members import read_members
from qup.unpacking.streams import Peekable, unpack, write_sparse

SUFFIX = ".qup-template"
ABOUT = "qup-template.json"
ABOUT_LIMIT = 1 << 20
BOX = "box-"
SCHEMA = 1
LEVEL = 3
"""zstd's own default: more takes longer than a slow network."""
FILE_LIMIT = 1 << 40

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True)
class Contents:
    """What an archive says is in it.

    Attributes:
        template: the template.
        base: the file that its disk was based on, where it was made.
        box: the box, if that is in the archive, too.
        files: all members but this one by their names.
    """

    template: Template
    base: str
    box: Box | None = None
    files: dict[str, BoxFile] = field(default_factory=dict)


def write_archive(
    target: Path, template: Template, base: str, files: Mapping[str, Path], box: Box | None
) -> int:
    """Write an archive, and put it in its place when it is whole.

    Args:
        target: the archive; replaced if it exists.
        template: what is written.
        base: the file that its disk is based on.
        files: the members, those of the box with :data:`BOX` before their names.
        box: the box, if its files are among them.

    Returns:
        Its size in bytes.

    Raises:
        HostError: it can't be written.
        TemplateError: a file is gone.
    """
    import zstandard  # 10 ms

    described = {name: _describe(path) for name, path in files.items()}
    about = {
        "schema": SCHEMA,
        "template": write_template(template),
        "base": base,
        "box": asdict(box) if box else None,
        "files": {name: asdict(item) for name, item in described.items()},
    }
    text = json.dumps(about, indent=1).encode()
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            packer = zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, closefd=False)
            with packer, tarfile.open(fileobj=packer, mode="w|") as archive:
                archive.addfile(_member(ABOUT, len(text)), io.BytesIO(text))
                for member, path in files.items():
                    with path.open("rb") as source:
                        archive.addfile(_member(member, described[member].size), source)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as exc:
        raise explain_os_error("write", target, exc) from exc
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return target.stat().st_size


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _describe(path: Path) -> BoxFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return BoxFile(file.tell(), digest)
    except OSError as exc:
        raise TemplateError(f"{path} can't be read: {exc.strerror}") from exc


def read_archive(source: Path, place: Callable[[Contents], Path | None]) -> Contents:
    """Read an archive, and write its files into a folder.

    Args:
        source: the archive.
        place: is asked for the folder once it is known what is in the archive, and may refuse it
            by raising; None for none: then nothing else is read.

    Raises:
        HostError: it can't be read, or a file can't be written.
        TemplateError: it is damaged, or not what it says.
    """
    name = str(source)
    try:
        with source.open("rb") as file:
            members = read_members(unpack(Peekable(file, name, limit=1 << 62), name), name)
            first, content = next(members, ("", io.BytesIO()))
            if first != ABOUT:
                raise TemplateError(f"{name} is not a qup template")
            contents = _read_about(content, name)
            if (folder := place(contents)) is None:
                return contents
            missing = dict(contents.files)
            for member, content in members:
                if member not in missing:
                    raise TemplateError(f"{name} has a member that it doesn't tell of: {member!r}")
                _take(content, folder / member, missing.pop(member), name)
    except OSError as exc:
        raise explain_os_error("read", source, exc) from exc
    except TemplateError:
        raise
    except BoxError as exc:
        raise TemplateError(exc.message, hint=exc.hint) from exc
    if missing:
        raise TemplateError(f"{name} is incomplete: it has no {', '.join(sorted(missing))}")
    return contents


def _read_about(content: IO[bytes], name: str) -> Contents:
    try:
        data: dict[str, Any] = json.loads(content.read(ABOUT_LIMIT))
        if data["schema"] != SCHEMA:
            raise ValueError("another schema")
        template = parse_template(data["template"])
        box = parse_box(data["box"]) if data["box"] is not None else None
        files = {key: BoxFile(int(item["size"]), item["sha256"])
                 for key, item in data["files"].items()}  # fmt: skip
        wanted = {*template.files, *(BOX + key for key in (box.files if box else ()))}
        if set(files) != wanted or not all(0 <= item.size < FILE_LIMIT for item in files.values()):
            raise ValueError("files")
        _check_names(template, box)
        return Contents(template, str(data["base"]), box, files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        hint = "was it exported by another version of qup?"
        raise TemplateError(f"{name} can't be read: {ABOUT} is not understood", hint=hint) from exc


def _check_names(template: Template, box: Box | None) -> None:
    """Make sure that what becomes a part of paths is a word.

    Raises:
        ValueError: it isn't.
    """
    words = [template.box_digest[:DIGEST_LENGTH]]
    if box is not None:
        words += [box.digest[:DIGEST_LENGTH], box.spec.source, box.spec.key]
        if set(box.files) - {DISK, KERNEL, EFI_KERNEL, INITRD, ISO}:
            raise ValueError("files of the box")
    if not all(map(_WORD.fullmatch, words)):
        raise ValueError("names")


class _Digesting:
    """A stream that is hashed while it is read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


def _take(content: IO[bytes], target: Path, expected: BoxFile, name: str) -> None:
    stream = _Digesting(content)
    size = write_sparse(stream, target, lambda _: None)
    if size != expected.size or stream.digest.hexdigest() != expected.sha256:
        raise TemplateError(
            f"{name} is damaged: {target.name} is not what was exported", hint="export it again"
        )
