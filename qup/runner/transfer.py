"""``qup template export`` and ``import``: templates that are carried to a computer like this one.

A template fits where the same QEMU runs, with the same accelerator, and the same processor where
the guest sees that: between runs of one CI image, or among equal computers. What doesn't fit is
refused with the reason, before anything is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qup import images
from qup.boxes.cache import DISK as BOX_DISK
from qup.boxes.cache import compute_digest
from qup.errors import HostError, QupError, StateError, TemplateError
from qup.files import explain_os_error
from qup.host import boot_id
from qup.locks import lock
from qup.model.box import Box, Fetched
from qup.ownership import make_private
from qup.qemu import disk
from qup.runner.context import Context
from qup.runner.golden import NoTemplate, check_space
from qup.runner.holding import find_users
from qup.runner.warm import make_room
from qup.store import machine_names
from qup.templates.archive import BOX, SUFFIX, Contents, read_archive, write_archive
from qup.templates.key import RECIPE
from qup.templates.template import DISK, RAM, Template, is_image

IMPORT_TIMEOUT = 600.0
"""Seconds to wait for another process that makes or imports the same template."""


@dataclass(frozen=True)
class Transfer:
    """What was done with one template.

    Attributes:
        template: which.
        file: the archive.
        size: of the archive, in bytes.
        done: False if there was nothing to do.
    """

    template: Template
    file: Path
    size: int
    done: bool


# --- out --------------------------------------------------------------------------------------


def find_own(ctx: Context) -> list[Template]:
    """The templates that new machines like those of this project would be restored from."""
    found: dict[str, Template] = {}
    for name in machine_names(ctx.project):
        for key in _keys_of(ctx, name):
            with suppress(TemplateError):
                if template := ctx.templates.current(key):
                    found[template.id] = template
    return list(found.values())


def _keys_of(ctx: Context, name: str) -> Iterator[str]:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        planned: Any = json.loads(ctx.project.machine(name).plan.read_bytes())["template"]
        for field in ("key", "provisioned"):
            if isinstance(planned.get(field), str):
                yield planned[field]


def export(ctx: Context, template: Template, folder: Path, *, box: bool = True) -> Transfer:
    """Write a template into a folder, as a file named by its key.

    Args:
        ctx: the surroundings.
        template: which.
        folder: where to; made if it isn't there.
        box: write its box as well.

    Raises:
        HostError: it can't be written.
        TemplateError: it is damaged.
    """
    target = folder / f"{template.key}{SUFFIX}"
    base = ctx.boxes.folder(template.box_digest) / BOX_DISK
    if target.exists() and _has(target, template):
        return Transfer(template, target, target.stat().st_size, done=False)
    made = ctx.boxes.get(template.box_digest)
    if made is None:
        raise TemplateError(f"the box of template {template.id} is gone from the cache")
    with ctx.phase("", "template", f"exporting template {template.id}") as phase:
        ctx.templates.check(template, boot_id())
        place = ctx.templates.folder(template.id)
        images.check_overlay(place / DISK, base)
        files = {name: place / name for name in template.files}
        if box:
            files |= {BOX + name: base.parent / name for name in made.files}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise explain_os_error("make", folder, exc) from exc
        size = write_archive(target, template, os.fspath(base), files, made if box else None)
        phase.result = str(target)
    return Transfer(template, target, size, done=True)


def _has(target: Path, template: Template) -> bool:
    with suppress(QupError):
        return read_archive(target, lambda _: None).template.id == template.id
    return False


# --- in ---------------------------------------------------------------------------------------


def find_archives(path: Path) -> list[Path]:
    """The archive that a path names, or those in a folder."""
    return sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]


def import_archive(ctx: Context, source: Path) -> Transfer:
    """Put a template, and its box if it is missing, into the cache.

    Raises:
        HostError: there is no room, or something can't be written.
        TemplateError: it is damaged, or of no use on this computer; the message says why.
    """
    about = read_archive(source, lambda _: None)
    template = about.template
    with lock(
        ctx.templates.making_lock(template.key),
        what=f"the template {template.id}",
        timeout=IMPORT_TIMEOUT,
        on_wait=partial(ctx.tell, ""),
    ):
        size = source.stat().st_size
        if present := _find_present(ctx, template):
            return Transfer(present, source, size, done=False)
        _check_use(ctx, source, about)
        with ctx.phase("", "template", f"importing template {template.id}") as phase:
            try:
                made = _Importing(ctx, source, template.key).run()
            finally:
                ctx.templates.clear_making(template.key)
            phase.result = f"{made.box}, {made.id}"
    make_room(ctx, keep=made.id)
    return Transfer(made, source, size, done=True)


def _find_present(ctx: Context, template: Template) -> Template | None:
    """The sound template of the same key that is here already."""
    with suppress(TemplateError):
        present = ctx.templates.current(template.key)
        if present is not None:
            ctx.templates.check(present, boot_id())
            return present
    return None


def _check_use(ctx: Context, source: Path, contents: Contents) -> None:
    """Make sure that a machine of this computer's could be restored from it."""
    if reasons := list(_find_reasons(ctx, contents)):
        raise TemplateError(
            f"{source} can't be used here: {'; '.join(reasons)}",
            hint="'qup up' makes a template of this computer's own",
        )


