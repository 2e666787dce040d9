"""Replacing a well-known key, by the very scripts that a guest runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from qup.builtin.seeder_vagrant import Vagrant
from qup.errors import GuestError
from qup.guest import ssh, takeover
from qup.guest.keys import public_half
from qup.paths import SshFolder
from qup.process import Result

OWN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMHPTBK0J4K1aIBXYTJHKxnOyDWx9qhL0J1Vw0jZyC1v qup:web"
OTHER = "ssh-ed25519 AAAAsomebody somebody@else"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest's home: what would go there by ssh is run here."""

    def run(folder: SshFolder, machine: str, words: Any, *, input: str, timeout: float) -> Result:
        done = subprocess.run(
            words, input=input, capture_output=True, text=True, check=False, timeout=timeout,
            env={"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        return Result((), done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(ssh, "run_in_guest", run)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_own_key_takes_the_place_of_the_known_ones(home: Path, tmp_path: Path) -> None:
    """Keys of others stay, and doing it again changes nothing."""
    folder = SshFolder(tmp_path / "ssh")
    takeover.write_known_keys(folder, Vagrant().known_keys())
    known = [public_half(key) for key in Vagrant().known_keys()]
    keys = home / ".ssh" / "authorized_keys"
    keys.parent.mkdir(mode=0o700)
    keys.write_text("".join(f"{key} vagrant insecure public key\n" for key in known) + f"{OTHER}\n")
    for _ in range(2):
        takeover.add_own_key(folder, "web", OWN)
    assert keys.read_text().splitlines()[2:] == [OTHER, OWN]
    takeover.remove_known_keys(folder, "web")
    assert keys.read_text().splitlines() == [OTHER, OWN]
    assert [path.name for path in keys.parent.iterdir()] == ["authorized_keys"]
    assert not takeover.find_known_keys(folder)


def test_a_home_that_can_not_be_written_to(home: Path, tmp_path: Path) -> None:
    folder = SshFolder(tmp_path / "ssh")
    takeover.write_known_keys(folder, Vagrant().known_keys())
    (home / ".ssh").write_text("no folder")
    with pytest.raises(GuestError, match="can't be replaced"):
        takeover.add_own_key(folder, "web", OWN)
    assert len(takeover.find_known_keys(folder)) == 2
