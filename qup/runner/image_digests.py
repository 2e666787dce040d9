"""What is in images of the user's that a guest only reads: a template's guest may know it.

A digest is remembered with all that would change if the file did, so that a large image is read
once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from qup.errors import QupError
from qup.files import write_atomic
from qup.model.plan import Plan
from qup.model.units import GIB
from qup.paths import Project
from qup.runner.drives import find_image

MEMORY = "images.json"
LIMIT = GIB
"""Bytes of an image that is read for this: beyond that, a boot takes less time."""
MOST = 100
"""Images that are remembered."""


def digest_images(project: Project, root: Path, plan: Plan) -> tuple[tuple[str, str], ...]:
    """The SHA-256 of each image of a plan that is not written to, by the image's name there.

    One that is too large, or can't be read, is left out.

    Args:
        project: the project, for images with relative paths.
        root: where digests are remembered: the cache of templates.
        plan: the plan.
    """
    names = [disk.image for disk in plan.disks if disk.image and disk.read_only]
    if not names:
        return ()
    known = _read(root / MEMORY)
    found, before = [], dict(known)
    for name in names:
        path = find_image(project, name)
        with contextlib.suppress(OSError):
            info = path.stat()
            mark = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
            kept = known.pop(str(path), None)
            if kept is None or kept[0] != mark:
                if info.st_size > LIMIT:
                    continue
                kept = [mark, _hash(path)]
            known[str(path)] = kept  # the newest are at the end
            found.append((name, str(kept[1])))
    if known != before and root.is_dir():
        rows = dict(list(known.items())[-MOST:])
        with contextlib.suppress(QupError):
            write_atomic(root / MEMORY, json.dumps(rows), durable=False)
    return tuple(found)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, list[object]]:
    try:
        data = json.loads(path.read_bytes())
        return {str(name): [list(mark), str(digest)] for name, (mark, digest) in data.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
