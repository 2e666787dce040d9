"""Reading a catalog ("Box metadata" in Vagrant's documentation). Pure.

Only what qup needs is looked at; what it can't use is passed over, and named when nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qup.api import BoxError
from qup.builtin.vagrant.versions import VERSION, fits, make_key

PROVIDERS = ("libvirt", "qemu")
ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "i386"}
ANY_ARCH = (None, "", "unknown")
TRUSTED = ("sha256", "sha384", "sha512")
SHOWN = 8


@dataclass(frozen=True)
class Choice:
    """A version of a box for a provider.

    Attributes:
        version: which.
        url: where it is, as the catalog says it.
        digest: ``sha256:<hex>`` or the like; None if the catalog has none that is worth anything.
    """

    version: str
    url: str
    digest: str | None = None


def choose(data: Any, where: str, arch: str, constraint: str) -> Choice:
    """The newest version that fits.

    Args:
        data: the document.
        where: what messages call it.
        arch: QEMU's word for the processor.
        constraint: what the version has to be, such as ``~> 1.2``; empty for any.

    Raises:
        BoxError: it is no catalog, or has nothing that fits.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("versions"), list):
        raise BoxError(
            f"{where} is not a Vagrant catalog: it has no 'versions'",
            hint="a box has the address of a JSON document with its versions, or of a .box file",
        )
    versions = dict(_read_versions(data["versions"]))
    fitting = [text for text in versions if _fits(text, constraint, where)]
    for text in sorted(fitting, key=make_key, reverse=True):
        if (found := _find_provider(versions[text], text, arch)) is not None:
            return found
    raise _explain(where, arch, constraint, versions, fitting)


def _read_versions(entries: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries:
        if not isinstance(entry, Mapping) or entry.get("status", "active") != "active":
            continue
        text = entry.get("version")
        if isinstance(text, str) and VERSION.fullmatch(text):
            yield text, entry


def _fits(version: str, constraint: str, where: str) -> bool:
    try:
        return fits(version, constraint)
    except ValueError as exc:
        raise BoxError(f"box {where}: {exc}", hint="check 'version' in the Qupfile") from exc


def _providers(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    listed = entry.get("providers")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping) and isinstance(item.get("url"), str):
            yield item


def _find_provider(entry: Mapping[str, Any], version: str, arch: str) -> Choice | None:
    usable = [item for item in _providers(entry) if item.get("name") in PROVIDERS]
    usable.sort(key=lambda item: PROVIDERS.index(item["name"]))
    for item in usable:
        said = item.get("architecture")
        # Catalogs from before there were others mean PCs.
        if said == ARCHES.get(arch, arch) or (said in ANY_ARCH and arch == "x86_64"):
            return Choice(version, item["url"], _digest(item))
    return None


def _digest(item: Mapping[str, Any]) -> str | None:
    kind, value = (
        str(item.get(key) or "").strip().lower() for key in ("checksum_type", "checksum")
    )
    return f"{kind}:{value}" if kind in TRUSTED and value else None


def _explain(
    where: str, arch: str, constraint: str, versions: Mapping[str, Mapping[str, Any]],
    fitting: list[str],
) -> BoxError:  # fmt: skip
    """Why nothing is left."""
    if not fitting:
        newest = sorted(versions, key=make_key, reverse=True)[:SHOWN]
        wanted = f" that is {constraint}" if constraint else ""
        return BoxError(
            f"{where} has no version{wanted}",
            hint=f"it has {', '.join(newest)}" if newest else "it has none that can be read",
        )
    found = {
        " ".join(f"{item.get('name')} ({item.get('architecture') or 'any processor'})".split())[:80]
        for text in fitting
        for item in _providers(versions[text])
    }
    return BoxError(
        f"{where} has no box for {' or '.join(PROVIDERS)} with {ARCHES.get(arch, arch)}",
        hint=f"it has boxes for {', '.join(sorted(found)[:SHOWN])}" if found else None,
    )
