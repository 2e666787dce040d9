"""Ansible playbooks as provisioning steps: ``ansible = "site.yml"`` in ``[[machine.provision]]``.

Ansible runs on this computer, as the user, and reaches the guests by ssh. qup makes the inventory
and the ssh configuration, with the pinned host keys, so that nothing has to be turned off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup.api import Check, Finding, Guest, Host, Problem, Provisioner, hookimpl
from qup_ansible.content import digest_content
from qup_ansible.program import MISSING, PLAYBOOK, find_program, read_version

if TYPE_CHECKING:
    from qup.api import Settings


class Ansible:
    """Runs a playbook on one machine, or on several that are up."""

    name = "ansible"
    summary = "an Ansible playbook, run on this computer; needs 'qup trust'"
    on_host = True
    needs_guest = True
    default_run = "changed"

    @property
    def options(self) -> type[Settings]:
        """The model of the step's options."""
        from qup_ansible.options import ansible_options

        return ansible_options()

    def digest(self, options: Any, project: Path) -> str:
        """A digest of the playbook and of all that counts as its content."""
        return digest_content(options, project)

    def risk(self, options: Any, project: Path) -> str | None:  # noqa: ARG002  it always is one
        """A playbook can run anything here: local actions, lookups, plugins, a vault's script."""
        return f"runs on this computer: ansible-playbook {options.playbook}"

    def problems(self, options: Any, project: Path, host: Host) -> Sequence[Problem]:  # noqa: ARG002
        """Ansible has to be here."""
        return [] if find_program(PLAYBOOK) else [Problem(*MISSING)]

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        """Run the playbook.

        Raises:
            ProvisionError: it failed; the message names the hosts that it failed on.
        """
        from qup_ansible.playbook import run_playbook

        run_playbook(options, guest, project, report)


@hookimpl
def qup_provisioners() -> Sequence[Provisioner]:
    return [Ansible()]


def check_ansible(host: Host) -> Sequence[Finding]:  # noqa: ARG001  it may be beside qup's Python
    """Look whether Ansible is here, and say which it is."""
    program = find_program(PLAYBOOK)
    if program is None:
        message, hint = MISSING
        return [Finding("warning", message, hint)]
    return [Finding("ok", f"{read_version(program)} ({program})")]


@hookimpl
def qup_checks() -> Sequence[Check]:
    return [Check("ansible", "Ansible, for provisioning steps", check_ansible)]
