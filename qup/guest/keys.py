"""ssh keys: one pair for the user and one for the host, both the machine's own."""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path

from qup.files import write_atomic
from qup.model.seed import KeyPair
from qup.paths import SshFolder

KEY_TYPE = b"ssh-ed25519"
PUBLIC_LENGTH, PRIVATE_LENGTH = 32, 64
"""Bytes of an Ed25519 key in OpenSSH's form; the private one has the public one at its end."""
_LENGTH = struct.Struct(">I")


def make_key_pair(comment: str) -> KeyPair:
    """A new key pair; the comment ends the public line."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return KeyPair(private.decode(), f"{public.decode()} {comment}")


def write_for_dropbear(pair: KeyPair) -> bytes:
    """A private key as dropbear keeps it (its ``ed25519.c``: the type, then both halves).

    Converting it in a guest takes a tenth of a second in emulation.

    Raises:
        ValueError: it isn't an Ed25519 key in OpenSSH's form without a passphrase.
    """
    blob = base64.b64decode("".join(pair.private.splitlines()[1:-1]))
    public = _field(KEY_TYPE) + _LENGTH.pack(PUBLIC_LENGTH)
    start = blob.rindex(public) + len(public) + PUBLIC_LENGTH  # the first is the public section's
    length = _LENGTH.pack(PRIVATE_LENGTH)
    if blob[start : start + len(length)] != length:
        raise ValueError("no private key")
    return _field(KEY_TYPE) + blob[start : start + len(length) + PRIVATE_LENGTH]


def public_half(private: str) -> str:
    """The public half of a private key without a passphrase: ``ssh-ed25519 AAAA...``."""
    from cryptography.hazmat.primitives import serialization

    data = private.encode()
    legacy = data.startswith(b"-----BEGIN RSA")
    load = serialization.load_pem_private_key if legacy else serialization.load_ssh_private_key
    public = load(data, None).public_key()
    return public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def _field(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def ensure_keys(folder: SshFolder, machine: str) -> tuple[KeyPair, KeyPair]:
    """The machine's user key and host key, made at the first call."""
    return (
        _ensure(folder.key, f"qup:{machine}"),
        _ensure(folder.host_key, f"qup-host:{machine}"),
    )


def _ensure(path: Path, comment: str) -> KeyPair:
    public = path.with_name(path.name + ".pub")
    try:
        return KeyPair(path.read_text(), public.read_text().strip())
    except FileNotFoundError:
        pair = make_key_pair(comment)
        # The public half goes first: a private half without it would never be completed.
        write_atomic(public, pair.public + "\n", mode=0o644)
        write_atomic(path, pair.private)
        os.chmod(path, 0o600)
        return pair
