"""Templates that machines need, whoever knows of the machines.

The index of machines is a cache: it may be lost, and it doesn't know where a project was moved
to. So a machine has a hard link to an empty file of each template that its disks are based on.
As long as the file has more names than one, somebody needs the template; the link is gone with
the machine's folder, however that is removed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from qup.errors import HostError, QupError, TemplateError
from qup.locks import lock
from qup.model.state import State
from qup.ownership import make_private
from qup.paths import MachineFolder, Project
from qup.runner.context import Context
from qup.runner.snapshots import find_template_users, list_all
from qup.store import indexed, read_state
from qup.templates.cache import TemplateCache
from qup.templates.template import Template

UNKNOWN = "a machine of a project that was moved, or of another index"


def hold_templates(ctx: Context, folder: MachineFolder, state: State) -> None:
    """Keep what a machine's disk and those of its snapshots are based on; let go of the rest.

    Where no links can be made, as between file systems, the index alone says who needs what.

    Raises:
        StateError: somebody keeps the lock of the cache.
        TemplateError: what the disk is based on was removed a moment ago.
    """
    wanted = {item.template for item in list_all(folder)} | {state.template}
    names = sorted(filter(None, wanted))
    if not names and not folder.held.is_dir():
        return
    with contextlib.suppress(OSError, HostError):
        make_private(folder.held)
        for path in folder.held.iterdir():
            if path.name not in wanted:
                path.unlink()
    missing = [name for name in names if not (folder.held / name).exists()]
    if not missing:
        return
    # Whoever removes templates has the lock while they look who needs them.
    what = "the cache of templates"
    with (
        contextlib.suppress(HostError),
        lock(ctx.templates.lock_path, what=what, timeout=ctx.lock_timeout),
    ):
        for name in missing:
            _link(ctx.templates.held(name), folder.held / name)
    if state.template in missing and not ctx.templates.is_there(state.template):
        raise TemplateError("it was removed a moment ago")


def let_go(folder: MachineFolder, template: str) -> None:
    """Need a template no more from which a machine didn't come back; its snapshots may."""
    if all(item.template != template for item in list_all(folder)):
        (folder.held / template).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        source.touch(mode=0o600)
        os.link(source, target)


def find_users(cache: TemplateCache, template: Template) -> list[str]:
    """Machines whose disk, or a snapshot's, is based on a template: ``project: name``."""
    found = []
    for entry in indexed():
        try:
            state = read_state(Project(entry.project).machine(entry.name))
        except QupError:
            continue  # a broken machine has no say here, but by its link
        if state is not None and state.template == template.id:
            found.append(f"{entry.project}: {entry.name}")
    found = list(dict.fromkeys([*found, *find_template_users(template.id)]))
    if not found and _is_held(cache, template):
        found.append(UNKNOWN)
    return found


def _is_held(cache: TemplateCache, template: Template) -> bool:
    try:
        return cache.held(template.id).stat().st_nlink > 1
    except OSError:
        return False
