"""The user's cache of templates.

A template is a folder named by a random id; a link from its key says which one is current::

    templates/<id>/{template.json, ram, state, disk.qcow2, disk-<name>.qcow2, vars.qcow2}
    templates/current/<key> -> ../<id>
    templates/refused/<key>      why a template of that key could not be made
    templates/making/<key>       locked by the one qup that makes it
    templates/.making-<key>/     what is being made, and a link to its sockets

``ram`` is the guest's memory, which restored guests map privately; ``disk.qcow2`` is the
backing file of their disks, and there is one for each further disk. Guests with UEFI firmware
begin with a copy of ``vars.qcow2``. None of them changes once the template is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qup.errors import QupError, TemplateError
from qup.files import explain_os_error, sync_folder, write_atomic
from qup.locks import lock
from qup.paths import RuntimeFolder, make_private

MANIFEST = "template.json"
RAM, STATE, DISK = "ram", "state", "disk.qcow2"
FILES = (RAM, STATE, DISK)
"""What every template has."""
VARS = "vars.qcow2"
USED, SAFE, ASIDE = "used", "safe", "aside"
SCHEMA = 1
BLOCK = 512
"""What ``st_blocks`` counts (``stat(2)``)."""

REFUSAL_LIFETIME = 7 * 24 * 3600.0
"""Seconds that a failure to make a template is believed."""
MAKING, SOCKETS = ".making-", "sockets"
WRITTEN_AFTER = 60.0
"""Seconds after which Linux has written a file's pages by itself (``dirty_expire_centisecs``):
making sure of it costs nothing then."""

_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_IMAGE = re.compile(r"(?:disk-[a-z0-9-]{1,20}|disk|vars)\.qcow2", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class TemplateFile:
    """A file as it was when the template was finished.

    Attributes:
        size: in bytes.
        modified: its time of change in nanoseconds.
        sha256: of the small ones.
    """

    size: int
    modified: int
    sha256: str = ""


@dataclass(frozen=True)
class Template:
    """A guest that was booted once and can be restored any number of times.

    Attributes:
        id: names its folder.
        key: what it fits; see :mod:`qup.templates.key`.
        visible: everything that went into the key.
        box: the name of the box it was booted from.
        box_digest: that box.
        persona: who the guest is: the fields of :class:`qup.guest.identity.Persona`.
        files: its files by name.
        created: when, in seconds since the epoch.
        boot_id: the host's boot in which it was made.
        seconds: what its boot took, or the steps.
        steps: names of the provisioning steps that have run in it, in their order.
    """

    id: str
    key: str
    visible: dict[str, Any]
    box: str
    box_digest: str
    persona: dict[str, Any]
    files: dict[str, TemplateFile] = field(default_factory=dict)
    created: float = 0.0
    boot_id: str = ""
    seconds: float = 0.0
    steps: tuple[str, ...] = ()


class TemplateCache:
    """Templates under one folder. What changes it holds :attr:`lock_path`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def lock_path(self) -> Path:
        return make_private(self.root) / "lock"

    def making_lock(self, key: str) -> Path:
        """What the one who makes a template of a key holds."""
        return make_private(make_private(self.root) / "making") / key

    def making_folder(self, key: str) -> Path:
        """Where a template of a key is made."""
        return self.root / f"{MAKING}{key}"

    def clear_making(self, key: str) -> None:
        """Remove what was left of making a template; its lock is held."""
        folder = self.making_folder(key)
        with contextlib.suppress(OSError):
            RuntimeFolder.of(os.readlink(folder / SOCKETS)).remove()
        shutil.rmtree(folder, ignore_errors=True)

    def note_sockets(self, key: str, runtime: RuntimeFolder) -> None:
        """Remember where the sockets of the guest will be that a template is made of, so that
        :meth:`clear_making` removes them too.

        Raises:
            OSError: it can't be written.
        """
        (self.making_folder(key) / SOCKETS).symlink_to(runtime.root)

    def folder(self, template_id: str) -> Path:
        """Where the files of a template are."""
        if not _ID.fullmatch(template_id):
            raise TemplateError(f"{template_id!r} is not the id of a template")
        return self.root / template_id

    def templates(self) -> list[Template]:
        """All templates, the newest first; a damaged manifest is left out."""
        found = []
        for path in self.root.glob(f"*/{MANIFEST}"):
            with contextlib.suppress(TemplateError):
                found.append(_read_manifest(path))
        return sorted(found, key=lambda template: template.created, reverse=True)

    def current(self, key: str) -> Template | None:
        """The template that fits a key, or None.

        Raises:
            TemplateError: its manifest is damaged.
        """
        path = self._link(key) / MANIFEST
        return _read_manifest(path) if path.exists() else None

    def is_current(self, template: Template) -> bool:
        """Whether new machines are made from it."""
        try:
            return os.readlink(self._link(template.key)) == f"../{template.id}"
        except OSError:
            return False

    def check(self, template: Template, boot_id: str) -> None:
        """Make sure that a template's files are what they were, as far as can be told quickly.

        The guest's device state is hashed. Its memory and its disk are too large for that:
        their size and time of change tell.

        Args:
            template: the template.
            boot_id: the host's boot.

        Raises:
            TemplateError: it can't be used; the message says why.
        """
        folder = self.folder(template.id)
        for name, expected in template.files.items():
            try:
                info = (folder / name).lstat()
            except OSError as exc:
                raise TemplateError(f"{name} is missing") from exc
            if info.st_size != expected.size:
                raise TemplateError(f"{name} has another size")
            if info.st_mtime_ns != expected.modified:
                raise TemplateError(f"{name} was changed")
        if _hash_file(folder / STATE) != template.files[STATE].sha256:
            raise TemplateError(f"{STATE} was changed")
        if template.boot_id != boot_id and not (folder / SAFE).exists():
            raise TemplateError("the computer went down before it was safely on disk")

    def publish(self, making: Path, template: Template) -> Template:
        """Put what was made in its place, where others find it.

        Args:
            making: the folder with the files (see :func:`is_kept`) and nothing else.
            template: what is known about it; files and time are filled in.

        Raises:
            HostError: it can't be written.
        """
        try:
            # The memory is not flushed: that would take seconds. `settle` does it later.
            names = sorted({*FILES, *filter(is_kept, os.listdir(making))})
            for name in names:
                if name != RAM:
                    _flush(making / name)
                if is_image(name):
                    (making / name).chmod(0o444)
            files = {name: _describe_file(making / name, name == STATE) for name in names}
            data = {**asdict(template), "files": {name: asdict(f) for name, f in files.items()}}
            data["created"] = time.time()
            write_atomic(making / MANIFEST, json.dumps({"schema": SCHEMA, **data}, indent=1))
            target = self.folder(template.id)
            os.replace(making, target)
            self._set_current(template)
            sync_folder(self.root)
        except OSError as exc:
            raise explain_os_error("write the template in", making, exc) from exc
        self._refusal(template.key).unlink(missing_ok=True)
        self.touch(template)
        return _read_manifest(target / MANIFEST)

    def _set_current(self, template: Template) -> None:
        link = self._link(template.key)
        make_private(link.parent)
        aside = link.parent / f".{link.name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(Path("..") / template.id)
        os.replace(aside, link)

    def _link(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise TemplateError(f"{key!r} is not the key of a template")
        return self.root / "current" / key

    def touch(self, template: Template) -> None:
        """Note that a template was used just now."""
        with contextlib.suppress(OSError):
            (self.folder(template.id) / USED).touch(mode=0o600)

    def last_used(self, template: Template) -> float:
        """When it was used last, in seconds since the epoch."""
        try:
            return (self.folder(template.id) / USED).stat().st_mtime
        except OSError:
            return template.created

    def size(self, template: Template) -> int:
        """Bytes that it takes up on disk."""
        folder = self.folder(template.id)
        total = 0
        for name in template.files:
            with contextlib.suppress(OSError):
                total += (folder / name).stat().st_blocks * BLOCK
        return total

    def settle(self, template: Template, *, at_once: bool = False) -> None:
        """Make sure that a template survives a crash of the computer, once that is cheap, or
        at once.
        """
        folder = self.folder(template.id)
        early = time.time() - template.created < WRITTEN_AFTER
        if (folder / SAFE).exists() or (early and not at_once):
            return
        with contextlib.suppress(OSError):
            for name in template.files:
                _flush(folder / name)
            (folder / SAFE).touch(mode=0o600)
            sync_folder(folder)

    def set_aside(self, template: Template, reason: str) -> None:
        """Let no new machine be made from a template. Its disk stays for those that need it."""
        with contextlib.suppress(OSError, QupError):
            write_atomic(self.folder(template.id) / ASIDE, reason + "\n", durable=False)
        if self.is_current(template):
            with contextlib.suppress(OSError):
                self._link(template.key).unlink()

    def aside_reason(self, template: Template) -> str | None:
        """Why a template was set aside, if it was."""
        try:
            return (self.folder(template.id) / ASIDE).read_text(errors="replace").strip()
        except OSError:
            return None

    def remove(self, template: Template) -> None:
        """Remove a template; the caller has made sure that no machine's disk needs it.

        Guests that have its memory mapped keep it: the file is gone when the last one ends.

        Raises:
            HostError: something in it can't be removed.
        """
        if self.is_current(template):
            self._link(template.key).unlink(missing_ok=True)
        folder = self.folder(template.id)
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except OSError as exc:
            raise explain_os_error("remove", folder, exc) from exc

    def remove_leftovers(self) -> None:
        """Remove what an interrupted removal left, folders without a manifest; and what is left
        of making a template where nobody makes it any more.
        """
        for path in self.root.glob("*"):
            if _ID.fullmatch(path.name) and not (path / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)
        for path in self.root.glob(f"{MAKING}*"):
            key = path.name.removeprefix(MAKING)
            with contextlib.suppress(QupError), lock(self.making_lock(key), what=key, timeout=0):
                self.clear_making(key)

    # --- those that could not be made ---

    def _refusal(self, key: str) -> Path:
        return make_private(make_private(self.root) / "refused") / key

    def refuse(self, key: str, reason: str) -> None:
        """Remember that a template could not be made, so that it isn't tried each time."""
        with contextlib.suppress(QupError):
            write_atomic(self._refusal(key), reason + "\n", durable=False)

    def refusal(self, key: str) -> str | None:
        """Why a template of a key could not be made a short time ago, or None."""
        path = self._refusal(key)
        try:
            if not 0 <= time.time() - path.stat().st_mtime < REFUSAL_LIFETIME:
                return None
            return path.read_text(errors="replace").strip()
        except OSError:
            return None

    def forget_refusals(self) -> None:
        """Let everything be tried again."""
        shutil.rmtree(self.root / "refused", ignore_errors=True)


def is_kept(name: str) -> bool:
    """Whether a file is a part of a template by its name."""
    return name in FILES or is_image(name)


def is_image(name: str) -> bool:
    """Whether a file of a template is a disk, or what UEFI remembers, by its name."""
    return _IMAGE.fullmatch(name) is not None


def name_image(role: str) -> str:
    """The file of a disk, by its role in the plan."""
    return f"{role}.qcow2"


def find_difference(visible: Mapping[str, Any], templates: list[Template]) -> str | None:
    """Why none of the templates of a box fits, in a few words; None if there are none.

    Args:
        visible: what a template had to be made from.
        templates: all there are.
    """
    best: list[str] | None = None
    for template in templates:
        if template.box_digest != visible.get("box_digest"):
            continue
        names = {*visible, *template.visible}
        differs = sorted(n for n in names if visible.get(n) != template.visible.get(n))
        if best is None or len(differs) < len(best):
            best = differs
    return " and ".join(_WORDS.get(name, name) for name in best) if best else None


_WORDS = {
    "qemu": "QEMU",
    "processor": "the processor",
    "recipe": "qup's way to make them",
    "memory_mib": "memory",
    "seed": "the first boot",
    "nics": "the network cards",
    "disks": "the disks",
    "machine_type": "the machine type",
}


def _describe_file(path: Path, small: bool) -> TemplateFile:
    info = path.stat()
    return TemplateFile(info.st_size, info.st_mtime_ns, _hash_file(path) if small else "")


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise TemplateError(f"{path.name} can't be read: {exc.strerror}") from exc


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_template(template: Template) -> dict[str, Any]:
    """What is known about a template, as it is kept in JSON."""
    return {"schema": SCHEMA, **asdict(template)}


def parse_template(data: Mapping[str, Any]) -> Template:
    """Read what :func:`write_template` has written.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is something else.
    """
    data = dict(data)
    if data.pop("schema") != SCHEMA:
        raise ValueError("another schema")
    files = {name: TemplateFile(**file) for name, file in data.pop("files").items()}
    data["steps"] = tuple(data.get("steps", ()))
    template = Template(**data, files=files)
    if not _ID.fullmatch(template.id) or not _KEY.fullmatch(template.key):
        raise ValueError("no id")
    if not set(FILES) <= set(files) or not all(map(is_kept, files)):
        raise ValueError("files")
    return template


def _read_manifest(path: Path) -> Template:
    try:
        return parse_template(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise TemplateError(
            f"the template in {path.parent} is damaged: {MANIFEST} can't be read",
            hint=f"remove the folder: rm -rf {path.parent.resolve()}",
        ) from exc
