"""What values in a Qupfile can be: patterns, sizes, names, and the base of every table.

pydantic is loaded with this module: only where a Qupfile is.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from qup.model import units
from qup.model.cloud_config import check_cloud_config
from qup.model.display import AUTO, NONE, parse_display
from qup.model.environment import NAME, check_environment
from qup.model.reference import FORMATS, reference_of

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_WORD = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
_FEATURE = r"[+-]?[A-Za-z0-9][A-Za-z0-9._-]*(?:=[A-Za-z0-9._-]+)?"
_RESERVED = r"con|prn|aux|nul|com[0-9]|lpt[0-9]|localhost"

MACHINE_NAME = re.compile(rf"(?!(?:{_RESERVED})\Z)[a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?", re.ASCII)
"""A machine's name is a host name label (RFC 1123) in lower case, and a folder's name: what
Windows keeps for devices is not allowed, nor is the name that leads back to the guest."""

HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
STEP_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?", re.ASCII)
QEMU_WORD = re.compile(rf"(?!help\Z){_WORD}", re.ASCII)
QEMU_CPU = re.compile(rf"(?!(?:.*,)?help(?:,|\Z)){_WORD}(?:,{_FEATURE})*", re.ASCII)
"""A model and its features. ``help`` would make QEMU print a list and end."""
DISK_NAME = re.compile(r"(?!qup-)[a-z](?:[a-z0-9-]{0,18}[a-z0-9])?", re.ASCII)
"""A file's name, a part of an id of QEMU, and all of a serial number, which has 20 bytes."""

MAX_DISKS = 16
MAX_MEMORY = 4 * units.TIB
MAX_DISK = 64 * units.TIB
MAX_CPUS = 1024
MAX_GUEST_PATH = 1024


def json_pattern(pattern: re.Pattern[str]) -> str:
    r"""A pattern for a whole text, in the dialect of JSON Schema, which has no ``\Z``."""
    return "^(?:" + pattern.pattern.replace(r"\Z", "$") + ")$"


_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([KMGT](i?B)?|B)?$"},
        {"type": "integer", "minimum": 1},
    ],
    "examples": ["512M", "2G", 1024],
}
_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h)?$"},
        {"type": "number", "exclusiveMinimum": 0},
    ],
    "examples": ["90s", "5m"],
}


def _matching(pattern: re.Pattern[str], what: str) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str) and not pattern.fullmatch(value):
            raise ValueError(f"{units.shorten(value)} is not {what}")
        return value

    return BeforeValidator(check)


def _described(pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": json_pattern(pattern)})


def _memory(value: object) -> int:
    return units.parse_size(value, low=16 * units.MIB, high=MAX_MEMORY)


def _disk(value: object) -> int:
    return units.parse_size(value, low=units.MIB, high=MAX_DISK)


Memory = Annotated[int, BeforeValidator(_memory), WithJsonSchema(_SIZE_SCHEMA)]
DiskSize = Annotated[int, BeforeValidator(_disk), WithJsonSchema(_SIZE_SCHEMA)]
Duration = Annotated[float, BeforeValidator(units.parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
Hostname = Annotated[
    str,
    _matching(HOSTNAME, "a host name (letters, digits, hyphens, dots)"),
    _described(HOSTNAME),
]
User = Annotated[
    str,
    _matching(USER, "a user name (lower case letters, digits, _ and -)"),
    _described(USER),
]
QemuWord = Annotated[
    str, _matching(QEMU_WORD, "a plain word that QEMU knows"), _described(QEMU_WORD)
]
QemuCpu = Annotated[
    str,
    _matching(QEMU_CPU, "a CPU model with features, such as max,-svm"),
    _described(QEMU_CPU),
]
DiskName = Annotated[
    str,
    _matching(DISK_NAME, "a disk's name (at most 20 of a-z, 0-9 and hyphens; not qup-...)"),
    _described(DISK_NAME),
]


def _box(value: object) -> object:
    return reference_of(value) if isinstance(value, dict) else value


def _cloud_init(table: dict[str, Any]) -> dict[str, Any]:
    check_cloud_config(table)
    return table


CloudInit = Annotated[
    dict[str, Any],
    AfterValidator(_cloud_init),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
Environment = Annotated[
    dict[str, str | int],
    AfterValidator(check_environment),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": json_pattern(NAME)},
            "additionalProperties": {"type": ["string", "integer"]},
        }
    ),
]
BoxName = Annotated[
    str,
    Field(max_length=4096),
    BeforeValidator(_box),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {
                        "url": {"type": "string", "description": "The image's address or path."},
                        "sha256": {"type": "string", "description": "Its digest."},
                        "format": {"enum": list(FORMATS), "description": "What it has to be."},
                        "version": {
                            "type": "string",
                            "description": "Of a catalog's versions, such as '~> 1.2'.",
                        },
                    },
                    "required": ["url"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
_SYSTEM = re.compile(
    "bin|boot|dev|etc|home|lib(32|64|x32)?|opt|proc|root|run|s?bin|sys|tmp|usr|var"
)
"""Folders of a guest that nothing may be laid over, or its programs lose what they need."""
_KERNELS = ("dev", "proc", "sys")


def _guest_folder(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = units.shorten(value)
    if not value.startswith("/"):
        raise ValueError(f"{shown} is not an absolute path, such as '/srv/app'")
    if "\0" in value or len(value) > MAX_GUEST_PATH:
        raise ValueError(f"{shown} is not a path: it has a NUL character or is too long")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{shown} has '..' in it: write where it leads to")
    if not parts or parts[0] in _KERNELS or (len(parts) == 1 and _SYSTEM.fullmatch(parts[0])):
        raise ValueError(f"{shown} is the guest's own: take another folder, such as '/srv/app'")
    return "/" + "/".join(parts)


GuestFolder = Annotated[
    str,
    BeforeValidator(_guest_folder),
    WithJsonSchema({"type": "string", "pattern": "^/", "examples": ["/srv/app"]}),
]
ImageFormat = Literal["qcow2", "raw"]
CacheName = Literal["default", "none", "writethrough", "writeback", "directsync", "unsafe"]
IoName = Literal["default", "threads", "native", "io_uring"]


def _display(value: object) -> object:
    if isinstance(value, bool):
        return AUTO if value else NONE
    return str(parse_display(value)) if isinstance(value, str) else value


Display = Annotated[
    str,
    BeforeValidator(_display),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "minLength": 1}, {"type": "boolean"}],
            "examples": ["vnc", "vnc=localhost:0", "gtk", True],
        }
    ),
]
StepName = Annotated[
    str,
    _matching(STEP_NAME, "a step's name (letters, digits, blanks, . _ -)"),
    _described(STEP_NAME),
]


class Settings(BaseModel):
    """Base of every table: strict types, kebab-case keys, nothing unknown, frozen.

    Attributes:
        shorthand: the field that plain text stands for where a table is expected.
    """

    shorthand: ClassVar[str | None] = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _make_tuples(cls, data: Any) -> Any:
        """TOML's lists are lists, and what is frozen holds tuples."""
        if not isinstance(data, dict):
            return data
        tuples = {
            key
            for name, field in cls.model_fields.items()
            if _holds_tuple(field.annotation)
            for key in (name, field.alias)
        }
        return {
            key: tuple(value) if key in tuples and isinstance(value, list) else value
            for key, value in data.items()
        }


def has_defaults(model: type[BaseModel]) -> bool:
    """Whether a table may be left empty: then ``true`` stands for it, too."""
    try:
        model.model_validate({})
    except ValueError:
        return False
    return True


def _holds_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(map(_holds_tuple, get_args(annotation)))
