"""Running a playbook, and saying on which hosts it failed."""

from __future__ import annotations

import json
import locale
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qup.api import Guest, ProvisionError, describe_exit, follow
from qup_ansible.content import require
from qup_ansible.galaxy import install_requirements
from qup_ansible.inventory import make_inventory
from qup_ansible.program import PLAYBOOK, require_program

_RECAP = re.compile(r"^(\S+)\s+: ok=\d+ .*?unreachable=(\d+)\s+failed=(\d+)")
"""A line of the "PLAY RECAP" of Ansible's default output."""
_HAS_PYTHON = "command -v python3 || command -v python"


@dataclass
class Outcome:
    """What the recap at the end says.

    Attributes:
        well: hosts on which all went well.
        bad: the others, with what was wrong.
    """

    well: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Take a line of Ansible's output."""
        if found := _RECAP.match(line):
            host, unreachable, failed = found[1], int(found[2]), int(found[3])
            if unreachable:
                self.bad[host] = "not reachable"
            elif failed:
                self.bad[host] = f"{failed} failed"
            else:
                self.well.append(host)

    def __str__(self) -> str:
        text = ", ".join(f"{host} ({why})" for host, why in self.bad.items())
        return f"{text}; well on: {', '.join(self.well)}" if self.well else text


def run_playbook(options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
    """Run a step's playbook.

    Raises:
        ProvisionError: it failed.
        HostError: Ansible isn't here.
    """
    program = require_program(PLAYBOOK)
    env = make_environment(options, project)
    if options.requirements is not None:
        file = require(project, options.requirements, "'requirements' of the step")
        env |= install_requirements(file, project, guest, env, report)
    inventory, absent = make_inventory(guest.peers, options.groups, options.host_vars)
    if absent:
        report(f"not up, and so not in the inventory: {', '.join(absent)}")
    outcome = Outcome()

    def take(line: str) -> None:
        outcome.read(line)
        report(line)

    with tempfile.TemporaryDirectory(prefix="qup-ansible-") as name:
        folder = Path(name)
        write_json(folder / "inventory.json", inventory)
        if options.extra_vars:
            write_json(folder / "extra-vars.json", options.model_dump(mode="json")["extra_vars"])
        words = make_words(options, guest, project, folder)
        done = follow([program, *words], take, cwd=project, env=env, timeout=guest.time_left)
    if done.code != 0:
        raise _explain(options, guest, outcome, done.code)


def make_words(options: Any, guest: Guest, project: Path, folder: Path) -> list[str]:
    """The words for ansible-playbook. What is secret is in files that nobody else can read."""
    words = ["--inventory", str(folder / "inventory.json"), "--limit", options.limit or guest.name]
    if options.extra_vars:
        words += ["--extra-vars", f"@{folder / 'extra-vars.json'}"]
    for option, value in (("--tags", options.tags), ("--skip-tags", options.skip_tags)):
        words += [option, ",".join(value)] if value else []
    words += ["--become"] if options.become or options.become_user else []
    words += ["--become-user", options.become_user] if options.become_user else []
    if options.vault_password_file:
        words += ["--vault-password-file", str(project / options.vault_password_file)]
    words += ["-" + "v" * options.verbosity] if options.verbosity else []
    return [*words, *options.args, "--", str(project / options.playbook)]


def make_environment(options: Any, project: Path) -> dict[str, str]:
    """Variables for Ansible: output for a log, no files left behind, and its configuration."""
    env = {
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_NOCOWS": "1",
        "ANSIBLE_HOST_KEY_CHECKING": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if "utf" not in locale.getpreferredencoding(False).lower():
        env["LC_ALL"] = "C.UTF-8"  # Ansible refuses to start without
    if options.config is not None:
        env["ANSIBLE_CONFIG"] = str(require(project, options.config, "'config' of the step"))
    elif "ANSIBLE_CONFIG" not in os.environ:
        for folder in ((project / options.playbook).parent, project):
            if (folder / "ansible.cfg").is_file():
                env["ANSIBLE_CONFIG"] = str(folder / "ansible.cfg")
    return env


def write_json(path: Path, data: Any) -> None:
    """Write a file that only this user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(data, file, default=str)


def _explain(options: Any, guest: Guest, outcome: Outcome, code: int) -> ProvisionError:
    """The error for a playbook that failed."""
    if outcome.bad:
        message = f"the playbook {options.playbook} failed on {outcome}"
    else:
        message = f"ansible-playbook {options.playbook} ended with {describe_exit(code)}"
    if guest.name in outcome.bad and not _has_python(guest):
        return ProvisionError(
            f"{message}: the guest has no Python, which Ansible's modules need",
            hint="take a box that has it, such as debian/12, or install it by a step before this"
            " one; box tiny can't have it",
        )
    return ProvisionError(message)


def _has_python(guest: Guest) -> bool:
    try:
        return guest.run(["sh", "-c", _HAS_PYTHON], check=False).code == 0
    except ProvisionError:
        return True  # nobody knows: the connection is what is wrong
