"""The options of ``ansible`` in ``[[machine.provision]]``."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qup.api import Settings

_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
MAX_VERBOSITY = 6


@cache
def ansible_options() -> type[Settings]:
    """Make the model where a Qupfile needs it: pydantic takes 50 ms to load."""
    from typing import Annotated

    from pydantic import AfterValidator, Field

    from qup.api import Settings

    def check_groups(groups: dict[str, list[str]]) -> dict[str, list[str]]:
        for name in groups:
            if not _GROUP.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a group's name (letters, digits and _, as in a variable)"
                )
        return groups

    class AnsibleOptions(Settings):
        """``ansible`` in ``[[machine.provision]]``"""

        shorthand = "playbook"

        playbook: str = Field(min_length=1, description="The playbook's path, from the Qupfile.")
        groups: Annotated[dict[str, list[str]], AfterValidator(check_groups)] = Field(
            default={}, description="Groups of the inventory: the machines in each."
        )
        host_vars: dict[str, dict[str, Any]] = Field(
            default={}, description="Variables of single machines, by machine."
        )
        extra_vars: dict[str, Any] = Field(
            default={}, description="Variables that go over all others."
        )
        limit: str | None = Field(
            default=None,
            min_length=1,
            description='The hosts to run on, as Ansible\'s --limit; "all" are the machines that'
            " are up. Default: the machine itself.",
        )
        tags: tuple[str, ...] = Field(default=(), description="Run only what has these tags.")
        skip_tags: tuple[str, ...] = Field(default=(), description="Leave out what has these tags.")
        become: bool = Field(default=False, description="Run all tasks as root.")
        become_user: str | None = Field(
            default=None, min_length=1, description="With become: the user instead of root."
        )
        vault_password_file: str | None = Field(
            default=None,
            min_length=1,
            description="The file with the vault's password, or a program that prints it.",
        )
        requirements: str | None = Field(
            default=None,
            min_length=1,
            description="Roles and collections for ansible-galaxy to install, in this project"
            " alone.",
        )
        config: str | None = Field(
            default=None,
            min_length=1,
            description="An ansible.cfg. Default: the one beside the Qupfile or the playbook.",
        )
        files: tuple[str, ...] = Field(
            default=(),
            description="More files and folders that the playbook depends on: the step runs again"
            " when one of them changes.",
        )
        verbosity: int = Field(
            default=0, ge=0, le=MAX_VERBOSITY, description="How much Ansible says: 4 for -vvvv."
        )
        args: tuple[str, ...] = Field(
            default=(), description="More words for ansible-playbook, such as --diff."
        )

    return AnsibleOptions
