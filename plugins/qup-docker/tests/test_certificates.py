"""Certificates: good for what they are for, kept as long as they are good."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from qup_docker.certificates import (
    CA,
    CA_KEY,
    CLIENT,
    CLIENT_KEY,
    SERVER,
    SERVER_KEY,
    forget_credentials,
    keep_credentials,
    names_of,
)
from qup_docker.engine import ask_version

from qup.api import MachineError

NAMES = ["web", "10.0.2.15", "docker.example.org", "fd00::1"]
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_what_is_made(tmp_path: Path) -> None:
    made = keep_credentials(tmp_path, "web", NAMES, now=NOW)
    assert [text.split()[0] for text in made.made] == ["CA", "client", "server"]
    ca, client, server = (load(tmp_path / name) for name in (CA, CLIENT, SERVER))
    assert names_of(server) == {*NAMES, "localhost", "127.0.0.1", "::1"}
    for leaf, use in ((client, "CLIENT_AUTH"), (server, "SERVER_AUTH")):
        leaf.verify_directly_issued_by(ca)
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [getattr(ExtendedKeyUsageOID, use)]
        assert leaf.not_valid_after_utc < ca.not_valid_after_utc
    assert not names_of(client)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.ca == (tmp_path / CA).read_text()
    assert made.key == (tmp_path / SERVER_KEY).read_text()


def test_keys_are_the_users_alone(tmp_path: Path) -> None:
    keep_credentials(tmp_path, "web", NAMES)
    for name in (CA_KEY, CLIENT_KEY, SERVER_KEY):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {
        *(CA, CA_KEY, CLIENT, CLIENT_KEY, SERVER, SERVER_KEY)
    }


def remade(folder: Path, names: list[str], days: float = 0.0) -> list[str]:
    made = keep_credentials(folder, "web", names, now=NOW + dt.timedelta(days=days))
    return [text.split()[0] for text in made.made]


def test_they_are_kept_as_long_as_they_are_good(tmp_path: Path) -> None:
    assert remade(tmp_path, NAMES) == ["CA", "client", "server"]
    assert remade(tmp_path, NAMES) == []
    assert remade(tmp_path, NAMES[:2]) == []  # it may be good for more than is needed
    assert remade(tmp_path, [*NAMES, "192.0.2.7"]) == ["server"]
    assert remade(tmp_path, [*NAMES, "192.0.2.7"]) == []
    assert remade(tmp_path, NAMES, days=1049) == []
    assert remade(tmp_path, NAMES, days=1051) == ["client", "server"]
    assert remade(tmp_path, NAMES, days=3700) == ["CA", "client", "server"]


@pytest.mark.parametrize(
    ("name", "again"),
    [
        (CA, ["CA", "client", "server"]),
        (CA_KEY, ["CA", "client", "server"]),
        (CLIENT, ["client"]),
        (CLIENT_KEY, ["client"]),
        (SERVER, ["server"]),
        (SERVER_KEY, ["server"]),
    ],
)
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "another's"])
def test_what_is_damaged_is_made_anew(
    tmp_path: Path, name: str, again: list[str], damage: str
) -> None:
    remade(tmp_path, NAMES)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    elif damage == "another's":
        other = tmp_path / "other"
        other.mkdir()
        remade(other, NAMES)
        path.write_bytes((other / name).read_bytes())
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 100])
    assert remade(tmp_path, NAMES) == again
    assert remade(tmp_path, NAMES) == []


def test_a_clock_that_was_wrong(tmp_path: Path) -> None:
    remade(tmp_path, NAMES, days=5)
    assert remade(tmp_path, NAMES) == ["CA", "client", "server"]


def test_forgetting(tmp_path: Path) -> None:
    remade(tmp_path, NAMES)
    assert len(forget_credentials(tmp_path, everything=False)) == 2
    assert remade(tmp_path, NAMES) == ["server"]
    assert len(forget_credentials(tmp_path, everything=True)) == 6
    assert forget_credentials(tmp_path, everything=True) == []


def test_a_long_name(tmp_path: Path) -> None:
    keep_credentials(tmp_path, "m" * 63, ["m" * 63])


# --- with TLS -------------------------------------------------------------------------------


def serve_once(folder: Path, answer: bytes, *, authority: Path | None = None) -> int:
    """An engine that answers one client, who has to show a certificate; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / SERVER, folder / SERVER_KEY)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations((authority or folder) / CA)
    listener = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1000)
                    secure.sendall(answer)
            except OSError:
                pass  # that is what some tests are about

    threading.Thread(target=speak, daemon=True).start()
    return int(listener.getsockname()[1])


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    keep_credentials(tmp_path, "web", NAMES)
    return tmp_path


@pytest.fixture
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    keep_credentials(folder, "other", NAMES)
    return folder


def test_engine_and_client_know_each_other(ours: Path) -> None:
    body = b'{"Version":"20.10.1"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert ask_version(ours, "127.0.0.1", serve_once(ours, answer)) == "20.10.1"


@pytest.mark.parametrize(
    ("who", "words"),
    [("another engine", "is not this machine's"), ("we are others to it", "no TLS with|no engine")],
)
def test_strangers_are_refused(ours: Path, theirs: Path, who: str, words: str) -> None:
    other = who == "another engine"
    port = serve_once(theirs, b"") if other else serve_once(ours, b"", authority=theirs)
    with pytest.raises(MachineError, match=words):
        ask_version(ours, "127.0.0.1", port)


def test_somebody_who_hangs_up(ours: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(10_000)  # what is unread would make it a reset

    threading.Thread(target=hang_up, daemon=True).start()
    with pytest.raises(MachineError, match="no engine answers at .*: it hung up"):
        ask_version(ours, "127.0.0.1", int(listener.getsockname()[1]))


def test_nobody_there(ours: Path) -> None:
    with socket.socket() as holder:  # bound, so that nobody else gets the port, but not listening
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(MachineError, match="no engine answers at tcp://127.0.0.1:"):
            ask_version(ours, "127.0.0.1", holder.getsockname()[1])


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"HTTP/1.1 200 OK\r\n\r\n[]", b"\0" * 100])
def test_what_is_no_engine(ours: Path, answer: bytes) -> None:
    port = serve_once(ours, answer)
    if answer.endswith(b"[]"):
        assert ask_version(ours, "127.0.0.1", port) == "?"
        return
    with pytest.raises(MachineError, match="no engine answers"):
        ask_version(ours, "127.0.0.1", port)
