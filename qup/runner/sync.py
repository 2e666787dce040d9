"""``qup sync``: brings copies in running guests up to date, once or when something changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from qup.errors import Interrupted, MachineError, QupError, UsageError
from qup.model.events import Finished
from qup.model.state import State
from qup.paths import MachineFolder
from qup.runner.context import Context
from qup.runner.copies import Copying, link_to, runtime_of
from qup.runner.folders import bring_folders, bring_mounts
from qup.runner.observe import observe, require_alive
from qup.runner.running import Running
from qup.runner.work import UpOptions
from qup.trees import Tree
from qup.watching import Watch

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

ALIVE_EVERY = 2.0
"""Seconds between two looks whether a machine still runs, while nothing changes."""

ENDING = 2.0
"""Seconds in which a machine whose connections break would be gone."""


def sync(ctx: Context, config: MachineConfig) -> None:
    """Bring the copies in a running machine up to date.

    Raises:
        MachineError: it isn't up.
        QupError: see :meth:`Copying.run`.
    """
    began = time.monotonic()
    folder = ctx.project.machine(config.name)
    state = require_ready(folder)
    with ctx.lock(folder):
        plan, _ = Running(ctx, config, UpOptions(), folder).plan_again(state)
        changed = bring_folders(ctx, folder, plan, state)
        ctx.emit(Finished(config.name, "sync", changed, time.monotonic() - began))
    if not plan.folders:
        ctx.tell(config.name, "has no folders: they are [[machine.folders]] in the Qupfile")


def watch(ctx: Context, machines: Sequence[MachineConfig]) -> NoReturn:
    """Bring copies up to date whenever something changes, until Ctrl-C.

    Raises:
        MachineError: a machine isn't up, or not any more.
        UsageError: no machine has a folder that is copied.
        Interrupted: by Ctrl-C.
    """
    rounds = []
    for config in machines:
        folder = ctx.project.machine(config.name)
        state = require_ready(folder)
        with ctx.lock(folder):
            plan, _ = Running(ctx, config, UpOptions(), folder).plan_again(state)
            copied, _ = bring_mounts(ctx, folder, plan, state)
        if copied:
            link = link_to(folder, runtime_of(state))
            rounds.append((folder, Copying(ctx, link, copied, plan.program)))
    if not rounds:
        raise UsageError(
            "there is nothing to watch: no folder of these machines is copied",
            hint="what is mounted is the folder itself; 'qup plan' shows which folder is what",
        )
    try:
        _watch(ctx, rounds)
    except KeyboardInterrupt:
        raise Interrupted from None


def _watch(ctx: Context, rounds: Sequence[tuple[MachineFolder, Copying]]) -> NoReturn:
    with Watch() as watch:
        trees: dict[Path, Tree] = {}

        def cover(tree: Tree) -> bool:
            trees[tree.root] = tree
            return watch.cover(folder for tree in trees.values() for folder in tree.folders)

        changed = True
        told = False
        while True:
            for folder, copying in rounds:
                require_ready(folder)
                if changed:
                    try:
                        with ctx.lock(folder):
                            copying.run(cover)
                    except QupError:
                        _look_for_an_end(folder)
                        raise
            if watch.blind and not told:
                text = f"nobody tells of changes ({watch.blind}): looking every few seconds"
                ctx.tell("", text, level="warning")
            told = told or bool(watch.blind)
            changed = watch.wait(ALIVE_EVERY)


def _look_for_an_end(folder: MachineFolder) -> None:
    """That a machine has ended says more than a broken copy does.

    Raises:
        MachineError: it has ended, or does so now: its connections break before it is gone.
    """
    deadline = time.monotonic() + ENDING
    while observe(folder, thorough=False).alive and time.monotonic() < deadline:
        time.sleep(0.02)
    require_ready(folder)


def require_ready(folder: MachineFolder) -> State:
    """The state of a machine that runs and that ssh gets into.

    Raises:
        MachineError: it isn't up.
    """
    state = require_alive(folder)
    if state.launch is None or not state.launch.ready:
        raise MachineError(
            f"machine {folder.name} is not ready: ssh has not answered yet",
            hint=f"'qup up {folder.name}' waits for it",
            machine=folder.name,
        )
    return state
