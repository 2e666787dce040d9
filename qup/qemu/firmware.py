"""UEFI firmware on this computer, found as QEMU's makers meant it to be found.

Packages of firmware bring a JSON file each that says what the firmware is, where its files
are, and for which machines it is good (``docs/interop/firmware.json`` in QEMU's source, which
also has the order of the folders).
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = ("raw", "qcow2")

UNWANTED = frozenset(
    {"requires-smm", "secure-boot", "enrolled-keys", "host-uefi-vars", "intel-tdx", "amd-sev-snp"}
)
"""Features of firmware that needs a machine of another kind, or refuses what isn't signed."""

DESCRIPTOR_LIMIT = 1 << 20
"""Bytes; a usual one has a thousand."""


class FirmwareFiles(NamedTuple):
    """Firmware that is there.

    Attributes:
        description: its maker's words.
        code: the firmware.
        code_format: ``raw`` or ``qcow2``.
        template: what a new machine's variables start as.
        template_format: ``raw`` or ``qcow2``.
    """

    description: str
    code: Path
    code_format: str
    template: Path
    template_format: str


def descriptor_folders(program: Path | None = None) -> list[Path]:
    """Where descriptors are, the folder that counts least first.

    Args:
        program: QEMU; one that wasn't installed by a package has a folder of its own.
    """
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    with contextlib.suppress(RuntimeError):  # nobody knows where home is
        config = config.expanduser()
    folders = [Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware")]
    if program is not None:
        folders.insert(0, program.resolve().parent.parent / "share/qemu/firmware")
    if config.is_absolute():
        folders.append(config / "qemu/firmware")
    return list(dict.fromkeys(folders))


def find_firmware(folders: Iterable[Path], arch: str, machine_type: str) -> FirmwareFiles | None:
    """The UEFI firmware for a machine; None if there is none.

    The descriptors' names say which one is tried first. One of the same name in a later folder
    takes an earlier one's place; an empty file does away with it.

    Args:
        folders: where descriptors are, the one that counts least first.
        arch: the guest's processor in QEMU's words.
        machine_type: QEMU's versioned name of it.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        named.update((path.name, path) for path in _list(folder))
    for _, path in sorted(named.items()):
        for found in _read(path, arch, machine_type):
            return found
    return None


def _list(folder: Path) -> Sequence[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    except OSError:
        return []


def _read(path: Path, arch: str, machine_type: str) -> Iterator[FirmwareFiles]:
    """The firmware of a descriptor, if it fits and its files are there."""
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(DESCRIPTOR_LIMIT))
        if _fits(data, arch, machine_type):
            yield from _files(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # empty on purpose, or not what it should be: others may serve


def _fits(data: Mapping[str, Any], arch: str, machine_type: str) -> bool:
    return (
        "uefi" in data["interface-types"]
        and UNWANTED.isdisjoint(data.get("features", ()))
        and any(
            target["architecture"] == arch
            and any(fnmatch.fnmatchcase(machine_type, name) for name in target["machines"])
            for target in data["targets"]
        )
    )


def _files(data: Mapping[str, Any]) -> Iterator[FirmwareFiles]:
    mapping = data["mapping"]
    if mapping["device"] != "flash" or mapping.get("mode", "split") != "split":
        return  # without a template there is nothing to make variables from
    code, template = mapping["executable"], mapping["nvram-template"]
    found = FirmwareFiles(
        str(data.get("description") or "UEFI firmware"),
        Path(code["filename"]),
        str(code["format"]),
        Path(template["filename"]),
        str(template["format"]),
    )
    if (
        {found.code_format, found.template_format} <= set(FORMATS)
        and found.code.is_file()
        and found.template.is_file()
    ):
        yield found
