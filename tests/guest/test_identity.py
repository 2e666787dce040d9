"""What a restored guest is told: the program, the scripts, the talk over the serial port."""

from __future__ import annotations

import base64
import configparser
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from qup.guest import refresh
from qup.guest.identity import (
    IdentityFailure,
    IdentityPort,
    Persona,
    make_identity_script,
    make_waiting_script,
)
from qup.guest.keys import make_key_pair, write_for_dropbear

SOURCE = Path(refresh.__file__).with_name("refresh.S")
OLD = Persona(
    "qup-template", "i-old", "ssh-ed25519 AAAAold qup:x", ("52:54:00:00:00:01",), ((),), (False,)
)
NEW = Persona(
    "web.example", "i-new", "ssh-ed25519 AAAAnew+/= qup:web", ("52:54:00:00:00:02",), ((),), (True,)
)


def test_the_program_is_what_its_source_says(tmp_path: Path) -> None:
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("no assembler")
    for words in (
        f"as --64 -o refresh.o {shlex.quote(str(SOURCE))}",
        "ld -m elf_x86_64 -N -Ttext=0x400078 --oformat=binary -e start -o refresh.bin refresh.o",
    ):
        assert words.replace(shlex.quote(str(SOURCE)), "refresh.S") in SOURCE.read_text()
        subprocess.run(shlex.split(words), cwd=tmp_path, check=True)
    assert (tmp_path / "refresh.bin").read_bytes() == refresh.CODE


def run_program(words: list[str], block: bytes, prefix: Sequence[str] = ()) -> Any:
    """What it answers to blocks that don't set the clock, as that would be this computer's."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "refresh")
        program.write_bytes(refresh.make_program())
        program.chmod(0o700)
        block += refresh.make_last_block(0)
        return subprocess.run(
            [*prefix, program, *words], input=block, capture_output=True, check=True
        )


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 50_000])
def test_the_program_hands_on_what_follows_the_last_block(size: int, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("no x86-64")
    program = tmp_path / "refresh"
    program.write_bytes(refresh.make_program())
    program.chmod(0o700)
    payload = os.urandom(size)
    # Never another block than the last one: it would set this computer's clock.
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(str(program))} 3>out"],
        input=refresh.make_last_block(size) + payload,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == payload
    done = subprocess.run([program], input=b"short", check=False)
    assert done.returncode == 1


@pytest.mark.parametrize("words", [[], ["cards"]])
def test_the_program_leaves_a_card_alone_that_is_another_one(words: list[str]) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("no x86-64")
    block = refresh.make_card_block("lo", "52:54:00:00:00:01", "52:54:00:00:00:02")
    assert run_program(words, block * 2).stdout == b"--"


@pytest.mark.root
@pytest.mark.parametrize(("words", "mac"), [([], "52:54:00:00:00:01"), (["cards"], NEW.macs[0])])
def test_the_program_gives_a_card_its_address_if_it_may(words: list[str], mac: str) -> None:
    block = refresh.make_card_block("eth1", "52:54:00:00:00:01", NEW.macs[0])
    made = "ip link add eth1 address 52:54:00:00:00:01 type bridge"
    seen = run_program(words, block, ["unshare", "-n", "sh", "-c", f'{made}; "$@"; ip link', "sh"])
    assert f"link/ether {mac}".encode() in seen.stdout
    assert seen.stdout[:1] == (b"=" if words else b"-")


def test_blocks() -> None:
    block = refresh.make_block(1_700_000_000.25)
    assert len(block) == len(refresh.make_last_block(1)) == 72
    assert struct.unpack_from("<qqii", block) == (1_700_000_000, 250_000_000, 384, 48)
    assert block[24:] != refresh.make_block(1_700_000_000.25)[24:]


def test_scripts_are_shell_and_quote_what_they_are_given() -> None:
    script = make_identity_script(OLD, NEW, make_key_pair("it's"), "0" * 32)
    for text in (script, make_waiting_script()):
        for shell in ("sh", "dash", "bash", "busybox"):
            if shutil.which(shell) is None:
                continue
            words = [shell, "sh", "-n"] if shell == "busybox" else [shell, "-n"]
            subprocess.run(words, input=text, text=True, check=True)
    assert "macs='52:54:00:00:00:01 52:54:00:00:00:02'" in script
    assert "moved=52:54:00:00:00:01" in script
    assert "hostname=web.example\n" in script
    assert "old_public_key=AAAAold\n" in script
    assert "old_comment=qup:x\n" in script
    assert len(script) < 2048  # a byte takes 20 µs and more at that port


PROFILE = """\
[connection]
id=cloud-init eth1

