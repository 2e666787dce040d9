"""What a template is: memory, the state of devices and disks, as files with a manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RAM, STATE, DISK = "ram", "state", "disk.qcow2"
FILES = (RAM, STATE, DISK)
"""What every template has."""
VARS = "vars.qcow2"
SCHEMA = 1
TEMPLATE_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_IMAGE = re.compile(r"(?:disk-[a-z0-9-]{1,20}|disk|vars)\.qcow2", re.ASCII)
TEMPLATE_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class TemplateFile:
    """A file as it was when the template was finished.

    Attributes:
        size: in bytes.
        modified: its time of change in nanoseconds.
        sha256: of the small ones.
    """

    size: int
    modified: int
    sha256: str = ""


@dataclass(frozen=True)
class Template:
    """A guest that was booted once and can be restored any number of times.

    Attributes:
        id: names its folder.
        key: what it fits; see :mod:`qup.templates.key`.
        visible: everything that went into the key.
        box: the name of the box it was booted from.
        box_digest: that box.
        persona: who the guest is: the fields of :class:`qup.guest.identity.Persona`.
        files: its files by name.
        created: when, in seconds since the epoch.
        boot_id: the host's boot in which it was made.
        seconds: what its boot took, or the steps.
        steps: names of the provisioning steps that have run in it, in their order.
    """

    id: str
    key: str
    visible: dict[str, Any]
    box: str
    box_digest: str
    persona: dict[str, Any]
    files: dict[str, TemplateFile] = field(default_factory=dict)
    created: float = 0.0
    boot_id: str = ""
    seconds: float = 0.0
    steps: tuple[str, ...] = ()


def is_kept(name: str) -> bool:
    """Whether a file is a part of a template by its name."""
    return name in FILES or is_image(name)


def is_image(name: str) -> bool:
    """Whether a file of a template is a disk, or what UEFI remembers, by its name."""
    return _IMAGE.fullmatch(name) is not None


def name_image(role: str) -> str:
    """The file of a disk, by its role in the plan."""
    return f"{role}.qcow2"


def find_difference(visible: Mapping[str, Any], templates: list[Template]) -> str | None:
    """In what the nearest template of a box differs, in a few words; None if there are none.

    Args:
        visible: what a template had to be made from.
        templates: all there are.
    """
    best: list[str] | None = None
    for template in templates:
        if template.box_digest != visible.get("box_digest"):
            continue
        names = {*visible, *template.visible}
        differs = sorted(n for n in names if visible.get(n) != template.visible.get(n))
        if best is None or len(differs) < len(best):
            best = differs
    return " and ".join(_WORDS.get(name, name) for name in best) if best else None


_WORDS = {
    "qemu": "QEMU",
    "processor": "the processor",
    "recipe": "how qup made it",
    "memory_mib": "memory",
    "seed": "the first boot",
    "nics": "the network cards",
    "disks": "the disks",
    "machine_type": "the machine type",
    "extra": "your own arguments for QEMU",
}


def write_template(template: Template) -> dict[str, Any]:
    """What is known about a template, as it is kept in JSON."""
    return {"schema": SCHEMA, **asdict(template)}


def parse_template(data: Mapping[str, Any]) -> Template:
    """Read what :func:`write_template` has written.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is something else.
    """
    data = dict(data)
    if data.pop("schema") != SCHEMA:
        raise ValueError("another schema")
    files = {name: TemplateFile(**file) for name, file in data.pop("files").items()}
    data["steps"] = tuple(data.get("steps", ()))
    template = Template(**data, files=files)
    if not TEMPLATE_ID.fullmatch(template.id) or not TEMPLATE_KEY.fullmatch(template.key):
        raise ValueError("no id")
    if not set(FILES) <= set(files) or not all(map(is_kept, files)):
        raise ValueError("files")
    return template
