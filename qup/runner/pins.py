"""``qup.lock``: which file each box of a project turned out to be.

It stands beside the Qupfile and is meant to be committed: whoever starts the project's machines
later, or elsewhere, gets the very same images or is told that he can't.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qup.errors import BoxError, ConfigError, HostError
from qup.files import write_atomic
from qup.locks import lock
from qup.model.box import Box, BoxSpec
from qup.paths import Project
from qup.runner.context import Context

SCHEMA = 1
LIMIT = 1 << 20
"""Bytes that the file may have."""
HEAD = f"""\
# Which files the boxes of this project are; written by qup, to be committed.
# 'qup box update' takes what is published now.
schema = {SCHEMA}
"""


@dataclass(frozen=True)
class Pin:
    """One box.

    Attributes:
        name: what the Qupfile calls it.
        arch: QEMU's word for the guest's processor.
        url: where it came from; without what its query said.
        sha256: the digest of the file that was fetched, in hexadecimal.
        size: its size in bytes.
    """

    name: str
    arch: str
    url: str
    sha256: str
    size: int

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.arch


def read_pins(project: Project) -> dict[tuple[str, str], Pin]:
    """What a project's boxes are pinned to.

    Raises:
        ConfigError: the file is damaged.
    """
    path = project.pins
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise ConfigError(f"{path} can't be read: {exc.strerror}") from exc
    try:
        tables: dict[str, Any] = tomllib.loads(data[:LIMIT].decode())
        if tables["schema"] != SCHEMA:
            raise ValueError(f"schema {tables['schema']!r} is not {SCHEMA}")
        pins = [_read_pin(table) for table in tables.get("box", [])]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(
            f"{path} is damaged: {str(exc) or type(exc).__name__}",
            hint="put back the committed one, or remove it: 'qup up' pins anew what is published"
            " now",
        ) from exc
    return {pin.key: pin for pin in pins}


def _read_pin(table: Mapping[str, Any]) -> Pin:
    pin = Pin(**table)
    texts = (pin.name, pin.arch, pin.url, pin.sha256)
    if not all(isinstance(text, str) for text in texts) or not isinstance(pin.size, int):
        raise ValueError(f"box {pin.name!r} has a value of the wrong kind")
    if not re.fullmatch(r"[0-9a-f]{64}", pin.sha256):
        raise ValueError(f"box {pin.name!r} has no SHA-256")
    return pin


def write_pins(project: Project, pins: Iterable[Pin]) -> None:
    """Replace the file.

    Raises:
        HostError: it can't be written.
    """
    text = HEAD
    for pin in sorted(pins, key=lambda pin: pin.key):
        # A JSON string is one of TOML's, but for characters beyond the first plane.
        values = {key: json.dumps(value, ensure_ascii=False) for key, value in vars(pin).items()}
        text += "\n[[box]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
    write_atomic(project.pins, text, mode=0o644)


def pin_of(box: Box) -> Pin | None:
    """What a box would be pinned to; None for one that is made here or was found as a file, and
    for an ISO that is asked for as the newest release.
    """
    url, sha256, size = (box.details.get(key) for key in ("url", "sha256", "size"))
    if "release" in box.details or not (isinstance(url, str) and isinstance(sha256, str)):
        return None
    return Pin(box.spec.name, box.spec.arch, url, sha256, size if isinstance(size, int) else 0)


def find_pin(ctx: Context, spec: BoxSpec) -> Pin | None:
    """What a box is pinned to in this project."""
    return read_pins(ctx.project).get((spec.name, spec.arch))


def find_pinned(ctx: Context, spec: BoxSpec) -> Box | None:
    """The box in the cache that a project means: the one that it is pinned to, or the current."""
    current = ctx.boxes.find(spec)
    pin = find_pin(ctx, spec)
    if pin is None or (current and _is(current, pin)):
        return current
    return next((box for box in ctx.boxes.boxes() if _is(box, pin)), None)


def _is(box: Box, pin: Pin) -> bool:
    found = pin_of(box)
    return found is not None and (found.key, found.sha256) == (pin.key, pin.sha256)


def check_pin(pin: Pin | None, details: Mapping[str, object]) -> None:
    """Refuse what was fetched if it isn't what the project is pinned to.

    Raises:
        BoxError: it is another file.
    """
    found = details.get("sha256")
    if pin is not None and found != pin.sha256:
        raise BoxError(
            f"box {pin.name} has changed since qup.lock was written: its sha256 is {found}, pinned"
            f" is {pin.sha256}",
            hint=f"'qup box update {pin.name}' takes the new one; the old one can only come from a"
            " cache that has it",
        )


def pin_box(ctx: Context, machine: str, box: Box) -> None:
    """Write down which file a box is, unless that is known. Not being able to is no failure."""
    pin = pin_of(box)
    if pin is None or not ctx.project.qupfile.exists():
        return
    try:
        with lock(ctx.boxes.lock_path, what="the cache of boxes", timeout=ctx.lock_timeout):
            pins = read_pins(ctx.project)
            before = pins.get(pin.key)
            if before == pin:
                return
            write_pins(ctx.project, {**pins, pin.key: pin}.values())
    except HostError as exc:
        ctx.tell(machine, f"box {pin.name} is not pinned: {exc.message}", level="warning")
        return
    moved = f" (it was {before.sha256[:12]})" if before else ""
    trusted = "" if box.details.get("vouched") else ", which nobody else vouches for"
    ctx.tell(machine, f"qup.lock: box {pin.name} is {pin.sha256[:12]}{trusted}{moved}")
