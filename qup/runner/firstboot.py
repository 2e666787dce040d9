"""Waiting for cloud-init where something depends on what it does."""

from __future__ import annotations

import time

from qup.errors import GuestError
from qup.guest.firstboot import await_first_boot, has_cloud_init
from qup.model.plan import Plan
from qup.paths import MachineFolder, SshFolder
from qup.process import TooLong
from qup.runner.context import Context


def finish_first_boot(ctx: Context, folder: MachineFolder, plan: Plan) -> None:
    """Let cloud-init finish, if it has user data to act on or provisioning comes next.

    sshd answers before cloud-init's last stages, which run the user's scripts and install
    packages: what comes too early finds half of it, and apt locked.

    Raises:
        GuestError: it failed, or is not done in time. The machine runs on.
    """
    keys, name = SshFolder(folder.ssh), folder.name
    if not (plan.seed.user_data or plan.provision) or not has_cloud_init(keys, name):
        return
    look = f"look at it: qup ssh {name} -- cloud-init status --long"
    with ctx.phase(name, "first-boot", "waiting for cloud-init") as phase:
        began = time.monotonic()
        try:
            found = await_first_boot(keys, name, timeout=plan.boot_timeout)
        except TooLong as exc:
            raise GuestError(
                f"machine {name}: cloud-init is not done after"
                f" {time.monotonic() - began:.0f} s; it goes on, and the machine runs",
                hint=f"{look}; more time: 'boot-timeout'; 'qup up' goes on without waiting",
                machine=name,
            ) from exc
        if found.errors:
            raise GuestError(
                f"machine {name}: cloud-init failed: {'; '.join(found.errors)}",
                details="\n".join(found.output) or None,
                hint=f"{look}; the machine runs; with the user data mended,"
                f" 'qup destroy {name}' and 'qup up' for another first boot",
                machine=name,
            )
        phase.result = "done"
