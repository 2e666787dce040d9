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
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from qup.errors import QupError, TemplateError
from qup.files import explain_os_error, sync_folder, write_atomic
from qup.locks import lock
from qup.ownership import make_private
from qup.paths import RuntimeFolder
from qup.templates.template import (
    FILES,
    RAM,
    SCHEMA,
    STATE,
    TEMPLATE_ID,
    TEMPLATE_KEY,
    Template,
    TemplateFile,
    is_image,
    is_kept,
    parse_template,
)

MANIFEST = "template.json"
USED, SAFE, ASIDE, HELD = "used", "safe", "aside", "held"
BLOCK = 512
"""What ``st_blocks`` counts (``stat(2)``)."""

REFUSAL_LIFETIME = 7 * 24 * 3600.0
"""Seconds that a failure to make a template is believed."""
MAKING, SOCKETS = ".making-", "sockets"
WRITTEN_AFTER = 60.0
"""Seconds after which Linux has written a file's pages by itself (``dirty_expire_centisecs``):
making sure of it costs nothing then."""


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
        if not TEMPLATE_ID.fullmatch(template_id):
            raise TemplateError(f"{template_id!r} is not the id of a template")
        return self.root / template_id

    def held(self, template_id: str) -> Path:
        """An empty file that has a name more for each machine that needs a template."""
        return self.folder(template_id) / HELD

    def is_there(self, template_id: str) -> bool:
        """Whether a template is there as a whole: its manifest goes first when it is removed."""
        return (self.folder(template_id) / MANIFEST).exists()

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
        make_private(self.root)
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
        if not TEMPLATE_KEY.fullmatch(key):
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
            if TEMPLATE_ID.fullmatch(path.name) and not (path / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)
        for path in self.root.glob(f"{MAKING}*"):
            key = path.name.removeprefix(MAKING)
            with contextlib.suppress(QupError), lock(self.making_lock(key), what=key, timeout=0):
                self.clear_making(key)

    # --- those that could not be made ---

    def _refusal(self, key: str) -> Path:
        return self.root / "refused" / key

    def refuse(self, key: str, reason: str) -> None:
        """Remember that a template could not be made, so that it isn't tried each time."""
        with contextlib.suppress(QupError):
            make_private(make_private(self.root) / "refused")
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


def _read_manifest(path: Path) -> Template:
    try:
        return parse_template(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise TemplateError(
            f"the template in {path.parent} is damaged: {MANIFEST} can't be read",
            hint=f"remove the folder: rm -rf {path.parent.resolve()}",
        ) from exc
