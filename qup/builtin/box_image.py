"""The box source ``image``: a disk image in the file system, copied into the cache.

The guest must boot from the disk by itself and read a NoCloud seed: any distribution's cloud
image does. What an image is is read from its own header and never left to QEMU's guessing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from qup.api import BoxError, BoxSource, BoxSpec, hookimpl, inspect_image, run

PREFIX = "file://"


class Image:
    """Disk images by path."""

    name = "image"
    summary = "the path of a qcow2 or raw disk image"

    def names(self) -> Sequence[str]:
        return ()

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:
        """A reference with a slash, or one that ends as images do, is a path."""
        if "://" in reference and not reference.startswith(PREFIX):
            return None
        text = reference.removeprefix(PREFIX)
        if "/" not in text and not text.endswith((".qcow2", ".img", ".raw")):
            return None
        path = _find(text, project)
        info = path.stat()
        made_of = f"{path}\0{info.st_size}\0{info.st_mtime_ns}\0{info.st_ino}"
        key = hashlib.sha256(made_of.encode(errors="surrogateescape")).hexdigest()[:16]
        return BoxSpec(
            name=reference, source=self.name, arch=arch, version="", key=key, kernel=False
        )

    def fetch(
        self, spec: BoxSpec, project: Path, into: Path, report: Callable[[str], None]
    ) -> Mapping[str, object]:
        path = _find(spec.name.removeprefix(PREFIX), project)
        format = inspect_image(path)
        report(f"copying {path}")
        target = into / "disk.qcow2"
        if format == "qcow2":
            shutil.copyfile(path, target)
        else:
            run(
                ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, target],
                timeout=3600,
            )
        return {"path": str(path), "format": format}


def _find(text: str, project: Path) -> Path:
    path = (project / Path(text).expanduser()).absolute()
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise BoxError(f"the disk image {path} {what}", hint="check 'box' in the Qupfile")
    return path


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Image()]
