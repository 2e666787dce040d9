"""A guest that lets everybody in by a well-known key is made to let in its owner alone.

The well-known private keys lie in the machine's folder until the machine's own key has been
proved to get in: whatever cuts the exchange short, the next login goes on with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from qup.errors import GuestError
from qup.files import write_atomic
from qup.guest import ssh
from qup.guest.keys import public_half
from qup.ownership import make_private
from qup.paths import SshFolder

TIMEOUT = 60.0
"""Seconds for one change of the guest's list of keys."""

_ADD = """\
umask 077
mkdir -p ~/.ssh && cd ~/.ssh && touch authorized_keys || exit
grep -qF {blob} authorized_keys || echo {line} >>authorized_keys
"""
_REMOVE = """\
umask 077
cd ~/.ssh || exit
for file in authorized_keys authorized_keys2; do
    [ ! -f $file ] || grep -v{patterns} $file >.qup-part
    [ ! -f $file ] || [ $? -gt 1 ] || mv .qup-part $file
done
rm -f .qup-part
! grep -qs{patterns} authorized_keys authorized_keys2
"""


def write_known_keys(folder: SshFolder, keys: Sequence[str]) -> None:
    """Keep the keys that get into a new machine."""
    make_private(folder.known_keys)
    for number, key in enumerate(keys):
        path = folder.known_keys / str(number)
        write_atomic(path, key)
        os.chmod(path, 0o600)


def find_known_keys(folder: SshFolder) -> list[Path]:
    """The well-known keys that the guest may still take; none when it doesn't."""
    return sorted(folder.known_keys.glob("*"))


def add_own_key(folder: SshFolder, machine: str, public: str) -> None:
    """Let the machine's own key in, too.

    Raises:
        GuestError: the guest's list of keys can't be written.
    """
    script = _ADD.format(blob=shlex.quote(_blob(public)), line=shlex.quote(public.strip()))
    _run(folder, machine, script)


def remove_known_keys(folder: SshFolder, machine: str) -> None:
    """Let the well-known keys in no more, and forget them.

    Raises:
        GuestError: the guest's list of keys can't be written.
    """
    publics = [public_half(path.read_text()) for path in find_known_keys(folder)]
    patterns = "F" + "".join(f" -e {shlex.quote(_blob(public))}" for public in publics)
    _run(folder, machine, _REMOVE.format(patterns=patterns))
    shutil.rmtree(folder.known_keys)


def _run(folder: SshFolder, machine: str, script: str) -> None:
    result = ssh.run_in_guest(folder, machine, ["sh"], input=script, timeout=TIMEOUT)
    if result.code != 0:
        raise GuestError(
            f"machine {machine}: the key that everybody knows can't be replaced by its own",
            details=(result.stdout + result.stderr).strip() or result.outcome,
            hint="everybody who reaches the guest's sshd gets in: 'qup console' may help",
            machine=machine,
        )


def _blob(public: str) -> str:
    """What identifies a key in a list of keys."""
    return public.split()[1]
