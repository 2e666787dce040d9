"""QEMU's run states in qup's words, what to do about each, and what ``up`` does.

The states are those of ``RunState`` in ``qapi/run-state.json``, QEMU 7.2 to 10; a test holds
them against what the QEMU of this computer says itself. Which of them ``cont`` leaves is from
``qmp_cont()`` in ``monitor/qmp-cmds.c``, and from trying.

``qup status`` imports this module: nothing slow is imported here.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Way(Enum):
    """How ``up`` brings a machine in some run state back to running."""

    NONE = "waits until ssh answers"
    CONTINUE = "lets the guest go on"
    WAKE = "wakes the guest"
    ANEW = "starts the machine anew"
    REFUSE = "refuses, and says what to do"


class RunState(NamedTuple):
    """What a run state of QEMU means.

    Attributes:
        word: qup's status word.
        meaning: what is so, for people; empty where the word says it all.
        advice: what to do about it; empty where there is nothing to do.
        way: what ``up`` does.
    """

    word: str
    meaning: str = ""
    advice: str = ""
    way: Way = Way.REFUSE

    @property
    def detail(self) -> str | None:
        """The remark of ``qup status``."""
        return "; ".join(filter(None, (self.meaning, self.advice))) or None


RUN_STATES = {
    "running": RunState("running", way=Way.NONE),
    "prelaunch": RunState("starting", way=Way.NONE),
    "paused": RunState(
        "paused", "QEMU was told to pause the guest", "'qup up' continues it", Way.CONTINUE
    ),
    "debug": RunState(
        "paused", "a debugger has stopped the guest", "'qup up' continues it", Way.CONTINUE
    ),
    "watchdog": RunState(
        "paused",
        "the guest's watchdog fired: the guest hangs",
        "'qup up' continues it, 'qup reload' restarts it",
        Way.CONTINUE,
    ),
    "suspended": RunState("asleep", "the guest sleeps (ACPI S3)", "'qup up' wakes it", Way.WAKE),
    "io-error": RunState(
        "io-error",
        "this computer's disk is full or failed, so the guest was stopped",
        "make room, then 'qup up'",
        Way.CONTINUE,
    ),
    "guest-panicked": RunState(
        "panicked", "the guest's kernel panicked", "see 'qup logs', then 'qup reload'"
    ),
    "internal-error": RunState(
        "error", "QEMU or its accelerator can't go on with the guest", "'qup reload --force'"
    ),
    "shutdown": RunState(
        "shutdown",
        "the guest has powered off, QEMU is ending",
        "'qup up' restarts it",
        Way.ANEW,
    ),
    "inmigrate": RunState("restoring", "the guest's memory is being loaded", "wait"),
    "restore-vm": RunState("restoring", "a snapshot is being loaded", "wait"),
    "save-vm": RunState("saving", "a snapshot is being written", "wait"),
    "finish-migrate": RunState("saving", "the guest's memory is being written", "wait"),
    "postmigrate": RunState(
        "saved",
        "the guest's memory has been written away, and the guest stands still",
        "'qup up' continues it",
        Way.CONTINUE,
    ),
    "colo": RunState(
        "colo", "QEMU replicates the guest (COLO), which qup never asks for", "'qup kill'"
    ),
}
"""By QEMU's own name, ``status`` in the answer to ``query-status``."""


def explain_run_state(name: str) -> RunState:
    """What a run state means; one of a future QEMU is its own word."""
    known = RUN_STATES.get(name)
    return known or RunState(name, "a run state of QEMU that this qup doesn't know", "'qup kill'")
