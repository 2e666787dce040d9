"""The box sources ``image`` and ``web``: disk images in the file system, and by their addresses.

The guest must boot from the disk by itself and read a NoCloud seed: any distribution's cloud
image does. It may be packed, alone or in a tar archive. What an image is is read from its own
header and never left to QEMU's guessing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qup.api import (
    Box,
    BoxError,
    BoxSource,
    BoxSpec,
    Downloaded,
    Fetched,
    OfflineError,
    Packaged,
    Reference,
    Report,
    check_url,
    download,
    has_changed,
    hookimpl,
    make_disk,
    parse_reference,
    redact_url,
)

FILE = "file://"
WEB = ("http://", "https://")
SUFFIXES = (
    *(".qcow2", ".img", ".raw", ".vmdk", ".vdi", ".vhd", ".vhdx"),
    *(".gz", ".xz", ".zst", ".bz2", ".tar", ".tgz", ".txz"),
    ".box",  # Vagrant's: a tar archive with one image in it
)
"""What a path without a slash ends in."""
_NAME = re.compile(r"[a-z0-9-]+/[a-z0-9.-]+")
"""What may have been meant for a box's name."""
NO_IMAGE = (".zip", ".7z", ".rar", ".exe", ".ova", ".html")
"""What an address ends in that leads to no image that qup can read."""


class Image:
    """Disk images by path."""

    name = "image"
    summary = "the path of a disk image, packed or not"

    def names(self) -> Sequence[str]:
        return ()

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:
        """A reference with a slash, or one that ends as images do, is a path."""
        if "://" in reference and not reference.startswith(FILE):
            return None
        text = reference.removeprefix(FILE)
        if "/" not in text and not text.partition("#")[0].endswith(SUFFIXES):
            return None
        named = _read(text, project)
        path = _find(named.url, project)
        info = path.stat()
        made_of = f"{path}\0{info.st_size}\0{info.st_mtime_ns}\0{info.st_ino}{_pins(named)}"
        return _spec(self.name, reference, arch, made_of)

    def fetch(self, spec: BoxSpec, project: Path, into: Path, report: Report) -> Fetched:
        named = _read(spec.name.removeprefix(FILE), project)
        path = _find(named.url, project)
        digest = None
        if named.digest:
            report(f"hashing {path}")
            digest = _check_digest(path, named.digest)
        report(f"copying {path}")
        made = make_disk(path, into / "disk.qcow2", report, format=named.format)
        details = {"path": str(path), "sha256": digest, **made.details}
        return Got(details, made.packaged).as_box(spec)


class Web:
    """Disk images by address."""

    name = "web"
    summary = "the address of a disk image, packed or not"

    def names(self) -> Sequence[str]:
        return ()

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:  # noqa: ARG002
        """Whatever is an address; ISOs have a source of their own, which is asked first."""
        if not reference.lower().startswith(WEB) or reference.lower().endswith(NO_IMAGE):
            return None
        try:
            named = parse_reference(reference)
        except ValueError as exc:
            raise BoxError(f"box {redact_url(reference)}: {exc}") from exc
        check_url(named.url, vouched=named.digest is not None)
        return _spec(self.name, reference, arch, f"{named.url}{_pins(named)}")

    def fetch(
        self,
        spec: BoxSpec,
        project: Path,  # noqa: ARG002  the interface's
        into: Path,
        report: Report,
    ) -> Fetched:
        return fetch_image(parse_reference(spec.name), into, report).as_box(spec)

    def newer(self, box: Box, project: Path) -> str | None:  # noqa: ARG002  the interface's
        named = parse_reference(box.spec.name)
        if named.digest is not None:
            return None
        etag, since = (_text(box, key) for key in ("etag", "last_modified"))
        changed = has_changed(named.url, etag, since)
        return "the file at that address has changed" if changed else None


@dataclass(frozen=True)
class Got:
    """An image that was made a box's disk.

    Attributes:
        details: what is worth remembering.
        packaged: what the archive that it was in says about itself, if it does.
    """

    details: dict[str, object]
    packaged: Packaged | None = None

    def as_box(self, spec: BoxSpec, *, user: str = "") -> Fetched:
        """The box as it turned out to be.

        Args:
            spec: as it was before.
            user: the account that gets the key, whatever the archive says.

        Raises:
            BoxError: it is for another processor.
        """
        if self.packaged is None:
            return Fetched(spec, self.details)
        if self.packaged.arch not in (None, spec.arch):
            raise BoxError(
                f"box {redact_url(spec.name)} is for {self.packaged.arch}, and the machine has"
                f" {spec.arch}",
                hint=f'qemu.program = "qemu-system-{self.packaged.arch}" emulates the other one',
            )
        made = self.packaged.apply(spec)
        return Fetched(replace(made, user=user or made.user), self.details)


