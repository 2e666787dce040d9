"""Names for boxes, in the user's own catalog."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from qup.errors import BoxError, HostError
from qup.files import write_atomic
from qup.locks import lock
from qup.model.box import Box
from qup.model.reference import Reference
from qup.ownership import make_private
from qup.paths import config_root
from qup.runner.boxes import fetch_box
from qup.runner.context import Context
from qup.runner.prepare import resolve_box

CATALOG = "boxes.toml"
WEB = ("http://", "https://")


def add_box(
    ctx: Context, name: str, source: str, *, digest: str | None, format: str | None, user: str,
    title: str, arch: str,
) -> Box:  # fmt: skip
    """Fetch an image and give it a name.

    Args:
        ctx: the surroundings.
        name: the name; nothing else may have it in the user's catalog.
        source: a path or an address.
        digest: the SHA-256 that it has to have.
        format: what it has to be.
        user: the account that gets the key; empty for the one that the image means, or ``qup``.
        title: one line about it.
        arch: QEMU's word for the processor that it is for.

    Raises:
        BoxError: it can't be had, or the name can't be given.
    """
    path = make_private(config_root()) / CATALOG
    with lock(ctx.boxes.lock_path.with_name("catalog.lock"), what=f"{path}", timeout=600.0):
        text = _read(path)
        if re.search(rf"^\s*\[\s*{re.escape(json.dumps(name))}", text, re.MULTILINE):
            raise BoxError(
                f"your catalog has a box {name!r} already", hint=f"remove or change it in {path}"
            )
        url, known = _fetch(ctx, source, digest, format, arch)
        entry = {"title": title or f"added from {Path(source).name}", "url": url,
                 "sha256": known, "arches": [arch]}  # fmt: skip
        optional = {"user": user, "format": format}
        entry |= {key: value for key, value in optional.items() if value}
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
        table = "\n".join([f"[{json.dumps(name)}]", *lines])
        before = f"{text.rstrip()}\n\n" if text.strip() else ""
        write_atomic(path, f"{before}{table}\n", mode=0o644)
        try:  # the catalog's own rules are the ones that count
            spec, _ = resolve_box(ctx, name, arch)
            return fetch_box(ctx, "", spec)
        except BaseException:
            write_atomic(path, text, mode=0o644)
            raise


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise HostError(f"{path} can't be read: {exc}") from exc


def _fetch(
    ctx: Context, source: str, digest: str | None, format: str | None, arch: str
) -> tuple[str, str]:
    """Where an image is for good, and its SHA-256."""
    if not source.lower().startswith(WEB):
        path = (ctx.project.root / Path(source.removeprefix("file://")).expanduser()).absolute()
        if not path.is_file():
            raise BoxError(f"the disk image {path} does not exist or is no file")
        with path.open("rb") as file:
            return f"file://{path}", digest or hashlib.file_digest(file, "sha256").hexdigest()
    if digest is not None:
        return source, digest
    named = Reference(source, None, format)
    spec, _ = resolve_box(ctx, str(named), arch)
    box = fetch_box(ctx, "", spec)
    return source, str(box.details["sha256"])
