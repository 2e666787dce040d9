"""Network cards of a QEMU that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qup.model.network import NOWHERE
from qup.qemu.argv import netdev_name

if TYPE_CHECKING:
    from qup.model.plan import Plan
    from qup.qemu.migration import Monitor


def unplug_networks(monitor: Monitor, plan: Plan) -> None:
    """Take away what the cards of a guest are connected to, whose cards are behind hubs.

    QEMU's user network keeps leases and connections of its own and saves them with the guest;
    those would be another machine's.

    Raises:
        CommandFailed: QEMU refuses.
    """
    for index, nic in enumerate(plan.nics):
        if nic.plan.netdev["type"] != NOWHERE:
            monitor.execute("netdev_del", {"id": netdev_name(index)})
