"""Removing from a guest what makes it one machine and not another (``clean.sh``)."""

from __future__ import annotations

import importlib.resources
import shlex
from collections.abc import Sequence

from qup.errors import GuestError
from qup.guest import ssh
from qup.model.text import clean_line
from qup.paths import SshFolder

DONE, READ_ONLY = "qup: cleaned", "qup: cleaned, read-only"
"""How the script ends: with the guest's disk as it was last written, or closed for good."""
FAILED = "qup: failed: "


def make_cleaning_script(key: str, known: Sequence[str], block: tuple[str, str]) -> str:
    """The script.

    Args:
        key: the public key that lets qup in.
        known: public keys that everybody knows, which let in from now on.
        block: the lines around the names of neighbours in ``/etc/hosts``.
    """
    values = {
        "key": key.split()[1],
        "known": "".join(f"{line}\n" for line in known),
        "begin": block[0],
        "end": block[1],
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    body = (importlib.resources.files("qup.guest") / "clean.sh").read_text(encoding="utf-8")
    return head + body


def clean_guest(folder: SshFolder, machine: str, script: str, *, timeout: float) -> bool:
    """Run it.

    Args:
        folder: the machine's keys.
        machine: its name.
        script: see :func:`make_cleaning_script`.
        timeout: seconds.

    Returns:
        Whether nobody writes to the guest's disk any more: it may be switched off at once.

    Raises:
        GuestError: something could not be removed.
        HostError: it took too long.
    """
    result = ssh.run_in_guest(folder, machine, ssh.AS_ROOT, input=script, timeout=timeout)
    lines = result.stdout.splitlines()
    said = next((line for line in lines if line.startswith(FAILED)), "")
    if said or (DONE not in lines and READ_ONLY not in lines):
        reason = clean_line(said.removeprefix(FAILED)) or result.outcome
        raise GuestError(
            f"machine {machine}: its copy can't be cleaned: {reason}",
            details=result.stderr.strip()[-2000:] or None,
            hint=("" if said else "qup has to become root in the guest by sudo or doas; ")
            + "the machine is as it was; --as-is exports its disk with all that is on it",
            machine=machine,
        )
    return READ_ONLY in lines
