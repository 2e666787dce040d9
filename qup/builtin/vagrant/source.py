"""The box source ``vagrant``: a catalog of Vagrant's, by address or path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from qup.api import (
    Box,
    BoxError,
    BoxSource,
    BoxSpec,
    Fetched,
    Reference,
    Report,
    check_url,
    fetch_json,
    hookimpl,
    parse_reference,
    redact_url,
)
from qup.builtin.box_image import FILE, WEB, fetch_image
from qup.builtin.vagrant.catalog import Choice, choose

SUFFIX = ".json"
LIMIT = 4 << 20
"""Bytes that a catalog in a file may have."""


class Catalogs:
    """Boxes by the JSON documents that list their versions."""

    name = "vagrant"
    summary = "the address or path of a catalog of Vagrant's (JSON with versions)"

    def names(self) -> Sequence[str]:
        return ()

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:  # noqa: ARG002
        """Whatever ends in ``.json``."""
        if not reference.partition("#")[0].partition("?")[0].lower().endswith(SUFFIX):
            return None
        named = _read(reference)
        if named.url.lower().startswith(WEB):
            check_url(named.url, vouched=False)
        key = hashlib.sha256(f"{reference}\0{arch}".encode(errors="surrogateescape"))
        return BoxSpec(
            name=reference, source=self.name, arch=arch, version="", key=key.hexdigest()[:16],
            kernel=False,
        )  # fmt: skip

    def fetch(self, spec: BoxSpec, project: Path, into: Path, report: Report) -> Fetched:
        named = _read(spec.name)
        choice = _choose(named, spec, project)
        report(f"version {choice.version} is the newest that fits")
        digest = named.digest or choice.digest
        return _fetch(
            Reference(choice.url, digest, named.format), choice.version, spec, into, report
        )

    def fetch_pinned(
        self, spec: BoxSpec, project: Path, into: Path, report: Report, url: str, sha256: str
    ) -> Fetched:
        """The version that a project has, however many there are after it."""
        named = _read(spec.name)
        version = ""
        for choice in _list(named, spec, project):
            if redact_url(choice.url) == url:
                url, version = choice.url, choice.version
        return _fetch(Reference(url, f"sha256:{sha256}", named.format), version, spec, into, report)

    def newer(self, box: Box, project: Path) -> str | None:
        choice = _choose(_read(box.spec.name), box.spec, project)
        known = box.details.get("catalog_version"), box.details.get("published")
        if known == (choice.version, choice.digest):
            return None
        return f"there is version {choice.version}"


def _read(text: str) -> Reference:
    try:
        return parse_reference(text)
    except ValueError as exc:
        raise BoxError(f"box {redact_url(text)}: {exc}") from exc


def _fetch(named: Reference, version: str, spec: BoxSpec, into: Path, report: Report) -> Fetched:
    got = fetch_image(named, into, report)
    details = {**got.details, "catalog_version": version, "published": named.digest}
    made = replace(got, details=details).as_box(spec)
    return replace(made, spec=replace(made.spec, version=version or made.spec.version))


def _choose(named: Reference, spec: BoxSpec, project: Path) -> Choice:
    data, where = _load(named.url, project)
    choice = choose(data, where, spec.arch, named.version or "")
    return replace(choice, url=_locate(choice.url, named.url, project))


def _list(named: Reference, spec: BoxSpec, project: Path) -> Iterable[Choice]:
    """All versions that there are for a processor; none if the catalog can't be had."""
    try:
        data, where = _load(named.url, project)
        texts = [entry.get("version") for entry in data["versions"]]
    except (BoxError, KeyError, TypeError, AttributeError):
        return
    for text in texts:
        try:
            choice = choose(data, where, spec.arch, f"= {text}")
            yield replace(choice, url=_locate(choice.url, named.url, project))
        except BoxError:
            continue


def _load(url: str, project: Path) -> tuple[Any, str]:
    """The document, and what messages call it."""
    if url.lower().startswith(WEB):
        return fetch_json(url), redact_url(url)
    path = _path(url, project)
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as exc:
        raise BoxError(
            f"the catalog {path} can't be read: {exc.strerror}", hint="check 'box' in the Qupfile"
        ) from exc
    try:
        if len(data) > LIMIT:
            raise ValueError("it is far too large")
        return json.loads(data), str(path)
    except (ValueError, RecursionError) as exc:
        raise BoxError(f"the catalog {path} is not JSON: {exc}") from exc


def _path(url: str, project: Path) -> Path:
    return (project / Path(url.removeprefix(FILE)).expanduser()).absolute()


def _locate(url: str, catalog: str, project: Path) -> str:
    """Where a box is that a catalog names.

    Raises:
        BoxError: a catalog from the web names a file of this computer.
    """
    if url.lower().startswith(WEB):
        return url
    if catalog.lower().startswith(WEB):
        found = urljoin(catalog, url)
        if not found.lower().startswith(WEB):
            raise BoxError(
                f"{redact_url(catalog)} names a box at {url[:80]!r},"
                " which is not an http(s) address"
            )
        return found
    return f"{FILE}{_path(url, _path(catalog, project).parent)}"


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Catalogs()]
