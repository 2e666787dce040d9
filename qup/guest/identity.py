"""Making a guest that was restored from a template a machine of its own.

A second serial port is the way in, and it works before anything else does: the process that
waits there was started before the template was saved, so it needs no login, no network and no
randomness. It gets the time and fresh randomness first (``refresh.S``), and then a script with
everything that makes a machine (``become.sh``). Only the user who owns the machine can open
the host's end of that port.
"""

from __future__ import annotations

import base64
import importlib.resources
import shlex
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from qup.errors import GuestError
from qup.guest.keys import write_for_dropbear
from qup.guest.refresh import ANSWER, make_block, make_card_block, make_last_block, make_program
from qup.model.plan import Plan
from qup.model.seed import KeyPair
from qup.model.text import clean_line

PORT = "/dev/ttyS1"
"""The second serial port of a PC, as Linux calls it."""

WAITING = "qup: waiting"
DONE, FAILED = "qup: done", "qup: failed: "
"""How the scripts end."""

CLOCK_ERROR = 0.1
"""Seconds that the guest's clock may differ from the host's."""
CLOCK_TRIES = 6
SAID_LIMIT = 64 * 1024


class IdentityFailure(GuestError):
    """A guest did not become the machine that it should be."""


@dataclass(frozen=True)
class Persona:
    """What makes a guest one machine and not another.

    Attributes:
        hostname: its name.
        instance: its instance id, by which the first boot is known.
        public_key: the line that lets its owner in.
        macs: the addresses of its network cards, in their order.
        addresses: the fixed IP addresses of each card, with their prefixes.
        shared: for each card, whether its DHCP server is one that others have, too.
        met: for each card, whether others are on its network.
    """

    hostname: str
    instance: str
    public_key: str
    macs: tuple[str, ...]
    addresses: tuple[tuple[str, ...], ...]
    shared: tuple[bool, ...]
    met: tuple[bool, ...] = ()

    @classmethod
    def of(cls, plan: Plan, user_key: KeyPair) -> Self:
        """The one that a plan gives."""
        macs = tuple(nic.mac for nic in plan.nics)
        addresses = tuple(nic.plan.address.addresses for nic in plan.nics)
        met = tuple(nic.plan.netdev.get("type") != "user" for nic in plan.nics)
        dhcp = [nic.plan.address.dhcp for nic in plan.nics]
        shared = tuple(map(all, zip(dhcp, met, strict=True)))
        seed = plan.seed
        return cls(seed.hostname, seed.instance_id, user_key.public, macs, addresses, shared, met)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """The one that was written as JSON."""
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists, "addresses": tuple(map(tuple, data["addresses"]))})


def _script(name: str, variables: dict[str, str]) -> str:
    return _set(variables) + _read_script(name)


def _read_script(name: str) -> str:
    return (importlib.resources.files("qup.guest") / name).read_text("utf-8")


def _set(variables: dict[str, str]) -> str:
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items())


def make_waiting_script(*, hold: bool = False) -> str:
    """What a guest runs, as root, before it is saved; it ends with :data:`WAITING`.

    Args:
        hold: whether its sshd may stop to listen until it has become a machine.
    """
    variables = {
        "port": PORT,
        "refresh": base64.b64encode(make_program()).decode(),
        "become": _read_script("become.sh"),
        "become_tiny": _read_script("become_tiny.sh"),
        "hold": "yes" if hold else "",
    }
    return _script("wait.sh", variables)


def make_identity_script(old: Persona, new: Persona, host_key: KeyPair, machine_id: str) -> str:
    """What makes a restored guest a machine of its own.

    Args:
        old: who it was when it was saved.
        new: who it shall be.
        host_key: the key of its sshd.
        machine_id: 32 hexadecimal digits (``machine-id(5)``).
    """
    _, old_key, *old_comment = old.public_key.split()
    _, new_key, *comment = new.public_key.split()
    macs = zip(old.macs, new.macs, strict=True)
    addresses = [
        f"{mac} {one} {other}"
        for mac, before, after in zip(old.macs, old.addresses, new.addresses, strict=True)
        for one, other in zip(before, after, strict=True)
        if one != other
    ]
    moved = [mac for mac, shared in zip(old.macs, new.shared, strict=True) if shared]
    met = [mac for mac, others in zip(old.macs, new.met, strict=False) if others]
    return (
        _set(
            {
                "hostname": new.hostname,
                "old_hostname": old.hostname,
                "instance": new.instance,
                "old_instance": old.instance,
                "machine_id": machine_id,
                "public_key": new_key,
                "old_public_key": old_key,
                "comment": " ".join(comment),
                "old_comment": " ".join(old_comment),
                "host_key": host_key.private.rstrip("\n"),
                "host_public_key": host_key.public,
                "dropbear_key": "".join(f"\\{byte:03o}" for byte in write_for_dropbear(host_key)),
                "macs": "\n".join(f"{one} {other}" for one, other in macs if one != other),
                "addresses": "\n".join(addresses),
                "moved": " ".join(moved),
                "met": " ".join(met),
            }
        )
        + ". ./body\n"
    )


