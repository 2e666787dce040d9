"""Where Ansible is: beside the Python that runs qup, or on the path."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from qup.api import HostError, run

PLAYBOOK, GALAXY, CONFIG = "ansible-playbook", "ansible-galaxy", "ansible-config"

HINT = (
    "install it beside qup: pip install 'qup-ansible[ansible]', or pipx inject qup ansible-core;"
    " or by itself: apt install ansible-core"
)
MISSING = ("Ansible was not found", HINT)
"""What is said of a computer without it, and the hint."""


def find_program(name: str) -> Path | None:
    """A program of Ansible's; the one that was installed together with qup comes first."""
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which(name)
    return Path(found) if found else None


def require_program(name: str) -> Path:
    """As :func:`find_program`.

    Raises:
        HostError: it isn't here.
    """
    found = find_program(name)
    if found is None:
        message, hint = MISSING
        raise HostError(f"{message}: there is no {name}", hint=hint)
    return found


def read_version(program: Path) -> str:
    """What a program says of its version, in a few words: ``ansible-playbook [core 2.19.0]``."""
    said = run([program, "--version"], check=False).stdout
    return said.splitlines()[0] if said else program.name
