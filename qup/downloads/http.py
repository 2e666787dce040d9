"""Requests to servers: redirects by our own rules, and failures in words.

``requests`` takes proxies, certificates and ``~/.netrc`` from the environment, as its users
know it. It never decodes a body here, and never follows a redirect by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from qup.downloads.addresses import check_url, follow_redirect, redact_url, require_network
from qup.downloads.errors import MissingError, RefusedError, Transient
from qup.errors import BoxError

if TYPE_CHECKING:
    import requests

Answer = TypeVar("Answer")

MAX_REDIRECTS = 10
CONNECT_TIMEOUT = 10.0
STALL_TIMEOUT = 30.0
"""Seconds without a byte after which a server has stalled; QUP_DOWNLOAD_TIMEOUT changes it."""
TIMEOUT_VARIABLE = "QUP_DOWNLOAD_TIMEOUT"
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try."""
LONGEST_PAUSE = 30.0

REDIRECTS = (301, 302, 303, 307, 308)
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
GONE = (404, 410)


def stall_timeout() -> float:
    """Seconds that a server may be silent."""
    try:
        value = float(os.environ.get(TIMEOUT_VARIABLE, ""))
    except ValueError:
        return STALL_TIMEOUT
    return value if 0 < value < 86400 else STALL_TIMEOUT


def open_session() -> requests.Session:
    """A session that says who we are."""
    import requests

    from qup import __version__

    session = requests.Session()
    session.headers["User-Agent"] = f"qup/{__version__}"
    session.headers["Accept-Encoding"] = "identity"  # a file's bytes, as they are
    return session


def get(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    *,
    vouched: bool = False,
    ok: tuple[int, ...] = (200,),
) -> requests.Response:
    """Ask for a file; the body is still to be read, and the response to be closed.

    Args:
        session: from :func:`open_session`.
        url: the address.
        headers: more headers; ``Authorization`` stays with the first server.
        vouched: see :func:`qup.downloads.addresses.check_url`.
        ok: the status codes that the caller can do something with.

    Raises:
        BoxError: the address, a redirect or the server's answer is no good.
        Transient: it may work later.
    """
    require_network(url)
    check_url(url, vouched=vouched)
    origin = urlsplit(url).netloc
    seen = [url]
    while True:
        kept = {
            name: value
            for name, value in headers.items()
            if name != "Authorization" or urlsplit(url).netloc == origin
        }
        response = _send(session, url, kept)
        if response.status_code not in REDIRECTS:
            return _judge(response, ok)
        location = response.headers.get("Location", "")
        response.close()
        if not location:
            raise BoxError(f"{redact_url(url)} redirects to nowhere ({response.status_code})")
        url = follow_redirect(url, location, vouched=vouched)
        if url in seen or len(seen) > MAX_REDIRECTS:
            kind = "in circles" if url in seen else f"more than {MAX_REDIRECTS} times"
            raise BoxError(f"{redact_url(seen[0])} redirects {kind}")
        seen.append(url)


def _send(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    import requests

    where = redact_url(url)
    try:
        return session.get(
            url,
            headers=dict(headers),
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_TIMEOUT, stall_timeout()),
        )
    except requests.exceptions.SSLError as exc:
        raise BoxError(
            f"{where}: its certificate can't be trusted",
            details=_innermost(exc),
            hint="is this computer's clock right? for a certificate authority of your own, set"
            " REQUESTS_CA_BUNDLE; qup never goes on without checking",
        ) from exc
    except requests.exceptions.ProxyError as exc:
        raise Transient(f"the proxy for {where} does not answer") from exc
    except requests.exceptions.Timeout as exc:
        raise Transient(f"{where} does not answer") from exc
    except requests.exceptions.ConnectionError as exc:
        raise Transient(f"{where} can't be reached ({_innermost(exc)})") from exc
    except (requests.exceptions.RequestException, ValueError) as exc:
        raise BoxError(f"{where} can't be asked: {type(exc).__name__}") from exc


def _innermost(exc: BaseException) -> str:
    """The system's own words for why a connection failed; what wraps them names URLs."""
    import ssl

    found: BaseException | None = exc
    seen = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, ssl.SSLCertVerificationError):
            return found.verify_message
        if isinstance(found, OSError) and found.strerror and not hasattr(found, "request"):
            return found.strerror
        reason = next((arg for arg in found.args if isinstance(arg, BaseException)), None)
        found = getattr(found, "reason", None) or found.__cause__ or found.__context__ or reason
        found = found if isinstance(found, BaseException) else None
    return "no connection"


def _judge(response: requests.Response, ok: tuple[int, ...]) -> requests.Response:
    code = response.status_code
    if code in ok:
        return response
    response.close()
    where = redact_url(response.url)
    if code in GONE:
        raise MissingError(f"there is nothing at {where} (HTTP {code})", hint="check the address")
    if response.headers.get("X-RateLimit-Remaining") == "0":
        raise BoxError(
            f"{where}: too many requests from this address for now (HTTP {code})",
            hint="try later, or set QUP_GITHUB_TOKEN to a token of yours",
        )
    if code in TRANSIENT:
        raise Transient(f"{where} fails (HTTP {code})", _retry_after(response))
    if code in (401, 403, 407):
        hint = "does it want a login? put it into ~/.netrc"
        raise RefusedError(f"{where} is refused (HTTP {code})", hint=hint)
    raise BoxError(f"{where} can't be downloaded (HTTP {code})")


def _retry_after(response: requests.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def give_up(failure: Transient) -> BoxError:
    """The error for something that went on failing."""
    return BoxError(
        f"{failure.reason}, and trying again did not help",
        hint="look at the network ('qup' takes proxies from https_proxy), then try again:"
        " what was downloaded so far is kept",
    )


def pause_for(failure: Transient, tries: int) -> float | None:
    """Seconds to wait before the next try after so many that failed; None for no more."""
    if tries > len(PAUSES):
        return None
    return min(LONGEST_PAUSE, max(PAUSES[tries - 1], failure.after or 0.0))


def insist(act: Callable[[], Answer], *, tries: int = 2) -> Answer:
    """Do something small, again if it fails in a way that may pass.

    Raises:
        BoxError: it went on failing.
    """
    for count in range(1, tries + 1):
        try:
            return act()
        except Transient as exc:
            pause = pause_for(exc, count)
            if count == tries or pause is None:
                raise give_up(exc) from exc
            time.sleep(pause)  # nothing tells when a server is well again
    raise AssertionError("it ends above")
