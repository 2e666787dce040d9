"""The variables in user data that a Qupfile has: unknown ones are found before anything is done."""

from __future__ import annotations

from collections.abc import Mapping

from qup.model.config import MachineSettings
from qup.model.user_data import find_faults
from qup.qupfile.layers import Stack
from qup.qupfile.problems import Collector


def check_user_data(
    machines: Mapping[str, object], stacks: Mapping[str, Stack], problems: Collector
) -> None:
    """Every variable in the user data of a machine that has any is one that there is."""
    for name, settings in machines.items():
        if not isinstance(settings, MachineSettings) or not settings.user_data_variables:
            continue
        for key, value in (("user-data", settings.user_data), ("cloud-init", settings.cloud_init)):
            for path, fault in find_faults(value):
                line = f"line {fault.line}: " if "\n" in _text_at(value, path) else ""
                text = f"{line}{fault.message}"
                problems.add(stacks[name].problem((key, *path), text, hint=fault.hint))


def _text_at(value: object, path: list[str | int]) -> str:
    for key in path:
        value = value[key]  # type: ignore[index]  # the path leads through it
    return str(value)
