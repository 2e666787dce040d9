"""A QEMU that misbehaves as told: for faults that a real one can't be made to have.

It is a program (see :mod:`tests.fakes.world`), told what to do by JSON in ``FAKE_QEMU``:

``version``
    what ``--version`` prints, or ``hang``.
``start``
    ``die`` (with ``stderr`` and ``code``), ``hang`` (never greets), ``garbage`` (greets with
    something else), ``long`` (a line of a megabyte without an end), ``close`` (hangs up).
    Anything else: it starts and behaves.
``powerdown``
    ``ignore``: the guest does not react to the power button.
``quit``, ``sigterm``
    ``ignore``: QEMU does not react to those.
``banner``
    false: nobody answers at the port that leads to the guest's sshd.
``status``
    the run state it reports while it runs.
``refuse``
    a text: the answer to every ``hostfwd_add`` of a fixed port.
``prints``
    what its guest writes to the console once it runs.
``powers_off``
    seconds after ``cont`` at which the guest powers off by itself.
``die_after``
    seconds after ``cont`` at which it dies by SIGKILL.

``FAKE_DISPLAYS`` names the types of display that it has.

What is asked of it before each first start is answered without the modules that it runs with.
"""

from __future__ import annotations

import os
import sys
import time

VERSION = "QEMU emulator version 7.2.22 (fake)\n"
MACHINES = """Supported machines are:
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
"""
ACCELERATORS = "Accelerators supported in QEMU binary:\ntcg\n"
DISPLAYS = os.environ.get("FAKE_DISPLAYS") or "none egl-headless curses"


def main(words: list[str]) -> None:
    """Be QEMU."""
    if "--version" in words:
        print(read_version(), end="")
    elif words[-1:] == ["help"]:
        lists = {
            "-machine": MACHINES,
            "-accel": ACCELERATORS,
            "-display": "Types:\n" + DISPLAYS.replace(" ", "\n") + "\n",
        }
        print(lists[words[-2]], end="")
    else:
        from fake_machine import run  # beside this program

        run(words)


def read_version() -> str:
    if (scenario := os.environ.get("FAKE_QEMU") or "{}") == "{}":
        return VERSION
    import json

    version: str = json.loads(scenario).get("version", VERSION)
    if version == "hang":
        time.sleep(3600)
    return version


if __name__ == "__main__":
    main(sys.argv[1:])
