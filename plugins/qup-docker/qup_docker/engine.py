"""Speaking to an engine: who is there, and does it know us?"""

from __future__ import annotations

import json
import ssl
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from qup.api import MachineError
from qup_docker.certificates import CA, CLIENT, CLIENT_KEY

PATIENCE = 20.0
"""Seconds for a connection and an answer; docker-machine's."""
AGAIN = "'qup up' looks after the engine and its certificates"


def ask_version(folder: Path, address: str, port: int, *, patience: float = PATIENCE) -> str:
    """The version of the engine at an address, which shows its certificate and sees ours.

    Args:
        folder: where the client's certificate is.
        address: the engine's.
        port: the engine's.
        patience: seconds.

    Raises:
        MachineError: nobody answers, or it is somebody else.
    """
    place = f"tcp://{address}:{port}"
    try:
        context = ssl.create_default_context(cafile=str(folder / CA))
        context.load_cert_chain(folder / CLIENT, folder / CLIENT_KEY)
        connection = HTTPSConnection(address, port, timeout=patience, context=context)
        try:
            connection.request("GET", "/version")
            answer = connection.getresponse()
            found = json.loads(answer.read(1 << 20))
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as exc:
        raise MachineError(
            f"the certificate at {place} is not this machine's: {exc.verify_message}", hint=AGAIN
        ) from exc
    except ssl.SSLError as exc:
        # QEMU takes connections for a guest in which nobody listens, and hangs up.
        hung_up = isinstance(exc, ssl.SSLEOFError) or exc.reason is None
        said = "no engine answers" if hung_up else "no TLS with the engine"
        reason = "it hung up" if hung_up else exc.reason
        raise MachineError(f"{said} at {place}: {reason}", hint=AGAIN) from exc
    except (OSError, HTTPException, ValueError) as exc:
        reason = "nothing came within the time" if isinstance(exc, TimeoutError) else str(exc)
        raise MachineError(f"no engine answers at {place}: {reason}", hint=AGAIN) from exc
    return str(found.get("Version", "?")) if isinstance(found, dict) else "?"
