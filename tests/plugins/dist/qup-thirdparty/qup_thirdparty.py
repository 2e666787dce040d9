"""Somebody's plugin: a network mode that acts on the host, an accelerator, a provisioner, a
command, a check.
"""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import Field

from qup.api import (
    AcceleratorPlan,
    Check,
    Command,
    Finding,
    HostAction,
    NicPlan,
    Problem,
    Settings,
    Verdict,
    hookimpl,
)


class LanOptions(Settings):
    """``[machine.network]`` with ``mode = "lan"``"""

    marker: str = Field(description="A file that exists while the machine is connected.")
    backend: str = Field(default="user", description="QEMU's type of network.")
    max_age: int = Field(default=5, ge=1, le=9, description="A number from 1 to 9.")


class Lan:
    name = "lan"
    summary = "a network that leaves a mark on the host"
    options = LanOptions

    def problems(self, options, host):
        if options.marker.startswith("/nowhere"):
            return [Problem(f"{options.marker} is nowhere", "put it somewhere")]
        return []

    def plan(self, options, nic):
        action = HostAction(("touch", options.marker), ("rm", "-f", options.marker))
        netdev = {"type": options.backend, "hostname": nic.hostname}
        return NicPlan(netdev, guest_address="10.0.2.15", actions=(action,))


class Patient:
    name = "patient"
    summary = "one thread for all"
    priority = -1

    def usable(self, host, program, arch, *, prove):
        return Verdict(host.qemu_supports(program, "tcg"), "it takes its time")

    def plan(self, arch):
        return AcceleratorPlan(self.name, {"accel": "tcg", "thread": "single"}, "max,-la57")


class StampOptions(Settings):
    """``stamp`` in ``[[machine.provision]]``"""

    text: str = Field(description="What to write.")


class Stamp:
    name = "stamp"
    summary = "writes a file"
    options = StampOptions

    def digest(self, options, project):
        return "1"

    def run(self, options, guest, project, report):
        guest.run(["sh", "-c", "cat > stamp"], input=options.text)
        report(f"stamped {guest.name}")


def thirdparty(loud: Annotated[bool, typer.Option("--loud", help="Say it loud.")] = False) -> None:
    """Say something."""
    typer.echo("THIRD PARTY" if loud else "third party")


@hookimpl
def qup_network_modes():
    return [Lan()]


@hookimpl
def qup_accelerators():
    return [Patient()]


@hookimpl
def qup_provisioners():
    return [Stamp()]


@hookimpl
def qup_commands():
    return [Command("thirdparty", "Say something.", thirdparty)]


@hookimpl
def qup_checks():
    return [Check("party", "The party", lambda _host: [Finding("ok", "the party goes on")])]
