"""The guest seeder ``systemd-credentials``: for images that have systemd and no cloud-init.

systemd takes credentials from strings of SMBIOS type 11 (systemd.system-credentials(7), since
version 252): a user by ``sysusers.extra``, files by ``tmpfiles.extra``, both before sshd starts.
The host name is set three times over, as ``system.hostname`` is newer than 252.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from qup.api import GuestSeeder, Problem, Seed, SeedForm, SeedPlan, hookimpl

PREFIX = "io.systemd.credential:"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
SUDOERS = "/etc/sudoers.d/90-qup"
ROOT = "root"
NAMES = ("sysctl.extra", "system.hostname", "tmpfiles.extra")
OF_ROOT, OF_OTHERS = "ssh.authorized_keys.root", "sysusers.extra"


class Credentials:
    """systemd's credentials as SMBIOS strings."""

    name = "systemd-credentials"
    summary = "systemd's credentials by SMBIOS, for images without cloud-init (systemd 252)"

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:
        found = []
        if seed.user_data is not None:
            found.append(
                Problem(
                    "user data is given, but systemd's credentials have no place for it",
                    "set the guest up by provisioning steps",
                )
            )
        if any(not nic.address.dhcp for nic in seed.nics):
            # A file would come too late: networkd may have started by then.
            found.append(
                Problem(
                    "a network card has a fixed address, and systemd's credentials can't tell"
                    " the guest",
                    "use a network mode with DHCP, or configure the card by a provisioning step",
                )
            )
        return found

    def form(self, seed: SeedPlan) -> SeedForm:
        return SeedForm(oem_strings=(*NAMES, OF_ROOT if seed.user == ROOT else OF_OTHERS))

    def files(self, seed: Seed) -> Mapping[str, str]:
        """The strings by their credentials' names. One holds the private host key."""
        found = build_credentials(seed)
        return {name: f"{PREFIX}{name}={text}" for name, text in found.items()}

    def payload(self, seed: Seed) -> bytes:  # noqa: ARG002  there is none
        return b""


def build_credentials(seed: Seed) -> dict[str, str]:
    """The credentials by name."""
    plan, user = seed.plan, seed.plan.user
    lines = [
        _file("f+", "/etc/hostname", "0644", ROOT, f"{plan.hostname}\n"),
        _file("f+", HOST_KEY, "0600", ROOT, seed.host_key.private),
        _file("f+", f"{HOST_KEY}.pub", "0644", ROOT, f"{seed.host_key.public.strip()}\n"),
    ]
    found = {
        "sysctl.extra": f"kernel.hostname = {plan.hostname}",
        "system.hostname": plan.hostname,
    }
    key = f"{seed.user_key.strip()}\n"
    if user == ROOT:
        found[OF_ROOT] = key
    else:
        home = f"/home/{user}"
        found[OF_OTHERS] = f'u {user} - "{user}" {home} /bin/sh'
        lines += [
            f"d {home} 0755 {user} {user}",
            f"d {home}/.ssh 0700 {user} {user}",
            _file("f", f"{home}/.ssh/authorized_keys", "0600", user, key),
            "d /etc/sudoers.d 0750 root root",
            _file("f", SUDOERS, "0440", ROOT, f"{user} ALL=(ALL) NOPASSWD:ALL\n"),
        ]
    found["tmpfiles.extra"] = "\n".join(lines) + "\n"
    return found


def _file(kind: str, path: str, mode: str, owner: str, text: str) -> str:
    """A line of tmpfiles.d(5); with ``~`` the content is base64, which needs no quoting."""
    packed = base64.b64encode(text.encode()).decode()
    return f"{kind}~ {path} {mode} {owner} {owner} - {packed}"


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [Credentials()]
