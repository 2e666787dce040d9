"""The plan of a machine's newest start, as it was carried out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qup.files import write_atomic
from qup.paths import MachineFolder


def read_plan(folder: MachineFolder) -> dict[str, Any]:
    """The plan of the newest start; empty if there is none that can be read."""
    try:
        stored = json.loads(folder.plan.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def write_plan(folder: MachineFolder, data: Mapping[str, Any]) -> None:
    """Keep a plan that was carried out."""
    write_atomic(folder.plan, json.dumps(data, indent=2) + "\n", durable=False)


def note_box(folder: MachineFolder, name: str) -> None:
    """Write down that a machine has another box since its newest start."""
    stored = read_plan(folder)
    if isinstance(stored.get("box"), dict):
        write_plan(folder, {**stored, "box": {**stored["box"], "name": name}})
