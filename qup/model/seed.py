"""What a guest is told at its first boot, and the ways to tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qup.model.plan import SeedPlan

NOCLOUD, NOBODY = "nocloud", "none"


@dataclass(frozen=True)
class SeedForm:
    """How a seeder's words reach the guest.

    Attributes:
        label: the volume label of a CD with the seeder's files; None for no CD.
        share: the mount tag of a 9p share with the seeder's files; None for no share.
        payload: whether the machine's new disk begins with bytes of the seeder's.
        host_key: the guest takes on the ssh host key that qup made. If it doesn't, the key that
            it shows at its first boot is kept and compared from then on.
        login: the guest takes qup's key, so that ssh is waited for.
    """

    label: str | None = None
    share: str | None = None
    payload: bool = False
    host_key: bool = True
    login: bool = True


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key in OpenSSH's formats (PROTOCOL.key; RFC 8709)."""

    private: str
    public: str


@dataclass(frozen=True)
class Seed:
    """All that a seeder may tell a guest. It holds the private host key.

    Attributes:
        plan: what can be known without secrets.
        user_key: the public key that gets in, in OpenSSH's form.
        host_key: the guest's own key.
    """

    plan: SeedPlan
    user_key: str
    host_key: KeyPair
