"""Telling a guest the variables of ``[machine.env]``.

They go into a script in the guest that login shells read by themselves, and that qup has read
before what it runs there. OpenSSH's own way (``SetEnv``) needs a server that accepts them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qup.errors import HostError
from qup.files import write_atomic
from qup.guest import ssh
from qup.model.environment import PLACE, render_environment
from qup.paths import SshFolder
from qup.runner.context import Context

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

TIMEOUT = 60.0
"""Seconds; in emulation, a guest that just booted is slow."""

_WRITE = f"""\
set -e
umask 022
file={PLACE}
mkdir -p "${{file%/*}}"
cat >"$file.part"
if [ ! -s "$file.part" ]; then rm -f "$file" "$file.part"; else mv -f "$file.part" "$file"; fi
"""


def share_environment(
    ctx: Context, config: MachineConfig, *, login: bool = True, fresh: bool = True
) -> None:
    """Tell a guest its variables, if it has to be told. What goes wrong is said and stops
    nothing.

    Args:
        ctx: the surroundings.
        config: the machine.
        login: whether qup can log in to it.
        fresh: nobody knows what the guest has: it was just started or restored.
    """
    keys = SshFolder(ctx.project.machine(config.name).ssh)
    text = render_environment(config.settings.env)
    known = _read_known(keys)
    if not login or (text == known and not (fresh and text)):
        return
    words = ssh.as_root(["sh", "-c", _WRITE])
    try:
        done = ssh.run_in_guest(keys, config.name, words, input=text, timeout=TIMEOUT)
        said = None if done.code == 0 else f"{done.outcome}: {done.stderr.strip()}"
    except HostError as exc:
        said = exc.message
    if said is not None:
        ctx.tell(
            config.name,
            f"could not tell the guest the variables of [machine.env]: {said}",
            level="warning",
            hint="'qup up' tries again",
        )
    elif text:
        write_atomic(keys.environment, text, durable=False)
    else:
        with contextlib.suppress(FileNotFoundError):
            keys.environment.unlink()


def _read_known(keys: SshFolder) -> str:
    """What the guest was told last."""
    try:
        return keys.environment.read_text()
    except (OSError, ValueError):
        return ""
