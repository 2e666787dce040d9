"""Which addresses are refused, and what is printed of them."""

from __future__ import annotations

import pytest

from qup.downloads import Digest, check_url, is_offline, parse_sums, redact_url
from qup.downloads.addresses import follow_redirect
from qup.errors import BoxError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@example.org/x.iso", "https://example.org/x.iso"),
        ("https://example.org:8443/x?token=secret#frag", "https://example.org:8443/x?…"),
        ("https://user:secret@[::1/x", "https://[::1/x"),
        ("https://example.org/\x1b[31m", "https://example.org/\ufffd[31m"),
    ],
)
def test_nothing_secret_is_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("file:///etc/passwd", "not an http or https"),
        ("ftp://example.org/x", "not an http or https"),
        ("https:///x", "not an http or https"),
        ("https://user:secret@example.org/x", "netrc"),
        ("https://user@example.org/x", "netrc"),
        ("http://example.org/x", "plain http"),
        ("https://example.org:port/x", "no address"),
        ("https://example.org/a b", "spaces"),
        ("https://example.org/a\nb", "no address|spaces"),
    ],
)
def test_refused_addresses(url: str, match: str) -> None:
    with pytest.raises(BoxError) as caught:
        check_url(url)
    text = f"{caught.value.message} {caught.value.hint}"
    assert any(part in text for part in match.split("|"))
    assert "secret" not in text


def test_a_digest_makes_plain_http_safe() -> None:
    check_url("http://example.org/x", vouched=True)
    check_url("http://127.0.0.1:8000/x")
    check_url("http://localhost/x")


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("http://example.org/y", "from https to http"),
        ("https://127.0.0.1/y", "to this computer"),
        ("https://localhost/y", "to this computer"),
        ("https://169.254.169.254/latest/meta-data", "to this computer"),
        ("https://[::ffff:127.0.0.1]/y", "to this computer"),
        ("https://0.0.0.0/y", "to this computer"),
    ],
)
def test_redirects_that_are_not_followed(location: str, match: str) -> None:
    with pytest.raises(BoxError, match=match):
        follow_redirect("https://example.org/x", location, vouched=True)


def test_relative_redirects() -> None:
    assert (
        follow_redirect("https://example.org/a/x", "../y", vouched=False) == "https://example.org/y"
    )


@pytest.mark.parametrize("text", ["", "sha256:", "md5:" + "a" * 32, "sha512:" + "a" * 64, "g" * 64])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(BoxError, match="not a SHA-256"):
        Digest.parse(text)


def test_names_must_match_as_a_whole() -> None:
    digits = "a" * 64
    assert parse_sums(f"{digits}  xguest.iso\n", "guest.iso") is None
    assert parse_sums(f"{digits}  guest.iso\n", "guest.iso") == f"sha256:{digits}"
    assert parse_sums(f"{'a' * 40}  guest.iso\n", "guest.iso") is None


A, B = "a1" * 32, "b2" * 64
SIGNED = f"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# Fedora-Cloud-Base-GCE-44-1.7.x86_64.tar.gz: 517158695 bytes
SHA256 (Fedora-Cloud-Base-GCE-44-1.7.x86_64.tar.gz) = {"c" * 64}
# Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2: 583729152 bytes
SHA256 (Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2) = {A}
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCAAdFiEE
-----END PGP SIGNATURE-----
"""


@pytest.mark.parametrize(
    ("text", "name", "place"),
    [
        (f"{B}  debian-12-nocloud-amd64.qcow2\n{B}  debian-12-genericcloud-amd64.qcow2\n",
         "debian-12-genericcloud-amd64.qcow2", "SHA512SUMS"),
        (f"{'c' * 64} *ubuntu-24.04.tar.xz\n{A} *ubuntu-24.04-server-cloudimg-amd64.img\n",
         "ubuntu-24.04-server-cloudimg-amd64.img", "SHA256SUMS"),
        (SIGNED, "Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2", "CHECKSUM"),
        (f"{A}  AlmaLinux-9-GenericCloud-latest.x86_64.qcow2\n",
         "AlmaLinux-9-GenericCloud-latest.x86_64.qcow2", "CHECKSUM"),
        (f"# Rocky-9.qcow2: 645988352 bytes\nSHA256 (Rocky-9.qcow2) = {A}\n",
         "Rocky-9.qcow2", "Rocky-9.qcow2.CHECKSUM"),
        (f"{A} openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2\n",
         "openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2", "…-Cloud.qcow2.sha256"),
        (f"{A}  Arch-Linux-x86_64-cloudimg-20261115.612345.qcow2\n",
         "Arch-Linux-x86_64-cloudimg.qcow2", "Arch-Linux-x86_64-cloudimg.qcow2.SHA256"),
        (f"{B}\n", "alpine.qcow2", "alpine.qcow2.sha512"),
        (f"SHA512 (FreeBSD-ufs.qcow2) = {'c' * 128}\nSHA512 (FreeBSD-ufs.qcow2.xz) = {B}\n",
         "FreeBSD-ufs.qcow2.xz", "CHECKSUM.SHA512"),
    ],
    ids=["debian", "ubuntu", "fedora", "almalinux", "rocky", "opensuse", "arch", "alpine",
         "freebsd"],
)  # fmt: skip
def test_each_distributor_has_a_form_of_its_own(text: str, name: str, place: str) -> None:
    """As they publish it: plain, in text and binary mode, tagged, signed, bare, by a link."""
    alone = name in place or place.startswith("…")
    found = parse_sums(text, name, alone=alone)
    assert found in (f"sha256:{A}", f"sha512:{B}")
    if not alone:
        assert parse_sums(text, f"x{name}") is None


def test_a_list_of_several_under_other_names_says_nothing() -> None:
    assert parse_sums(f"{A}  one.img\n{A}  two.img\n", "three.img", alone=True) is None
    assert parse_sums(f"{A}  one.img\n", "three.img") is None


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", False)]
)
def test_the_variable(value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUP_OFFLINE", value)
    assert is_offline() is offline
