"""Who may speak to an engine, and how its clients know it: a CA for each machine.

The CA's key and the client's never leave this computer. The guest gets the CA's certificate, and
a certificate and a key of its own. Keys are of ECDSA on P-256, which every engine since 1.12
understands and which take a millisecond to make.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qup.api import write_atomic
from qup_docker.options import is_address

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA, CA_KEY = "ca.pem", "ca-key.pem"
CLIENT, CLIENT_KEY = "cert.pem", "key.pem"
SERVER, SERVER_KEY = "server.pem", "server-key.pem"
"""Names as docker-machine had them; those of the client are what ``DOCKER_CERT_PATH`` expects."""

CA_DAYS, DAYS = 3650, 1080
"""How long certificates are good for; docker-machine's were good for 1080 days."""
MARGIN = dt.timedelta(days=30)
"""How long before its end a certificate is made anew."""
BEFORE = dt.timedelta(days=1)
"""How far the guest's clock may be behind."""

ALWAYS = ("localhost", "127.0.0.1", "::1")
"""What a server's certificate is good for in any case: forwards end at these."""


@dataclass(frozen=True)
class Identity:
    """A certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Credentials:
    """What the guest gets, and what had to be made for it.

    Attributes:
        ca: the CA's certificate (PEM).
        certificate: the server's (PEM).
        key: the server's key (PEM).
        made: what was made anew and why, a few words each.
    """

    ca: str
    certificate: str
    key: str
    made: tuple[str, ...]


def keep_credentials(
    folder: Path, machine: str, names: Sequence[str], *, now: dt.datetime | None = None
) -> Credentials:
    """The certificates of a machine: those that are there, and new ones where they are no good.

    Args:
        folder: where they are kept; it exists, and nobody else can enter it.
        machine: the machine's name, for people who look at a certificate.
        names: names and addresses of the server, besides those of this computer's loopback.
        now: the time, for tests.

    Raises:
        HostError: a file can't be written.
    """
    now = now or dt.datetime.now(dt.UTC)
    wanted = tuple(dict.fromkeys([*ALWAYS, *names]))
    made: list[str] = []
    ca = _read(folder, CA, CA_KEY)
    reason = _find_fault(ca, now)
    if ca is None or reason:
        made.append(f"CA ({reason})")
        ca = _make(f"qup CA of {machine}", None, (), now, CA_DAYS)
        _write(folder, CA, CA_KEY, ca)
    client = _read(folder, CLIENT, CLIENT_KEY)
    reason = _find_fault(client, now, ca)
    if client is None or reason:
        made.append(f"client ({reason})")
        _write(folder, CLIENT, CLIENT_KEY, _make(f"client of {machine}", ca, (), now, DAYS))
    server = _read(folder, SERVER, SERVER_KEY)
    reason = _find_fault(server, now, ca, wanted)
    if server is None or reason:
        made.append(f"server ({reason})")
        server = _make(machine, ca, wanted, now, DAYS)
        _write(folder, SERVER, SERVER_KEY, server)
    read = [(folder / name).read_text() for name in (CA, SERVER, SERVER_KEY)]
    return Credentials(read[0], read[1], read[2], tuple(made))


def forget_credentials(folder: Path, *, everything: bool) -> list[Path]:
    """Remove the server's certificate, or also the client's and the CA's; says which there were."""
    names = [SERVER, SERVER_KEY]
    if everything:
        names += [CLIENT, CLIENT_KEY, CA, CA_KEY]
    found = [folder / name for name in names if (folder / name).exists()]
    for path in found:
        path.unlink()
    return found


def names_of(certificate: x509.Certificate) -> set[str]:
    """The names and addresses that a certificate is good for."""
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(item.value) for item in extension.value}


def _find_fault(
    found: Identity | None,
    now: dt.datetime,
    ca: Identity | None = None,
    names: Iterable[str] = (),
) -> str | None:
    """Why a certificate is no good, in a few words."""
    if found is None:
        return "there was none"
    if found.certificate.not_valid_before_utc > now:
        return "it begins in the future"
    if found.certificate.not_valid_after_utc - MARGIN < now:
        return f"it ends on {found.certificate.not_valid_after_utc:%Y-%m-%d}"
    if ca is not None and not _is_issued_by(found, ca):
        return "it is of another CA"
    if missing := sorted(set(names) - names_of(found.certificate)):
        return f"it lacks {', '.join(missing)}"
    return None


def _is_issued_by(found: Identity, ca: Identity) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        found.certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(folder: Path, certificate: str, key: str) -> Identity | None:
    """A pair of files; None if it isn't there, is damaged, or doesn't belong together."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = x509.load_pem_x509_certificate((folder / certificate).read_bytes())
        private = load_pem_private_key((folder / key).read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return None
    if private.public_key() != loaded.public_key():
        return None
    return Identity(loaded, private)


def _write(folder: Path, certificate: str, key: str, made: Identity) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = serialization.Encoding.PEM
    private = made.key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(folder / key, private)
    write_atomic(folder / certificate, made.certificate.public_bytes(pem), mode=0o644)


def _make(
    title: str, ca: Identity | None, names: Sequence[str], now: dt.datetime, days: int
) -> Identity:
    """A certificate by a CA: a server's, if it has names, else a client's; without a CA one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    # A name of more than 64 characters is no common name (RFC 5280, ub-common-name).
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "qup"),
            x509.NameAttribute(NameOID.COMMON_NAME, title[:64]),
        ]
    )
    signer = ca.key if ca else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.certificate.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca is None, 0 if ca is None else None), critical=True)
        .add_extension(_usage(ca=ca is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if ca is not None:
        use = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if names:
        known = [
            x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)
            for name in names
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=False)
    return Identity(builder.sign(signer, hashes.SHA256()), key)


def _usage(*, ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
