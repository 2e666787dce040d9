"""Which files make a playbook what it is: when one of them changes, the step runs again.

These are the playbook; what is beside it and has the name of a playbook or a configuration
(``*.yml``, ``*.yaml``, ``ansible.cfg``); the folders where Ansible looks for roles, variables,
files and plugins, beside the playbook and beside the Qupfile; and what the option ``files`` names.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qup.api import ConfigError

FOLDERS = (
    *("action_plugins", "callback_plugins", "collections", "connection_plugins", "files"),
    *("filter_plugins", "group_vars", "handlers", "host_vars", "inventory_plugins", "library"),
    *("lookup_plugins", "module_utils", "playbooks", "plugins", "roles", "strategy_plugins"),
    *("tasks", "templates", "test_plugins", "vars", "vars_plugins"),
)
"""Where Ansible looks by itself."""

BESIDE = (".yml", ".yaml", "ansible.cfg")
"""Ends of the names of files beside a playbook that count."""

LEFT_OUT = frozenset({".git", ".hg", ".qup", ".svn", ".venv", "__pycache__", "node_modules"})
LEFT_OUT_ENDS = (".pyc", ".retry", "~", ".swp")


def digest_content(options: Any, project: Path) -> str:
    """A digest of all that counts.

    Raises:
        ConfigError: a file that was named isn't there or can't be read.
    """
    digest = hashlib.sha256()
    for path in sorted(set(find_content(options, project))):
        name = os.fsencode(os.path.relpath(path, project))
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & stat.S_IXUSR
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError as exc:
            raise _explain(path, exc) from exc
        digest.update(b"%s\0%o\0" % (name, mode) + content)
    return digest.hexdigest()


def find_content(options: Any, project: Path) -> Iterator[Path]:
    """The files that count.

    Raises:
        ConfigError: one that was named isn't there.
    """
    playbook = require(project, options.playbook, "the playbook")
    named = [("requirements", options.requirements), ("config", options.config)]
    yield playbook
    for option, value in named:
        if value is not None:
            yield require(project, value, f"'{option}' of the step")
    for value in options.files:
        yield from _walk(_exists(project, value, "'files' of the step"), set())
    for path in _list(playbook.parent):
        if path.name.endswith(BESIDE) and path.is_file():
            yield path
    for base in {playbook.parent, project}:
        for folder in FOLDERS:
            if (base / folder).is_dir():
                yield from _walk(base / folder, set())


def require(project: Path, name: str, what: str) -> Path:
    """A file of the project.

    Raises:
        ConfigError: it isn't there, or is none.
    """
    path = _exists(project, name, what)
    if not path.is_file():
        raise ConfigError(f"{what}, {path}, is not a file")
    return path


def _exists(project: Path, name: str, what: str) -> Path:
    path = project / name
    try:
        path.stat()
    except OSError as exc:
        raise ConfigError(
            f"{what}, {path}, can't be read: {exc.strerror}",
            hint="its path is relative to the Qupfile",
        ) from exc
    return path


def _walk(path: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """The files in a folder, or a file itself. Links are followed, as Ansible does, but in no
    circle.
    """
    try:
        info = path.stat()
    except OSError:
        return  # a link that leads nowhere
    if stat.S_ISREG(info.st_mode):
        yield path
    here = (info.st_dev, info.st_ino)
    if stat.S_ISDIR(info.st_mode) and here not in above:
        for child in _list(path):
            if child.name not in LEFT_OUT and not child.name.endswith(LEFT_OUT_ENDS):
                yield from _walk(child, above | {here})


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        raise _explain(folder, exc) from exc


def _explain(path: Path, exc: OSError) -> ConfigError:
    return ConfigError(
        f"{path} can't be read: {exc.strerror}",
        hint="the playbook may need it; see which files count in the documentation of qup-ansible",
    )
