"""The box sources ``iso``, ``boot2docker`` and ``rancheros``."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from qup.api import (
    Box,
    BoxError,
    BoxSource,
    BoxSpec,
    Downloaded,
    Fetched,
    Reference,
    Report,
    check_url,
    download,
    has_changed,
    hookimpl,
    inspect_iso,
    parse_reference,
    redact_url,
)
from qup.builtin.iso.families import FAMILIES, Family, find_family
from qup.builtin.iso.releases import Release, ask, is_api

FILE = "boot.iso"
FILE_URL = "file://"
WEB = ("http://", "https://")


class Iso:
    """ISOs by path, by address, and by the address of a releases API."""

    name = "iso"
    summary = "the path or the address of an ISO, or the address of a releases API"

    def names(self) -> Sequence[str]:
        return ()

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:
        """What ends in ``.iso``, and what looks like a releases API."""
        text = reference.partition("#")[0].lower()
        is_web = text.startswith(WEB)
        if "://" in text and not is_web and not text.startswith(FILE_URL):
            return None
        if not (is_web and is_api(text)) and not _path_of(text).endswith(".iso"):
            return None
        named = read(reference)
        if is_web:
            check_url(named.url, vouched=named.digest is not None)
            return make_spec(self.name, reference, arch, reference)
        path = find_file(named.url, project)
        info = path.stat()
        made_of = f"{path}\0{info.st_size}\0{info.st_mtime_ns}\0{info.st_ino}\0{named.digest}"
        return make_spec(self.name, reference, arch, made_of)

    def fetch(self, spec: BoxSpec, project: Path, into: Path, report: Report) -> Fetched:
        target = into / FILE
        named = read(spec.name)
        if not named.url.lower().startswith(WEB):
            path = find_file(named.url, project)
            inspect_iso(path)  # before it is copied
            report(f"copying {path}")
            shutil.copyfile(path, target)
            check_digest(path, target, named.digest)
            return describe(spec, target, {"path": str(path)}, report)
        if is_api(named.url):
            return fetch_release(spec, ask(named.url), target, report)
        details = fetch_url(named.url, target, named.digest, report)
        return describe(spec, target, details, report)

    def newer(self, box: Box, project: Path) -> str | None:  # noqa: ARG002  the interface's
        named = read(box.spec.name)
        if not named.url.lower().startswith(WEB) or named.digest is not None:
            return None
        if is_api(named.url):
            return compare(box, ask(named.url))
        etag, since = (_text(box, key) for key in ("etag", "last_modified"))
        changed = has_changed(named.url, etag, since)
        return "the file at that address has changed" if changed else None


class Latest:
    """The newest release of a family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.name = family.name
        self.summary = f"the newest release of {family.name}"

    def names(self) -> Sequence[str]:
        return (self.name,)

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:  # noqa: ARG002
        # docker-machine's driver takes an empty address for the newest boot2docker.
        if reference != self.name and (reference or self.name != FAMILIES[0].name):
            return None
        if arch != "x86_64":
            raise BoxError(f"{self.name} exists for x86_64 only, not for {arch}")
        spec = make_spec(self.name, self.name, arch, self._releases())
        return self.family.describe(spec, "")

    def fetch(
        self,
        spec: BoxSpec,
        project: Path,  # noqa: ARG002  the interface's
        into: Path,
        report: Report,
    ) -> Fetched:
        release = ask(self._releases(), self.family.asset)
        return fetch_release(spec, release, into / FILE, report, self.family)

    def newer(self, box: Box, project: Path) -> str | None:  # noqa: ARG002  the interface's
        return compare(box, ask(self._releases(), self.family.asset))

    def _releases(self) -> str:
        """Where it asks; a mirror's address may be set."""
        return os.environ.get(self.family.mirror) or self.family.releases


def make_spec(source: str, name: str, arch: str, made_of: str) -> BoxSpec:
    """A box of which nothing is known but where it comes from."""
    key = hashlib.sha256(made_of.encode(errors="surrogateescape")).hexdigest()[:16]
    return BoxSpec(
        name=name,
        source=source,
        arch=arch,
        version="",
        key=key,
        disk=False,
        kernel=False,
        iso=True,
        seeder="",
    )


