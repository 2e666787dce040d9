"""A guest that is stopped and goes on later, as the machine it is: it has to learn what time it
is, and must not go on with the randomness that another run of the same moment has had.

It is told by its second serial port, before any network, if a process was left waiting there
before it was stopped (as in a template); or else over ssh, as soon as that answers.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time

from qup.errors import HostError
from qup.files import write_atomic
from qup.guest import identity, ssh
from qup.guest.identity import IdentityFailure, IdentityPort, make_waiting_script
from qup.model.text import clean_line
from qup.paths import MachineFolder, RuntimeFolder, SshFolder
from qup.runner.context import Context

WAIT_TIMEOUT = 60.0
REFRESH_TIMEOUT = 10.0
END_TIMEOUT = 30.0
WAITING, PLAIN = "waiting", "plain"
"""What a mark says of a guest: whether it waits for the time."""
SHORT_TIMEOUT = 3.0
"""Seconds for a guest that may not wait any more."""

_END_OTHERS = """
for folder in /dev/shm /run /tmp /var/tmp /root; do
    place=$folder/.qup-template
    [ -d "$place" ] || continue
    for process in /proc/[0-9]*; do
        [ ! "$process/cwd" -ef "$place" ] || kill -9 "${process#/proc/}" 2>/dev/null
    done
    rm -rf "$place"
done
"""
"""Ends a process that was left waiting by somebody who was killed."""

_GO_ON = f"""
place=$PWD
cd /
rm -rf "$place"
echo '{identity.DONE}'
exit 0
"""


def make_wait(keys: SshFolder, machine: str) -> str | None:
    """Leave a process waiting at the guest's second serial port.

    Returns:
        Why that can't be, or None if it waits.
    """
    script = _END_OTHERS + make_waiting_script()
    try:
        done = ssh.run_in_guest(keys, machine, ssh.AS_ROOT, input=script, timeout=WAIT_TIMEOUT)
    except HostError as exc:
        return exc.message
    if identity.WAITING in done.stdout:
        return None
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return clean_line(said[-1]) if said else done.outcome


def refresh_waiting(
    runtime: RuntimeFolder, machine: str, *, timeout: float = REFRESH_TIMEOUT
) -> float:
    """Tell a guest that waits the time and fresh randomness, and let the process end.

    Args:
        runtime: the machine's sockets.
        machine: its name.
        timeout: seconds for its first answer.

    Returns:
        The most by which its clock can differ from the host's, in seconds.

    Raises:
        IdentityFailure: it does not answer.
    """
    with IdentityPort(runtime.identity, machine) as port:
        error = port.refresh(timeout)
        port.run(_GO_ON, END_TIMEOUT)
    return error


def refresh_by_ssh(keys: SshFolder, machine: str) -> str | None:
    """Tell a guest both over ssh.

    Returns:
        Why that can't be, or None.
    """
    pool = base64.b64encode(os.urandom(48)).decode()
    script = f"echo {pool} | base64 -d >/dev/urandom\ndate -u -s @{round(time.time())} >/dev/null\n"
    try:
        done = ssh.run_in_guest(keys, machine, ssh.AS_ROOT, input=script, timeout=WAIT_TIMEOUT)
    except HostError as exc:
        return exc.message
    return None if done.code == 0 else clean_line(done.stderr.strip()[-200:]) or done.outcome


def refresh(
    keys: SshFolder, runtime: RuntimeFolder, machine: str, *, waiting: bool, login: bool
) -> str | None:
    """Tell a guest that goes on again by whichever way there is.

    Returns:
        Why its clock may be wrong, or None.
    """
    if waiting:
        try:
            refresh_waiting(runtime, machine)
        except IdentityFailure as exc:
            return exc.message
        return None
    return refresh_by_ssh(keys, machine) if login else "there is no way into the guest"


# --- one that may not have been told yet -----------------------------------------------------


def note_late(folder: MachineFolder, *, waiting: bool) -> None:
    """Write down that a guest stands still and has to be told the time when it goes on.

    Raises:
        HostError: it can't be written.
    """
    write_atomic(folder.late, (WAITING if waiting else PLAIN) + "\n")


def is_late(folder: MachineFolder, *, waiting: bool = False) -> bool:
    """Whether a guest has to be told the time; ``waiting``: whether it waits for that."""
    try:
        said = folder.late.read_text().strip()
    except (OSError, ValueError):
        return False
    return said == WAITING or not waiting


def catch_up_waiting(ctx: Context, folder: MachineFolder, runtime: RuntimeFolder) -> None:
    """Tell a guest that waits for it the time and fresh randomness, before it is on a network.

    One that doesn't answer stays late.
    """
    if not is_late(folder, waiting=True):
        return
    with (
        contextlib.suppress(IdentityFailure),
        ctx.phase(folder.name, "identity", "telling it the time") as phase,
    ):
        error = refresh_waiting(runtime, folder.name)
        folder.late.unlink(missing_ok=True)
        phase.result = f"clock right within {error * 1000:.0f} ms"


def catch_up(ctx: Context, folder: MachineFolder, *, login: bool) -> None:
    """Tell a guest both over ssh that has not been told; if that can't be, tell the user."""
    if not is_late(folder):
        return
    reason = "there is no way into the guest"
    if login:
        reason = refresh_by_ssh(SshFolder(folder.ssh), folder.name) or ""
    if reason:
        text = f"its clock is behind by as long as it stood still: {reason}"
        ctx.tell(folder.name, text, level="warning")
    folder.late.unlink(missing_ok=True)