def _find_reasons(ctx: Context, contents: Contents) -> Iterator[str]:
    template = contents.template
    seen = template.visible
    if seen.get("recipe") != RECIPE:
        yield "it was made by another version of qup"
    yield from _find_emulator_reasons(ctx, seen)
    here = ctx.boxes.get(template.box_digest)
    if here is None and contents.box is None:
        yield f"its box {template.box} ({template.box_digest[:12]}) is neither in it nor here"
    if contents.box is not None:
        spec = contents.box.spec
        digest = compute_digest(spec, contents.box.files)
        if {digest, contents.box.digest} != {template.box_digest}:
            yield "its box is not the one that it was made from"
        current = ctx.boxes.find(spec)
        if current is not None and current.digest != template.box_digest:
            yield (
                f"box {spec.name} is another one here ({current.digest[:12]} instead of"
                f" {template.box_digest[:12]})"
            )


def _find_emulator_reasons(ctx: Context, seen: dict[str, Any]) -> Iterator[str]:
    """What is different about QEMU, the accelerator and the processor."""
    accelerator = str(seen.get("accelerator", {}).get("name"))
    version, _, place = str(seen.get("qemu")).partition(" ")
    program = place.partition("|")[0]
    known = ctx.plugins.accelerators.get(accelerator)
    arch = Path(program).name.removeprefix("qemu-system-")
    try:
        if known is None:
            yield f"there is no accelerator {accelerator}"
            return
        verdict = known.usable(ctx.host, program, arch, prove=True)
        if not verdict.usable:
            yield f"accelerator {accelerator} does not work: {verdict.reason}"
            return
        qemu, processor = ctx.host.emulator(program, accelerator)
    except QupError as exc:
        yield f"it was made by {program} {version}: {exc.message}"
        return
    if qemu != seen.get("qemu"):
        mine = qemu.partition(" ")[0]
        what = f"QEMU {version}, here is {mine}" if mine != version else "another build of QEMU"
        yield f"it was made by {what} ({program})"
    if processor != seen.get("processor"):
        yield "its guest has seen another processor"


@dataclass(frozen=True)
class _Importing:
    """An archive that is read for good; the lock of its key is held."""

    ctx: Context
    source: Path
    key: str

    def run(self) -> Template:
        contents = read_archive(self.source, self._open)
        self._settle_box(contents)
        self._settle_disks(contents)
        made = replace(contents.template, boot_id=boot_id())
        self._make_way(made)
        published = self.ctx.templates.publish(self.folder, made)
        self.ctx.templates.settle(published, at_once=True)
        return published

    @property
    def folder(self) -> Path:
        """Where the files are put first."""
        return self.ctx.templates.making_folder(self.key) / "files"

    def _make_way(self, template: Template) -> None:
        """Remove the same template, if it is here and damaged or set aside."""
        cache = self.ctx.templates
        if not (place := cache.folder(template.id)).exists():
            return
        with lock(cache.lock_path, what="the cache of templates", timeout=self.ctx.lock_timeout):
            self._refuse_used(template, place)
            cache.remove(template)

    def _refuse_used(self, template: Template, place: Path) -> None:
        if users := find_users(self.ctx.templates, template):
            raise TemplateError(
                f"template {template.id} is here, not in use for new machines, and needed by"
                f" {len(users)} machines",
                details="\n".join(users),
                hint=f"'qup destroy' them first, or leave it: {place}",
            )

    def _open(self, contents: Contents) -> Path:
        if contents.template.key != self.key:
            raise TemplateError(f"{self.source} has become another template meanwhile")
        _check_use(self.ctx, self.source, contents)
        self.ctx.templates.clear_making(self.key)
        make_private(self.folder.parent)
        folder = make_private(self.folder)
        try:
            check_space(folder, contents.template.files[RAM].size)
        except NoTemplate as exc:
            raise HostError(f"{self.source} can't be imported: {exc}") from exc
        return folder

    def _settle_box(self, contents: Contents) -> None:
        """Put the box into its cache, unless it is there."""
        box = contents.box
        if box is None:
            return
        if self.ctx.boxes.get(box.digest) is None:
            hold = partial(
                lock,
                self.ctx.boxes.lock_path,
                what="the cache of boxes",
                timeout=self.ctx.lock_timeout,
            )
            self.ctx.boxes.add(box.spec, partial(self._move_box, box), hold)
        for name in box.files:
            (self.folder / (BOX + name)).unlink(missing_ok=True)

    def _move_box(self, box: Box, into: Path) -> Fetched:
        for name in box.files:
            (self.folder / (BOX + name)).rename(into / name)
        if box.spec.disk:
            images.inspect_header(into / BOX_DISK, "qcow2")
        return Fetched(box.spec, box.details)

    def _settle_disks(self, contents: Contents) -> None:
        """Let the disk be based on the box here. Nothing is believed that an image says."""
        base = self.ctx.boxes.folder(contents.template.box_digest) / BOX_DISK
        try:
            for name in filter(is_image, contents.template.files):
                own = Path(contents.base) if name == DISK else None
                images.check_overlay(self.folder / name, own)
        except StateError as exc:
            raise TemplateError(f"{self.source}: {exc.message}") from exc
        if Path(contents.base) != base:
            disk.rebase(self.folder / DISK, base)
