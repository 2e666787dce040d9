"""The accelerator probe: a tiny guest that tells whether an accelerator really works.

That ``/dev/kvm`` opens proves nothing, nor does a firmware that runs: on hosts with broken
nested virtualisation both do, while every 64-bit kernel hangs. So QEMU is given a firmware of
our own (``probe.S`` beside this file), which enters long mode, works for a while, and ends
QEMU with an exit code that nothing else makes. It takes about 0.05 s where it works.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qup.errors import HostError
from qup.process import Result, run
from qup.qemu.argv import option_string

TIMEOUT = 2.0
"""Seconds until a guest that did not report counts as hanging; 0.05 is usual."""

EXIT_CODE = 0x2A << 1 | 1
"""What ``isa-debug-exit`` makes of the probe's report (``hw/misc/debugexit.c``)."""

_LIMITED = ("sh", "-c", 'ulimit -t 10; exec "$@"', "sh")
"""Ends a guest that spins, at the latest when it has used 10 s of CPU: even if qup was killed."""

IMAGE_SIZE = 64 * 1024

CODE_OFFSET = 0xFE00
CODE = base64.b64decode(
    "+vwuZg8BFhD/DyDADAEPIsBm6hn+DwAIAGa4EACO2I7AjtC/ABAAADHAuQAMAADzq8cFABAAAAMgAADHBQAgAAAD"
    "MAAAxwUAMAAAgwAAALggAAAADyLguAAQAAAPIti5gAAAwA8yDQABAAAPMLgBAACADyLA6nz+DwAYAL8AAAEAMcC5"
    "AIAAAPNIq70CAAAASLgVfEp/uXk3nrnwSQIASInCSMHiDUgx0EiJwkjB6gdIMdBIicJIweIRSDHQicOB4/9/AABI"
    "MQTdAAABAP/Jdc7/zXW7vwAAAQAxwLkAgAAA80ivdQSwKub0DwsAAAAAAAAAAAAAAAD//wAAAJrPAP//AAAAks8A"
    "//8AAACarwAfAPD+Dw=="
)
RESET_OFFSET = 0xFFF0
RESET = bytes.fromhex("ea00fe00f0")
"""The assembled ``probe.S`` without its zeros; a test assembles it again and compares."""


@dataclass(frozen=True)
class Outcome:
    """What the probe found: the same fields as :class:`qup.api.Verdict`."""

    usable: bool
    reason: str
    hint: str | None = None


def make_image() -> bytes:
    """The firmware image."""
    image = bytearray(IMAGE_SIZE)
    image[CODE_OFFSET : CODE_OFFSET + len(CODE)] = CODE
    image[RESET_OFFSET : RESET_OFFSET + len(RESET)] = RESET
    return bytes(image)


def run_probe(
    program: Path, properties: Mapping[str, str], cpu: str, *, timeout: float = TIMEOUT
) -> Outcome:
    """Run the probe's guest.

    Args:
        program: a QEMU for x86-64 guests; for others there is no probe, and only emulation
            counts as usable.
        properties: of ``-accel``; ``accel`` is QEMU's name for it.
        cpu: the ``-cpu``.
        timeout: seconds until the guest counts as hanging.

    Returns:
        Usable only if the guest reported success.
    """
    name = properties["accel"]
    arch = program.name.rpartition("qemu-system-")[2]
    if program.name.startswith("qemu-system-") and arch != "x86_64":
        return Outcome(name == "tcg", f"not proved: there is no probe for {arch} guests")
    with tempfile.NamedTemporaryFile(prefix="qup-probe-") as image:
        image.write(make_image())
        image.flush()
        try:
            result = run(_argv(program, properties, cpu, image.name), check=False, timeout=timeout)
        except HostError as exc:
            if isinstance(exc.__cause__, subprocess.TimeoutExpired):
                return Outcome(False, f"a tiny 64-bit guest hangs under {name}", _hint(name))
            raise
    return _judge(name, result)


def _argv(program: Path, properties: Mapping[str, str], cpu: str, image: str) -> list[str]:
    accelerator = option_string("", properties)
    return [
        *_LIMITED,
        str(program),
        *("-accel", accelerator, "-cpu", cpu, "-machine", "q35", "-m", "16M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-bios", image, "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]


def _judge(name: str, result: Result) -> Outcome:
    if result.code == EXIT_CODE:
        return Outcome(True, f"a tiny 64-bit guest ran under {name}")
    said = result.stderr.strip().splitlines()
    if said:
        return Outcome(False, f"QEMU says: {said[-1].strip()}", _hint(name))
    if result.code == 0:
        return Outcome(False, f"a tiny 64-bit guest crashed under {name}", _hint(name))
    return Outcome(False, f"QEMU ended with {result.outcome} under {name}", _hint(name))


def _hint(name: str) -> str | None:
    if name != "kvm":
        return None
    return "if this computer is a virtual machine, its own host must allow nested virtualisation"