def read(reference: str) -> Reference:
    """What a reference to an ISO says.

    Raises:
        BoxError: what follows its ``#`` makes no sense, or none for an ISO.
    """
    try:
        named = parse_reference(reference)
    except ValueError as exc:
        raise BoxError(f"box {redact_url(reference)}: {exc}") from exc
    if named.format is not None:
        raise BoxError(f"box {redact_url(named.url)} is an ISO: it has no 'format'")
    if named.digest is not None and is_api(named.url):
        raise BoxError(
            f"{redact_url(named.url)} leads to whatever is newest, which has no fixed digest",
            hint="pin the address of the ISO itself",
        )
    return named


def check_digest(path: Path, copy: Path, digest: str | None) -> None:
    """Make sure that a copied file is what it has to be.

    Raises:
        BoxError: it isn't.
    """
    if digest is None:
        return
    algorithm, _, value = digest.partition(":")
    with copy.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != value:
        raise BoxError(
            f"{path} is not what it should be: its {algorithm} is another one",
            details=f"expected {value}\nfound    {found}",
            hint="fetch it again, or correct the digest in the Qupfile",
        )


def _path_of(url: str) -> str:
    """The path in an address, or the path itself."""
    try:
        return urlsplit(url).path if url.startswith(WEB) else url
    except ValueError:
        return ""


def find_file(reference: str, project: Path) -> Path:
    """The file that a path or a ``file://`` address means.

    Raises:
        BoxError: there is none.
    """
    text = reference[len(FILE_URL) :] if reference.lower().startswith(FILE_URL) else reference
    path = (project / Path(text).expanduser()).absolute()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file"
        what = what if path.exists() else "does not exist"
        raise BoxError(f"the ISO {path} {what}", hint="check 'box' in the Qupfile")
    return path


def fetch_url(url: str, target: Path, digest: str | None, report: Report) -> dict[str, object]:
    """Download an ISO; returns what is worth remembering."""
    found = download(url, target, digest=digest, report=report)
    if found.vouched is None:
        report(
            f"nobody says what digest {redact_url(url)} should have: trusting it this once; to say"
            f" so yourself, write '#sha256={found.sha256}' behind its address"
        )
    return remember(found)


def fetch_release(
    spec: BoxSpec, release: Release, target: Path, report: Report, family: Family | None = None
) -> Fetched:
    """Download the ISO of a release."""
    report(f"release {release.tag}")
    details = fetch_url(release.url, target, release.digest, report)
    named = replace(spec, version=release.tag)
    return describe(named, target, {**details, "release": release.tag}, report, family)


def remember(found: Downloaded) -> dict[str, object]:
    """What of a download is worth remembering; a token in its address is not."""
    return {
        "url": redact_url(found.url),
        "etag": found.etag,
        "last_modified": found.last_modified,
        "sha256": found.sha256,
        "size": found.size,
        "vouched": found.vouched,
    }


def describe(
    spec: BoxSpec,
    path: Path,
    details: Mapping[str, object],
    report: Report,
    family: Family | None = None,
) -> Fetched:
    """The box as its ISO shows it to be.

    Raises:
        BoxError: it is no ISO, or not whole.
    """
    label = inspect_iso(path)
    if not is_hybrid(path):
        report(
            "this ISO has no boot record for disks: by its BIOS a machine boots it only with"
            " qemu.virtio-drives = false"
        )
    family = family or find_family(label)
    if family is not None:
        spec = family.describe(spec, label)
    return Fetched(spec, {**details, "label": label, "family": family.name if family else None})


def is_hybrid(path: Path) -> bool:
    """Whether it begins with a boot record, as a disk does (``isohybrid(1)``)."""
    with path.open("rb") as file:
        return file.read(512)[510:] == b"\x55\xaa"


def compare(box: Box, release: Release) -> str | None:
    """What is new about a release, for somebody who has a box."""
    have = _text(box, "release")
    return None if have == release.tag else f"release {release.tag} is there (here: {have})"


def _text(box: Box, key: str) -> str | None:
    value = box.details.get(key)
    return value if isinstance(value, str) else None


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Iso(), *(Latest(family) for family in FAMILIES)]
