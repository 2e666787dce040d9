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
        fw_cfg: which of the seeder's files the guest finds as items of QEMU's firmware
            configuration, by the same names.
        oem_strings: which of them are strings of SMBIOS (type 11), in this order.
        known_key: the guest's first login is by a key that everybody knows
            (:meth:`~qup.api.KnowingSeeder.known_keys`); the machine's own takes its place.
    """

    label: str | None = None
    share: str | None = None
    payload: bool = False
    host_key: bool = True
    login: bool = True
    fw_cfg: tuple[str, ...] = ()
    oem_strings: tuple[str, ...] = ()
    known_key: bool = False


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
