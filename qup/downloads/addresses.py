"""Which addresses qup goes to, where it lets itself be sent from there, and what it prints."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from qup.downloads.errors import OfflineError
from qup.errors import BoxError
from qup.model.text import printable

OFFLINE = "QUP_OFFLINE"
_NO = ("", "0", "no", "off", "false")


def is_offline() -> bool:
    """Whether ``--offline`` or ``QUP_OFFLINE`` says to do without the network."""
    return os.environ.get(OFFLINE, "").lower() not in _NO


def set_offline() -> None:
    """Do without the network from now on, in this process and in those that it starts."""
    os.environ[OFFLINE] = "1"


def require_network(url: str) -> None:
    """Raise OfflineError when the network is not to be used."""
    if is_offline():
        raise OfflineError(
            f"{redact_url(url)} is not here, and --offline (or {OFFLINE}) says not to fetch it",
            hint="run the command again without --offline when there is a network",
        )


def redact_url(url: str) -> str:
    """A URL for messages: without user and password, and without what a query says."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return re.sub(r"//[^/@]*@", "//", printable(url))
    query = "…" if parts.query else ""
    return printable(urlunsplit((parts.scheme, host, parts.path, query, "")))


def check_url(url: str, *, vouched: bool = False) -> None:
    """Refuse an address that qup doesn't fetch from.

    Args:
        url: the address.
        vouched: the file's digest is known, so nobody on the way could change it unnoticed.

    Raises:
        BoxError: it isn't http(s), has a password in it, or has no protection on the way.
    """
    parts = _split(url)
    shown = redact_url(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BoxError(
            f"{shown} is not an http or https address",
            hint="qup downloads only from such addresses",
        )
    if parts.username is not None or parts.password is not None:
        raise BoxError(
            f"the address of {shown} has a user or password in it, which would end up in logs",
            hint=f"put them into ~/.netrc: 'machine {parts.hostname} login … password …'",
        )
    if parts.scheme == "http" and not vouched and not is_loopback(parts.hostname):
        raise BoxError(
            f"{shown} is plain http, and its digest is not known: anybody on the way could"
            " change the file",
            hint="use https, or pin the file: add '#sha256=' and its digest to the address",
        )


def follow_redirect(url: str, location: str, *, vouched: bool) -> str:
    """Where a redirect leads, if qup goes there.

    Raises:
        BoxError: to another kind of address, from https to http, or from elsewhere to this
            computer or to link-local addresses, where a stranger's server has no business.
    """
    try:
        target = urljoin(url, location)
    except ValueError:
        target = location
    source, parts = _split(url), _split(target)
    shown = f"{redact_url(url)} leads to {redact_url(target)}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BoxError(f"{shown}, which is not an http or https address")
    if source.scheme == "https" and parts.scheme != "https":
        raise BoxError(f"{shown}: from https to http, without protection on the way")
    if is_local(parts.hostname) and not is_loopback(source.hostname or ""):
        raise BoxError(f"{shown}: a server elsewhere may not send qup to this computer")
    check_url(target, vouched=vouched)
    return target


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
    except ValueError as exc:
        raise BoxError(f"{redact_url(url)} is no address: {exc}") from exc
    if any(char.isspace() or not char.isprintable() for char in url):
        raise BoxError(
            f"{redact_url(url)!r} is not an address: it has spaces or control characters"
        )
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this computer, by its name alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_local(host: str) -> bool:
    """Whether a host is this computer or one that only this computer's link knows."""
    address = _address(host)
    return is_loopback(host) or (
        address is not None and (address.is_link_local or address.is_unspecified)
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
