"""How cloud-init fared: waited for, and reported in its own words.

``/run/cloud-init/result.json`` has what failed ("Status" and "Failure states" in cloud-init's
documentation); what its scripts printed is in ``/var/log/cloud-init-output.log``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from qup.guest.ssh import run_in_guest
from qup.model.text import clean_line
from qup.paths import SshFolder

PRESENT = "command -v cloud-init"
BORDER = "----- what it printed -----"
SCRIPT = f"""\
[ -e /run/cloud-init/result.json ] || cloud-init status --wait >/dev/null 2>&1
cat /run/cloud-init/result.json 2>/dev/null
echo
echo '{BORDER}'
sudo -n tail -n 40 /var/log/cloud-init-output.log 2>/dev/null
exit 0
"""
MARK = re.compile(r"^(ci-info: |Cloud-init v\. )")
"""Lines of cloud-init's output that say nothing about a failure."""
ASK_TIMEOUT = 60.0
SHOWN = 12
"""Lines of its output that are shown."""


@dataclass(frozen=True)
class FirstBoot:
    """What cloud-init has left behind.

    Attributes:
        errors: what failed, in its words; empty if all went well.
        output: the last lines of what it and its scripts printed.
    """

    errors: tuple[str, ...] = ()
    output: tuple[str, ...] = ()


def has_cloud_init(folder: SshFolder, machine: str) -> bool:
    """Whether a guest has cloud-init."""
    asked = run_in_guest(folder, machine, ["sh", "-c", PRESENT], timeout=ASK_TIMEOUT)
    return asked.code == 0


def await_first_boot(folder: SshFolder, machine: str, *, timeout: float) -> FirstBoot:
    """Wait until cloud-init is done.

    Args:
        folder: the machine's keys.
        machine: its name.
        timeout: seconds.

    Raises:
        HostError: it isn't done in time.
    """
    result = run_in_guest(folder, machine, ["sh", "-c", SCRIPT], timeout=timeout)
    return parse_first_boot(result.stdout)


def parse_first_boot(text: str) -> FirstBoot:
    """Read what the script printed."""
    head, _, output = text.partition(BORDER)
    try:
        found = json.loads(head)["v1"]["errors"]
    except (ValueError, KeyError, TypeError):
        # Without a result there is nothing to complain about: it may have been switched off.
        return FirstBoot()
    errors = tuple(clean_line(str(error))[:400] for error in found) if found else ()
    lines = [clean_line(line)[:240] for line in output.splitlines() if not MARK.match(line)]
    return FirstBoot(errors, tuple([line for line in lines if line.strip()][-SHOWN:]))
