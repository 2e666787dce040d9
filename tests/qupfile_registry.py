"""What plugins would bring, for tests of the Qupfile: none of it is real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from qup.api import (
    FolderType,
    Forward,
    Guest,
    Host,
    NetworkMode,
    NicPlan,
    NicRequest,
    Problem,
    Provisioner,
    Settings,
    parse_forward,
)
from qup.plugins import Plugins

ForwardText = Annotated[Forward, BeforeValidator(parse_forward), WithJsonSchema({"type": "string"})]


class UserOptions(Settings):
    forward: tuple[ForwardText, ...] = Field(default=(), description="Ports.")
    isolate: bool = Field(default=False, description="Keep to itself.")


class TapOptions(Settings):
    tap: str = Field(max_length=15, description="The device.")
    queue_size: int | str = Field(default=1, description="A choice of types.")


class BrokenOptions(BaseModel):
    anything: Annotated[str, BeforeValidator(lambda value: value.nothing)] = ""


class ShellOptions(Settings):
    shorthand = "inline"
    inline: str | None = Field(default=None, description="The script.")
    script: str | None = Field(default=None, description="Its path.")
    sudo: bool = Field(default=True, description="As root.")


class FileOptions(Settings):
    source: str = Field(description="From.")
    target: str = Field(description="To.")


@dataclass(frozen=True)
class Mode:
    name: str
    options: type[Settings]
    summary: str = "a way"

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:
        return ()

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        return NicPlan({"type": "user"})


@dataclass(frozen=True)
class Step:
    name: str
    options: type[Settings]
    summary: str = "a step"

    def digest(self, options: Any, project: Path) -> str:
        return ""

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        raise AssertionError


def _by_name(items: Sequence[Any]) -> dict[str, Any]:
    return {item.name: item for item in items}


@dataclass
class FakeRegistry:
    network_modes: Mapping[str, NetworkMode] = field(
        default_factory=lambda: _by_name(
            [
                Mode("user", UserOptions),
                Mode("tap", TapOptions),
                Mode("broken", BrokenOptions),  # type: ignore[arg-type]
            ]
        )
    )
    accelerators: Mapping[str, object] = field(
        default_factory=lambda: dict.fromkeys(("kvm", "hvf", "whpx", "tcg"))
    )
    guest_seeders: Mapping[str, object] = field(
        default_factory=lambda: dict.fromkeys(("nocloud", "none"))
    )
    folder_types: Mapping[str, FolderType] = field(
        default_factory=lambda: dict(Plugins(installed=False).folder_types)
    )
    provisioners: Mapping[str, Provisioner] = field(
        default_factory=lambda: _by_name([Step("shell", ShellOptions), Step("file", FileOptions)])
    )
    reason: str | None = None

    def explain_missing(self, kind: str, name: str) -> str | None:
        return self.reason and f"{kind} {name}: {self.reason}"
