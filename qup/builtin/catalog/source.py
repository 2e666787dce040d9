"""The box source ``catalog``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qup.api import (
    Box,
    BoxError,
    BoxSource,
    BoxSpec,
    Fetched,
    Offer,
    OfflineError,
    Reference,
    Report,
    fetch_text,
    hookimpl,
    parse_sums,
    redact_url,
)
from qup.builtin.box_debian import describe_box, fetch_debian
from qup.builtin.box_image import fetch_image
from qup.builtin.catalog.entries import NAME, Entry, find_entry, read_entries

DEFAULT_USER = "qup"


class Catalog:
    """Boxes by name, from qup's catalog, the user's and the project's."""

    name = "catalog"
    summary = "cloud images of distributions by name, and boxes of your own catalogs"

    def names(self) -> Sequence[str]:
        return sorted({entry.name for entry in read_entries(None)})

    def offers(self, project: Path) -> Sequence[Offer]:
        """What there is, for ``qup box search``."""
        found: dict[str, Offer] = {}
        for entry in read_entries(project):
            where = "made here" if entry.recipe else redact_url(entry.url)
            offer = Offer(entry.name, entry.title, entry.arches, entry.origin, where, entry.note)
            found.setdefault(entry.name, offer)
        return sorted(found.values(), key=lambda offer: offer.name)

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:
        entry = find_entry(reference, project) if NAME.fullmatch(reference) else None
        if entry is None:
            return None
        if arch not in entry.arches:
            raise BoxError(
                f"box {reference} does not exist for {arch}",
                hint=f"it exists for {', '.join(entry.arches)}",
            )
        if recipe := entry.recipe:
            packages, disabled = recipe.packages, recipe.disabled
            return describe_box(reference, self.name, arch, recipe.suite, packages, disabled)
        made_of = [entry.address(entry.url, arch), entry.digest, entry.format]
        made_of += [entry.user] if entry.user else []
        key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
        return BoxSpec(
            name=reference,
            source=self.name,
            arch=arch,
            version=reference.partition("/")[2],
            key=key,
            user=entry.user or DEFAULT_USER,
            kernel=False,
        )

    def fetch(
        self, spec: BoxSpec, project: Path, into: Path, report: Report
    ) -> Mapping[str, object] | Fetched:
        entry = find_entry(spec.name, project)
        if entry is None:
            raise BoxError(f"box {spec.name} is not in a catalog any more")
        if recipe := entry.recipe:
            packages, disabled = recipe.packages, recipe.disabled
            return fetch_debian(spec, recipe.suite, into, report, packages, disabled)
        digest, vouched = find_published(entry, spec.arch)
        named = Reference(entry.address(entry.url, spec.arch), digest, entry.format)
        mirrors = [entry.address(url, spec.arch) for url in entry.mirrors]
        got = fetch_image(named, into, report, mirrors)
        details = {
            **got.details,
            "published": digest,
            "vouched": vouched,
        }
        return replace(got, details=details).as_box(spec, user=entry.user)

    def newer(self, box: Box, project: Path) -> str | None:
        entry = find_entry(box.spec.name, project)
        if entry is None or entry.recipe or entry.digest:
            return None
        published, _ = find_published(entry, box.spec.arch)
        return None if published == box.details.get("published") else "there is a newer image"


def find_published(entry: Entry, arch: str) -> tuple[str, str]:
    """The digest of a box, and who says so: the first of its distributor's lists that has it.

    Raises:
        BoxError: none has it.
    """
    if entry.digest:
        return entry.digest, "given"
    failed: list[BoxError] = []
    for place in (entry.address(place, arch) for place in entry.sums):
        try:
            return _find_digest(entry, arch, place), redact_url(place)
        except OfflineError:
            raise
        except BoxError as exc:
            failed.append(exc)
    error = failed[0]
    if len(failed) > 1:
        error.details = "\n".join(exc.message for exc in failed)
        error.message = f"none of {len(failed)} places has the digest of box {entry.name}"
    raise error


def _find_digest(entry: Entry, arch: str, place: str) -> str:
    file = entry.address(entry.url, arch).rpartition("/")[2]
    found = parse_sums(fetch_text(place), file, alone=file in place)
    if found is None:
        raise BoxError(
            f"{redact_url(place)} has no digest for {file}, so box {entry.name} can't be trusted",
            hint="the catalog may be older than the distribution: write a newer entry into"
            " boxes.toml (docs: how-to/boxes.md)",
        )
    return found


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Catalog()]
