"""The user's cache of boxes.

A finished box is a read-only folder named by the digest of its content, so that a disk's
backing file never changes under it; a link from what a box is made from (its *key*) says
which one is current::

    boxes/<digest>/{box.json, kernel, kernel.efi, initrd, disk.qcow2, boot.iso}
    boxes/current/<source>-<key> -> ../<digest>
    boxes/locks/<source>-<key>
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qup.errors import BoxError
from qup.files import explain_os_error, sync_folder, write_atomic
from qup.model.box import Box, BoxFile, BoxSpec, Fetched
from qup.ownership import make_private

MANIFEST = "box.json"
DISK, KERNEL, INITRD, ISO = "disk.qcow2", "kernel", "initrd", "boot.iso"
EFI_KERNEL = "kernel.efi"
BOX_SCHEMA = 1
DIGEST_LENGTH = 16
CHUNK = 1 << 20
DRAFT = ".building-"

Fetch = Callable[[Path], Mapping[str, object] | Fetched]
Hold = Callable[[], AbstractContextManager[object]]


class BoxCache:
    """Boxes under one folder.

    Putting a box in place and removing one needs :attr:`lock_path` to be held, and getting one
    needs :meth:`fetch_lock`: boxes that have nothing to do with each other don't wait for each
    other.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def lock_path(self) -> Path:
        return make_private(self.root) / "lock"

    def fetch_lock(self, spec: BoxSpec) -> Path:
        """The lock of whoever gets a box."""
        return make_private(self.root / "locks") / f"{spec.source}-{spec.key}"

    def folder(self, digest: str) -> Path:
        """Where the files of a box are."""
        return self.root / digest[:DIGEST_LENGTH]

    def boxes(self) -> list[Box]:
        """All finished boxes, the newest first; a damaged manifest is left out."""
        found = []
        for path in self.root.glob(f"*/{MANIFEST}"):
            with contextlib.suppress(BoxError):
                found.append(_read_manifest(path))
        return sorted(found, key=lambda box: box.created, reverse=True)

    def find(self, spec: BoxSpec) -> Box | None:
        """The current box made from a spec, or None.

        Raises:
            BoxError: its manifest is damaged.
        """
        path = self._current(spec) / MANIFEST
        if not path.exists():
            return None
        box = _read_manifest(path)
        # Two references that lead to the same files share a folder, which has the first one's.
        return replace(box, spec=_settle(spec, box.spec))

    def get(self, digest: str) -> Box | None:
        """The box with a digest, or None."""
        path = self.folder(digest) / MANIFEST
        return _read_manifest(path) if path.exists() else None

    def add(self, spec: BoxSpec, fetch: Fetch, hold: Hold = contextlib.nullcontext) -> Box:
        """Make a box aside, and put it in place when it is whole and on disk.

        Args:
            spec: what is being made.
            fetch: writes the files into an empty folder and returns details to remember.
            hold: holds :attr:`lock_path` while the box is put in place.

        Raises:
            BoxError: the box can't be had, or lacks a file.
        """
        make_private(self.root)
        building = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.root))
        try:
            fetched = fetch(building)
            if not isinstance(fetched, Fetched):
                fetched = Fetched(spec, fetched)
            box = _seal(building, _settle(spec, fetched.spec), fetched.details)
            with hold():
                self._place(building, box)
        except OSError as exc:
            raise explain_os_error("make the box in", building, exc) from exc
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return box

    def _place(self, building: Path, box: Box) -> None:
        target = self.folder(box.digest)
        if (target / MANIFEST).exists():  # the same files; what is known of their source is newer
            os.replace(building / MANIFEST, target / MANIFEST)
        else:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(building, target)
        link = self._current(box.spec)
        make_private(link.parent)
        aside = link.parent / f".{link.name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(Path("..") / target.name)
        os.replace(aside, link)
        sync_folder(self.root)

    def _current(self, spec: BoxSpec) -> Path:
        return self.root / "current" / f"{spec.source}-{spec.key}"

    def check(self, box: Box, *, thorough: bool = False) -> None:
        """Make sure that a box's files are what they were when it was made.

        Args:
            box: the box.
            thorough: hash every file; otherwise only those whose size or time differ from
                the manifest's.

        Raises:
            BoxError: a file is missing or was changed.
        """
        folder = self.folder(box.digest)
        sealed = _mtime(folder / MANIFEST)
        for name, expected in box.files.items():
            path = folder / name
            try:
                info = path.stat()
            except OSError as exc:
                raise _damaged(box, f"{path} is missing") from exc
            suspicious = info.st_size != expected.size or info.st_mtime_ns > sealed
            if (thorough or suspicious) and _hash_file(path).sha256 != expected.sha256:
                raise _damaged(box, f"{path} was changed after it was made")

    def remove_drafts(self, *, older: float) -> None:
        """Remove what is left of boxes whose making was killed.

        Args:
            older: seconds since they were last written to.
        """
        limit = time.time() - older
        for path in self.root.glob(f"{DRAFT}*"):
            newest = max((entry.lstat().st_mtime for entry in (path, *path.iterdir())), default=0.0)
            if newest < limit:
                shutil.rmtree(path, ignore_errors=True)

    def remove(self, box: Box) -> None:
        """Remove a box; the caller has made sure that no machine needs it."""
        folder = self.folder(box.digest)
        for link in (self.root / "current").glob("*"):
            if os.readlink(link) == f"../{folder.name}":
                link.unlink()
        try:
            folder.chmod(0o700)
            shutil.rmtree(folder)
        except OSError as exc:
            raise explain_os_error("remove", folder, exc) from exc


