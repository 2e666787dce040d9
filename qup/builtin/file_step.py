"""The provisioner ``file``: a file or a folder of the project, copied into the guest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import ConfigError, Guest, Provisioner, ProvisionError, QupError, hookimpl, is_outside

if TYPE_CHECKING:
    from qup.api import Settings

STATE_FOLDER = ".qup"
"""Never copied: it holds the machines' keys and disks."""

_PLACE_FILE = """
set -e
target=$1 part=$2 mode=$3 owner=$4 name=$5
case $target in */) mkdir -p "$target" ;; *) mkdir -p "$(dirname "$target")" ;; esac
[ ! -d "$target" ] || target=${target%/}/$name
chmod "$mode" "$part"
[ -z "$owner" ] || chown "$owner" "$part"
mv -f "$part" "$target"
"""
_PLACE_FOLDER = """
set -e
target=$1 part=$2 owner=$3
mkdir -p "$target"
tar -xf "$part" -C "$target"
[ -z "$owner" ] || chown -R "$owner" "$target"
"""


class FileStep:
    """Copies a file, or all that is in a folder."""

    name = "file"
    summary = "a file or a folder of the project, copied into the guest"
    by_content = True

    @property
    def options(self) -> type[Settings]:
        return _options()

    def digest(self, options: Any, project: Path) -> str:
        digest = hashlib.sha256()
        source = _find(options, project)
        for path, info in _walk(source):
            name = os.fsencode(path.relative_to(source))
            digest.update(b"%s\0%o\0%d\0" % (name, info.st_mode, info.st_size))
            if stat.S_ISREG(info.st_mode):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            elif stat.S_ISLNK(info.st_mode):
                digest.update(os.fsencode(os.readlink(path)))
        return digest.hexdigest()

    def risk(self, options: Any, project: Path) -> str | None:
        """A stranger's Qupfile could hand any file of this computer to a guest."""
        if not is_outside(options.source, project):
            return None
        return f"takes {options.source} into the guest, which is outside of the project"

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        source = _find(options, project)
        sudo = ["sudo", "-n"] if options.sudo else []
        owner = options.owner or ("root:root" if options.sudo else "")
        part = guest.run(["mktemp", "/tmp/qup-XXXXXX"]).stdout.strip()
        place = [*sudo, "sh", "-c"]
        try:
            if source.is_dir():
                _put_folder(guest, source, part, report)
                guest.run([*place, _PLACE_FOLDER, "sh", options.destination, part, owner])
            else:
                guest.put(source, part)
                mode = options.mode or f"{stat.S_IMODE(source.stat().st_mode):o}"
                words = [options.destination, part, mode, owner, source.name]
                guest.run([*place, _PLACE_FILE, "sh", *words])
        finally:
            with contextlib.suppress(QupError):  # what is to be told is why the step failed
                guest.run([*sudo, "rm", "-f", part], check=False)
        report(f"{options.source} -> {options.destination}")


@hookimpl
def qup_provisioners() -> Iterable[Provisioner]:
    return [FileStep()]


def _find(options: Any, project: Path) -> Path:
    path: Path = project / options.source
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise ConfigError(
            f"the file to copy, {path}, can't be read: {exc.strerror}",
            hint="its path is relative to the Qupfile",
        ) from exc
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ConfigError(f"{path} is neither a file nor a folder")
    return path


def _walk(source: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What is copied, in an order that is always the same. Links are not followed."""
    if source.is_file():
        yield source, source.stat()
        return
    try:
        for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
            info = entry.stat(follow_symlinks=False)
            if entry.name == STATE_FOLDER:
                continue
            yield Path(entry.path), info
            if stat.S_ISDIR(info.st_mode):
                yield from _walk(Path(entry.path))
    except OSError as exc:
        raise ProvisionError(f"{exc.filename} can't be read: {exc.strerror}") from exc


def _put_folder(guest: Guest, source: Path, part: str, report: Callable[[str], None]) -> None:
    with tempfile.NamedTemporaryFile(prefix="qup-", suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path, info in _walk(source):
                if stat.S_IFMT(info.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    archive.add(path, path.relative_to(source), recursive=False)
                else:
                    report(f"left out: {path} is no file")
        file.flush()
        guest.put(Path(file.name), part)


@cache
def _options() -> type[Settings]:
    # pydantic takes 50 ms: it is loaded where a Qupfile is validated, not with this plugin.
    from pydantic import Field

    from qup.api import Settings

    class FileOptions(Settings):
        """``file`` in ``[[machine.provision]]``"""

        source: str = Field(
            min_length=1, description="The path of a file or a folder, from the Qupfile."
        )
        destination: str = Field(
            min_length=1,
            description="Its path in the guest; one that ends with / is a folder to put it into.",
        )
        mode: str | None = Field(
            default=None,
            pattern="^[0-7]{3,4}$",
            description='Permissions of a file, such as "0644". Default: as they are here.',
        )
        owner: str | None = Field(
            default=None,
            pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_.-]+)?$",
            description="Its owner in the guest, user[:group]. Default: root, or with"
            " sudo = false the ssh user.",
        )
        sudo: bool = Field(default=True, description="Write it as root.")

    return FileOptions
