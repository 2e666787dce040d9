"""ssh on a real guest: variables, forwarding, and programs that use the configuration as it is."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, wait_until

pytestmark = pytest.mark.vm

VARIABLES = """
[machine.env]
GREETING = "it's $HOME\\nand more"
PORT = 8080
"""


@pytest.fixture
def lab(shared: Lab) -> Lab:
    shared.write(SMALL)
    return shared


def test_variables(lab: Lab) -> None:
    step = """
[[machine.provision]]
shell = 'echo "$(id -un) $GREETING $PORT"'
[[machine.provision]]
shell = { inline = 'echo $PORT', env = { PORT = "1" }, user = "nobody" }
"""
    lab.write(SMALL + VARIABLES + step)
    lab("up").ok()
    logs = lab.machine() / "logs"
    assert (logs / "provision-1.log").read_text() == "root it's $HOME\nand more 8080\n"
    assert (logs / "provision-2.log").read_text() == "1\n"
    assert lab.sh('echo "$GREETING"') == "it's $HOME\nand more\n"
    assert "PORT=8080" in lab("ssh", "--", "env").ok().stdout
    assert lab("ssh", "--", "sh", "-c", "exit 7").code == 7
    # A login shell reads it itself.
    assert lab("ssh", "-T", input="echo $PORT; exit 3\n").stdout.endswith("8080\n")
    assert lab.sh("env -i sh -lc 'echo $PORT'") == "8080\n"

    lab.write(SMALL + VARIABLES.replace("8080", "9090") + step)
    lab("up").ok()
    assert lab.sh("echo $PORT") == "9090\n"
    assert (logs / "provision-1.log").read_text().endswith("9090\n")  # it depends on them
    lab.write(SMALL)
    lab("up").ok()
    assert lab.sh("echo $PORT; ls /etc/profile.d") == "\n"


# --- forwarding ---------------------------------------------------------------------------


@contextmanager
def forwarding(lab: Lab, *options: str) -> Iterator[bool]:
    """ssh with a forward, which is open when the command's first line is there; whether it is."""
    process = lab.spawn(
        "ssh", "default", *options, "--", "echo ready; cat",
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield process.stdout.readline() == "ready\n"
        process.stdin.close()


def read_banner(connection: socket.socket) -> str:
    with connection.makefile("r", errors="replace") as file:
        return file.readline()


def test_local_forward(lab: Lab) -> None:
    """It goes with the command, though connections are shared."""
    path = str(lab.box.root / "local.sock")
    for _ in range(2):
        with forwarding(lab, "-L", f"{path}:127.0.0.1:22"), socket.socket(socket.AF_UNIX) as one:
            one.connect(path)
            assert read_banner(one).startswith("SSH-2.0-")
        with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError):
            one.connect(path)
        Path(path).unlink(missing_ok=True)


def test_remote_forward(lab: Lab) -> None:
    path = str(lab.box.root / "remote.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with forwarding(lab, f"-R17000:{path}"):
            asks = lab.spawn("ssh", "default", "--", "nc 127.0.0.1 17000 </dev/null")
            server.settimeout(60)
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"from the host\n")
            said, _ = asks.communicate()
            assert said == "from the host\n"
        ask = "nc 127.0.0.1 17000 </dev/null 2>/dev/null || echo gone"
        assert wait_until(lambda: lab.sh(ask) == "gone\n", 60)  # the guest takes a moment


def test_dynamic_forward(lab: Lab) -> None:
    for port in range(23000, 23100):  # whoever has one of them, ssh says so and ends
        with forwarding(lab, "-o", "ExitOnForwardFailure=yes", "-D", str(port)) as ready:
            if not ready:
                continue
            with socket.create_connection(("127.0.0.1", port)) as one:
                one.sendall(b"\x05\x01\x00")  # RFC 1928: no password
                assert one.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
                one.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + (22).to_bytes(2, "big"))
                assert one.recv(10, socket.MSG_WAITALL)[1] == 0
                assert read_banner(one).startswith("SSH-2.0-")
            return
    pytest.fail("no port was free")


def test_other_options_are_sshs_own(lab: Lab) -> None:
    assert lab("ssh", "-o", "LogLevel=DEBUG1", "-4", "--", "true").ok().stderr.count("debug1")
    assert lab("ssh", "default", "-G").ok().stdout.splitlines()[0].startswith("host ")
    done = lab("ssh", "-W", "127.0.0.1:22", "default", input="")
    assert done.stdout.startswith("SSH-2.0-"), done
    assert lab("ssh", "-tt", "--", "tty").ok().stdout.startswith("/dev/pts/")
    assert lab("ssh", "-Z", "--", "true").code == 255