def _damaged(box: Box, reason: str) -> BoxError:
    return BoxError(
        f"box {box.spec.name} ({box.digest[:12]}) is damaged: {reason}",
        hint=f"'qup box rm --force {box.spec.name}' and 'qup box build {box.spec.name}' make it"
        " anew; machines made from the damaged one must be destroyed",
    )


def _settle(asked: BoxSpec, made: BoxSpec) -> BoxSpec:
    """A box as it turned out to be, by the name under which it was asked for."""
    mounts = made.mounts if asked.mounts is None else asked.mounts
    return replace(
        made, name=asked.name, source=asked.source, arch=asked.arch, key=asked.key, mounts=mounts,
        cloud_init=made.cloud_init and asked.cloud_init,
    )  # fmt: skip


def _seal(folder: Path, spec: BoxSpec, details: Mapping[str, object]) -> Box:
    """Write the manifest, make all files read-only, and flush them to disk."""
    wanted = [DISK] * spec.disk + [KERNEL, INITRD] * spec.kernel
    wanted += [EFI_KERNEL] * spec.efi + [ISO] * spec.iso
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise BoxError(f"box source {spec.source} made no {', '.join(missing)} for {spec.name}")
    files = {name: _hash_file(folder / name) for name in wanted}
    for extra in set(os.listdir(folder)) - set(wanted):
        raise BoxError(f"box source {spec.source} left an unexpected file: {extra}")
    now = datetime.now(UTC).isoformat(timespec="microseconds")  # two may be made in one second
    box = Box(spec, compute_digest(spec, files), files, dict(details), now)
    for name in files:
        (folder / name).chmod(0o444)
        _flush(folder / name)
    manifest = {"schema": BOX_SCHEMA, **asdict(box)}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n", mode=0o444)
    return box


def compute_digest(spec: BoxSpec, files: Mapping[str, BoxFile]) -> str:
    """The digest that names a box with these files."""
    combined = hashlib.sha256(json.dumps(_what_boots(spec), sort_keys=True).encode())
    for name in sorted(files):
        combined.update(f"{name} {files[name].sha256}\n".encode())
    return combined.hexdigest()


def _what_boots(spec: BoxSpec) -> dict[str, object]:
    """What of a spec makes one box different from another with the same files."""
    told = ("name", "key", "mounts", "cloud_init")
    return {key: value for key, value in asdict(spec).items() if key not in told}


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _hash_file(path: Path) -> BoxFile:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return BoxFile(size, digest.hexdigest())


def _mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


def _read_spec(data: Mapping[str, Any]) -> BoxSpec:
    mounts = data.get("mounts")
    lists = {
        "buses": tuple(data.get("buses", ())),
        "mounts": mounts if mounts is None else tuple(mounts),
    }
    return BoxSpec(**{**data, **lists})


def parse_box(data: Mapping[str, Any]) -> Box:
    """Read what :func:`dataclasses.asdict` makes of a box.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is something else.
    """
    return Box(
        spec=_read_spec(data["spec"]),
        digest=str(data["digest"]),
        files={name: BoxFile(**file) for name, file in data["files"].items()},
        details=dict(data["details"]),
        created=str(data["created"]),
    )


def _read_manifest(path: Path) -> Box:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data["schema"] != BOX_SCHEMA:
            raise ValueError(f"schema {data['schema']}")
        return parse_box(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BoxError(
            f"the box in {path.parent} is damaged: {MANIFEST} can't be read ({exc})",
            hint=f"remove the folder: rm -rf {path.parent.resolve()}",
        ) from exc