[ethernet]
mac-address=52:54:00:CC:27:B1
mtu=1400

[ipv4]
method=manual
"""


@pytest.mark.parametrize("sed", ["sed", "busybox sed"])
def test_a_profile_of_networkmanagers_goes_by_the_cards_name(sed: str, tmp_path: Path) -> None:
    """cloud-init writes addresses in capital letters; GLib's key files may repeat a section."""
    if shutil.which(sed.split()[0]) is None:
        pytest.skip(f"there is no {sed} here")
    text = (SOURCE.with_name("become.sh")).read_text()
    (function,) = re.findall(r"^name_card\(\).*?^}$", text, re.MULTILINE | re.DOTALL)
    for name in ("eth0", "eth1"):
        (tmp_path / name).write_text(PROFILE.replace("CC", "AA") if name == "eth0" else PROFILE)
    script = f'sed() {{ command {sed} "$@"; }}\n{function}\nname_card "$@"'
    words = ["52:54:00:cc:27:b1", "eth1", tmp_path / "eth0", tmp_path / "eth1", tmp_path / "none"]
    subprocess.run(["sh", "-euc", script, "sh", *words], check=True)
    assert (tmp_path / "eth0").read_text() == PROFILE.replace("CC", "AA")
    read = configparser.ConfigParser(strict=False)
    read.read(tmp_path / "eth1")
    assert dict(read["connection"]) == {"id": "cloud-init eth1", "interface-name": "eth1"}
    assert dict(read["ethernet"]) == {"mtu": "1400"}


def test_a_key_as_dropbear_keeps_it() -> None:
    pair = make_key_pair("x")
    data = write_for_dropbear(pair)
    public = base64.b64decode(pair.public.split()[1])[-32:]
    assert data[:19] == b"\0\0\0\x0bssh-ed25519\0\0\0\x40"
    assert data[-32:] == public
    assert len(data) == 83
    private = ed25519.Ed25519PrivateKey.from_private_bytes(data[19:51])
    assert private.public_key().public_bytes_raw() == public


@contextmanager
def guest(act: Callable[[socket.socket], None], tmp_path: Path) -> Iterator[IdentityPort]:
    """A port with a guest behind it that does something."""
    path = tmp_path / "port"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                act(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with IdentityPort(path, "web") as port:
            yield port
        thread.join(5)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


def test_the_clock_is_set_again_when_the_guest_was_slow(tmp_path: Path) -> None:
    times: list[tuple[float, float]] = []

    def act(connection: socket.socket) -> None:
        for pause in (0.3, 0.0, 0.0):
            seconds, nanoseconds = struct.unpack_from("<qq", read_exactly(connection, 72))
            times.append((time.time(), seconds + nanoseconds / 1e9))
            time.sleep(pause)
            connection.sendall(b"=")

    with guest(act, tmp_path) as port:
        error = port.refresh(5.0)
    # The second is sent with half of what the first took, which was too much.
    assert len(times) == 3
    assert error >= abs(times[-1][0] - times[-1][1]) - 0.01


def test_a_script_is_run_and_its_end_waited_for(tmp_path: Path) -> None:
    got: list[bytes] = []

    def act(connection: socket.socket) -> None:
        zero, size = struct.unpack_from("<qq", read_exactly(connection, 72))
        assert zero == 0
        got.append(read_exactly(connection, size))
        connection.sendall(b"some words\nqup: do")
        time.sleep(0.05)
        connection.sendall(b"ne\n")

    with guest(act, tmp_path) as port:
        port.run("echo hello\n", 5.0)
    assert got == [b"echo hello\n"]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"x\x1b[31m\nqup: failed: the host name\n", "the host name"),
        (b"", "was closed"),
        (b"no end", "was closed"),
    ],
)
def test_what_can_go_wrong_is_told(answer: bytes, word: str, tmp_path: Path) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer)

    with guest(act, tmp_path) as port, pytest.raises(IdentityFailure, match=word) as caught:
        port.run("true\n", 5.0)
    assert "\x1b" not in str(caught.value.details)


def test_a_guest_that_does_not_answer(tmp_path: Path) -> None:
    def act(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    with guest(act, tmp_path) as port:
        with pytest.raises(IdentityFailure, match="does not answer"):
            port.refresh(0.1)
        with pytest.raises(IdentityFailure, match="does not answer"):
            port.run("true\n", 0.1)
    with pytest.raises(IdentityFailure, match="can't reach"):
        IdentityPort(tmp_path / "nothing", "web")
