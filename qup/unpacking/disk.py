"""The disk in a file: found, taken out, checked, and turned into qcow2."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qup import images
from qup.errors import BoxError, HostError
from qup.model.package import Packaged
from qup.process import follow
from qup.unpacking.foreign import check_foreign, find_format

NAMES = {"vpc": "vhd"}
"""What QEMU calls otherwise than everybody else."""

CONVERT_TIMEOUT = 2 * 3600.0
CHECK_TIMEOUT = 900.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A disk that was made.

    Attributes:
        format: what the image was: one of :data:`FORMATS`.
        size: the disk's size in bytes, as a guest sees it.
        packing: what was around the image: ``xz``, ``gzip, tar`` or nothing.
        packaged: what the archive around it says about itself, if it does.
    """

    format: str
    size: int
    packing: str = ""
    packaged: Packaged | None = None

    @property
    def details(self) -> dict[str, object]:
        """What is worth remembering of it."""
        return {"format": self.format, "size": self.size, "packing": self.packing}


def make_disk(
    source: Path, target: Path, say: Say, *, name: str = "", format: str | None = None,
    move: bool = False,
) -> Made:  # fmt: skip
    """Make a qcow2 disk from a file that is or has an image; what boots it goes beside it, if
    an archive of ``qup box export`` has that.

    Args:
        source: the file: an image, packed or not, alone or in a tar archive.
        target: the disk; it must not exist.
        say: takes lines about how far it is.
        name: what messages call the source, if not by its name.
        format: one of :data:`FORMATS`; what the image has to be.
        move: the source isn't needed any more.

    Raises:
        BoxError: there is no image in it, or one that refers to other files, is damaged, or is
            of another format.
        HostError: there is no room, or ``qemu-img`` is missing.
    """
    from qup.unpacking.packed import take_out  # with the readers of four formats

    shown = name or source.name
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as work:
        taken = take_out(source, shown, Path(work) / "image", say)
        image, packing = taken.image, taken.packing
        found = find_format(image)
        named = NAMES.get(found, found)
        try:
            if found in ("qcow2", "raw"):
                images.inspect_header(image, found)
            else:
                check_foreign(image, found, shown)
        except BoxError as exc:
            # Who reads it knows the source, not our folder.
            message = exc.message.replace(str(image), shown)
            hint = exc.hint.replace(str(image), shown) if exc.hint else None
            raise BoxError(message, hint=hint) from exc
        if format is not None and format != named:
            raise BoxError(f"{shown} is a {named} image, not a {format} one")
        if found == "qcow2":
            _check_whole(image, shown)
            if move or packing:
                os.replace(image, target)
            else:
                shutil.copyfile(image, target)
        else:
            say(f"converting a {named} image")
            _convert(image, found, target)
        for member in taken.packaged.files if taken.packaged else ():
            os.replace(image.with_name(member), target.with_name(member))
    size = images.inspect_header(target, "qcow2")
    if size == 0:
        raise BoxError(f"{shown} is an image of an empty disk")
    return Made(named, size, packing, taken.packaged)


def _check_whole(image: Path, name: str) -> None:
    """Refuse a qcow2 that breaks off or is damaged: its guest would notice it some day.

    ``qemu-img check`` ends with 0 for a sound image and with 3 for one that only wastes space.
    """
    result = follow(
        ["qemu-img", "check", "-q", "-f", "qcow2", image.absolute()],
        lambda _: None,
        timeout=CHECK_TIMEOUT,
    )
    if result.code not in (0, 3):
        said = [line for line in result.stdout.splitlines() if line.strip()]
        raise BoxError(
            f"{name} is a damaged qcow2 image, or breaks off",
            details="\n".join(said[:3]) or result.outcome,
            hint="fetch it again; 'qemu-img check' says more",
        )


def _convert(image: Path, format: str, target: Path) -> None:
    """Let ``qemu-img`` turn an image into qcow2, with its format named and no name parsed."""
    node = {"driver": format, "file": {"driver": "file", "filename": os.fspath(image.absolute())}}
    result = follow(
        ["qemu-img", "convert", "-O", "qcow2", f"json:{json.dumps(node)}", target],
        lambda _: None,
        timeout=CONVERT_TIMEOUT,
    )
    if result.code != 0:
        said = result.stdout.strip().splitlines() or [result.outcome]
        if "No space left on device" in result.stdout:
            raise HostError(
                f"there is no room for the disk in {target.parent}",
                hint="free some space, or put the cache elsewhere with QUP_CACHE_DIR",
            )
        raise BoxError(
            f"qemu-img can't read the {format} image: {said[-1]}",
            hint="it is damaged, or of a kind that QEMU does not know: fetch it again",
        )
