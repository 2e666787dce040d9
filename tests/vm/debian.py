"""What tests of box debian ask of their guests."""

from __future__ import annotations

from tests.vm.lab import Lab, wait_until

WHO = """
hostname
cat /etc/machine-id
cat /sys/class/net/eth0/address
cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub
cut -d ' ' -f 2 .ssh/authorized_keys
cat /var/lib/cloud/data/instance-id
ls /var/lib/cloud/instances
cat /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
ls /etc/ssh/ssh_host_*_key | wc -l
"""
FIELDS = ("hostname", "machine-id", "mac", "host-key", "user-key", "instance", "instances",
          "uuid", "random", "host-keys")  # fmt: skip
PASSING = ("uuid", "random")
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def who(lab: Lab, name: str) -> dict[str, str]:
    """What a guest is known by."""
    return dict(zip(FIELDS, lab.sh(WHO, name).split(), strict=True))


def is_the_same(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two answers of :func:`who` are one guest's: what is random differs all the same."""
    return all((one[field] == other[field]) == (field not in PASSING) for field in FIELDS)


def reboot(lab: Lab, name: str) -> None:
    """Have a guest restart itself, and wait until it lets us in again."""
    boot = lab.sh(BOOT_ID, name)
    lab("ssh", name, "--", "sudo reboot")

    def is_back() -> bool:
        done = lab("ssh", name, "--", BOOT_ID, timeout=60)
        return done.code == 0 and done.stdout not in ("", boot)

    assert wait_until(is_back, 400)