def fetch_image(named: Reference, into: Path, report: Report, mirrors: Sequence[str] = ()) -> Got:
    """Fetch an image and make the box's disk of it.

    Args:
        named: where it is and what it has to be.
        into: an empty folder.
        report: takes lines about how far it is.
        mirrors: where else the same file is, in the order in which they are asked.

    Raises:
        BoxError: it can't be had, or isn't what it should be.
        HostError: there is no room for it.
    """
    if named.url.startswith(FILE):
        return fetch_file(named, into, report)
    packed = into / "download"
    found = _download([named.url, *mirrors], packed, named.digest, report)
    if found.vouched is None:
        report(
            f"nobody says what {redact_url(named.url)} should be: trusting it this once; it has"
            f" sha256 {found.sha256}"
        )
    name = redact_url(named.url).rpartition("/")[2]
    made = make_disk(packed, into / "disk.qcow2", report, name=name, format=named.format, move=True)
    packed.unlink(missing_ok=True)
    details = {**asdict(found), "url": redact_url(found.url), **_renamed(made.details)}
    return Got(details, made.packaged)


def _download(urls: Sequence[str], target: Path, digest: str | None, report: Report) -> Downloaded:
    """Fetch a file from the first place that gives it."""
    failed: list[BoxError] = []
    for url in urls:
        try:
            return download(url, target, digest=digest, report=report)
        except OfflineError:
            raise
        except BoxError as exc:
            failed.append(exc)
            if len(urls) > 1:
                left = len(urls) - len(failed)
                report(f"{exc.message}; {left} more {'place' if left == 1 else 'places'} to try")
    error = failed[0]
    if len(failed) > 1:
        error.details = "\n".join(exc.message for exc in failed)
        error.message = f"none of {len(failed)} places gives {redact_url(urls[0])}"
    raise error


def fetch_file(named: Reference, into: Path, report: Report) -> Got:
    """As :func:`fetch_image`, from a file of this computer."""
    path = _find(named.url.removeprefix(FILE), Path("/"))
    digest = _check_digest(path, named.digest) if named.digest else None
    made = make_disk(path, into / "disk.qcow2", report, format=named.format)
    details = {"path": str(path), "sha256": digest, **_renamed(made.details)}
    return Got(details, made.packaged)


def _renamed(made: Mapping[str, object]) -> dict[str, object]:
    """The download has a size of its own."""
    return {"virtual_size" if key == "size" else key: value for key, value in made.items()}


def _read(text: str, project: Path) -> Reference:
    """A path as it is if there is such a file, even with a ``#`` in its name."""
    if "#" not in text or (project / Path(text).expanduser()).exists():
        return Reference(text)
    try:
        return parse_reference(text)
    except ValueError as exc:
        raise BoxError(f"box {text!r}: {exc}") from exc


def _pins(named: Reference) -> str:
    return f"\0{named.digest}\0{named.format}" if named.digest or named.format else ""


def _spec(source: str, reference: str, arch: str, made_of: str) -> BoxSpec:
    key = hashlib.sha256(made_of.encode(errors="surrogateescape")).hexdigest()[:16]
    return BoxSpec(name=reference, source=source, arch=arch, version="", key=key, kernel=False)


def _find(text: str, project: Path) -> Path:
    path = (project / Path(text).expanduser()).absolute()
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        named = "; 'qup box search' lists boxes by name" if _NAME.fullmatch(text) else ""
        raise BoxError(f"the disk image {path} {what}", hint=f"check 'box' in the Qupfile{named}")
    return path


def _check_digest(path: Path, wanted: str) -> str:
    """Hash a file; returns its digest.

    Raises:
        BoxError: it is another one.
    """
    algorithm, _, value = wanted.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != value:
        raise BoxError(
            f"{path} is not what it should be: its {algorithm} is {found}, wanted is {value}",
            hint="fetch it again, or correct 'sha256' in the Qupfile",
        )
    return found


def _text(box: Box, key: str) -> str | None:
    value = box.details.get(key)
    return value if isinstance(value, str) else None


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Image(), Web()]