class IdentityPort:
    """The host's end of the serial port at which a restored guest waits."""

    def __init__(self, path: Path, machine: str) -> None:
        """Connect to it; ``machine`` is what messages call the guest.

        Raises:
            IdentityFailure: nothing listens there.
        """
        self._machine = machine
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            raise self._fail(f"can't reach its second serial port: {exc.strerror}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def refresh(self, timeout: float) -> float:
        """Set the guest's clock and reseed its random pool.

        Args:
            timeout: seconds for an answer.

        Returns:
            The most by which its clock can differ from the host's, in seconds.

        Raises:
            IdentityFailure: it does not answer, or can't.
        """
        lead, best = 0.0, timeout
        deadline = time.monotonic() + timeout
        for _ in range(CLOCK_TRIES):
            began = time.monotonic()
            self._send(make_block(time.time() + lead), deadline)
            answer = self._receive(deadline)[:1]
            if answer != ANSWER:
                raise self._fail(f"it answered {answer!r} to the time")
            took = time.monotonic() - began
            # The guest set the time at some moment between the two: the middle is off by half.
            best = max(lead, took - lead)
            if best <= CLOCK_ERROR:
                break
            lead = took / 2
        return best

    def set_cards(self, old: Persona, new: Persona, timeout: float) -> Persona:
        """Give the guest's network cards their addresses, where that is all that there is to do
        and the guest can do it without a program: on networks that nobody else is on.

        Args:
            old: who it is.
            new: who it shall be.
            timeout: seconds for each answer.

        Returns:
            Who it is now.

        Raises:
            IdentityFailure: it does not answer.
        """
        macs = list(old.macs)
        cards = zip(old.macs, new.macs, old.addresses, new.addresses, new.met, strict=True)
        for index, (mac, wanted, fixed, addresses, met) in enumerate(cards):
            if met or mac == wanted or fixed != addresses:
                continue
            deadline = time.monotonic() + timeout
            self._send(make_card_block(f"eth{index}", mac, wanted), deadline)
            if self._receive(deadline)[:1] == ANSWER:
                macs[index] = wanted
        return replace(old, macs=tuple(macs))

    def run(self, script: str, timeout: float) -> None:
        """Run a script as root and wait for its end; the guest no longer listens then.

        Args:
            script: ends by printing :data:`DONE`, or :data:`FAILED` with the reason.
            timeout: seconds that it may take.

        Raises:
            IdentityFailure: it failed, or took too long.
        """
        deadline = time.monotonic() + timeout
        payload = script.encode()
        self._send(make_last_block(len(payload)) + payload, deadline)
        said = b""
        while DONE.encode() not in said:
            if FAILED.encode() in said and said.endswith(b"\n"):
                reason = said.decode(errors="replace").partition(FAILED)[2]
                raise self._fail(clean_line(reason.splitlines()[0]), said)
            if len(said) > SAID_LIMIT:
                raise self._fail("it talks without end", said)
            said += self._receive(deadline, said)

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self._socket.sendall(data)
        except OSError as exc:
            raise self._fail("it does not read what it is told") from exc

    def _receive(self, deadline: float, said: bytes = b"") -> bytes:
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self._socket.recv(4096)
        except OSError as exc:
            raise self._fail("it does not answer", said) from exc
        if not data:
            raise self._fail("its serial port was closed", said)
        return data

    def _fail(self, reason: str, said: bytes = b"") -> IdentityFailure:
        lines = [clean_line(line) for line in said[-4000:].decode(errors="replace").splitlines()]
        return IdentityFailure(
            f"machine {self._machine}: the restored guest did not become this machine: {reason}",
            details="\n".join(line for line in lines if line.strip()) or None,
            machine=self._machine,
        )
