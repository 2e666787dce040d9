"""Roles and collections from ``requirements.yml``: installed once, in the project alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from qup.api import Guest, ProvisionError, describe_exit, follow, is_offline, run
from qup_ansible.program import CONFIG, GALAXY, require_program

FOLDER = Path(".qup", "ansible")
"""In the project: out of git, and nobody else's."""

PATHS = {
    "ANSIBLE_ROLES_PATH": ("roles", "DEFAULT_ROLES_PATH"),
    "ANSIBLE_COLLECTIONS_PATH": ("collections", "COLLECTIONS_PATHS"),
}
"""Ansible's variables: our folder in each, and what ``ansible-config`` calls its value."""


def install_requirements(
    file: Path, project: Path, guest: Guest, env: Mapping[str, str], report: Callable[[str], None]
) -> dict[str, str]:
    """Have roles and collections installed, unless just these are.

    Args:
        file: the requirements.
        project: the Qupfile's folder.
        guest: knows how long it may take.
        env: variables for Ansible.
        report: takes what Ansible says.

    Returns:
        The variables by which Ansible finds them, beside what it would find without.

    Raises:
        ProvisionError: they can't be had.
    """
    folder = project / FOLDER
    stamp = folder / "installed"
    wanted = hashlib.sha256(file.read_bytes()).hexdigest()
    paths = _find_paths(folder, project, env)
    if _read(stamp) == wanted:
        return paths
    if is_offline():
        raise ProvisionError(
            f"the roles and collections of {file.name} are not installed, and qup is offline",
            hint="once without --offline, and they stay",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = [str(require_program(GALAXY)), "install", "-r", str(file), "--force"]
    report(f"installing the roles and collections of {file.name}")
    done = follow(words, report, cwd=project, env={**env, **paths}, timeout=guest.time_left)
    if done.code != 0:
        raise ProvisionError(
            f"ansible-galaxy ended with {describe_exit(done.code)}",
            details=done.stdout[-2000:].strip() or None,
            hint="what is installed once needs no network; a requirement may also be a file, a"
            " folder or a git repository of your own",
        )
    stamp.write_text(wanted, encoding="utf-8")
    return paths


def _find_paths(folder: Path, project: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The project's own folders before those that Ansible would look into anyway."""
    words = [str(require_program(CONFIG)), "dump", "--format", "json"]
    said = run(words, cwd=project, env=env, check=False).stdout
    try:
        known = {item["name"]: item.get("value") for item in json.loads(said) if "name" in item}
    except ValueError:
        known = {}
    found = {}
    for variable, (own, name) in PATHS.items():
        others = known.get(name)
        others = others if isinstance(others, list) else []
        found[variable] = os.pathsep.join([str(folder / own), *map(str, others)])
    return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
