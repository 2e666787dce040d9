"""What serves folders beside QEMU: it lives as long as the connection, whoever closes that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qup import namespaces
from qup.errors import HostError
from qup.model.folders import Server
from qup.namespaces import View
from qup.paths import RuntimeFolder
from qup.qemu import servers
from qup.qemu.servers import connect_servers

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        namespaces.find_obstacle() is not None, reason=namespaces.find_obstacle() or ""
    ),
]

VIEWS = {"folder0": View(1000, 1000)}
SERVE = """
import os, socket
connection, _ = socket.socket(fileno=0).accept()
caps = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
connection.sendall(f"{os.getuid()} {int(caps[0], 16) > 0}".encode())
connection.recv(1)
print("the end")
"""


def python(script: str, *, privileged: bool = False) -> dict[str, Server]:
    return {"folder0": Server((sys.executable, "-I", "-c", script), privileged)}


@pytest.mark.parametrize("privileged", [False, True])
def test_it_has_a_connection_and_ends_with_it(tmp_path: Path, *, privileged: bool) -> None:
    log = tmp_path / "log"
    script = python(SERVE, privileged=privileged)
    with connect_servers(script, VIEWS, RuntimeFolder(tmp_path)) as serving:
        assert not (tmp_path / "server").exists(), "nobody else finds it"
        serving.start(log)
        said = os.read(serving.ends["folder0"], 100)
        assert said.decode() == f"1000 {privileged}"
    serving.end()
    (process,) = serving.processes
    assert process.returncode == 0
    assert log.read_text() == "the end\n"


def test_a_start_that_fails_ends_what_was_started(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        connect_servers(python(SERVE), VIEWS, RuntimeFolder(tmp_path)) as serving,
    ):
        serving.start(tmp_path / "log")
        raise RuntimeError
    assert [process.returncode for process in serving.processes] != [None]


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "END_TIMEOUT", 0.1)
    script = python("import signal; signal.pause()")
    with connect_servers(script, VIEWS, RuntimeFolder(tmp_path)) as serving:
        serving.start(tmp_path / "log")
    serving.end()
    assert [process.returncode for process in serving.processes] == [-9]


def test_one_that_is_not_there(tmp_path: Path) -> None:
    gone = {"folder0": Server(("/no/such/virtiofsd",))}
    with (
        pytest.raises(HostError, match="not found"),
        connect_servers(gone, VIEWS, RuntimeFolder(tmp_path)) as serving,
    ):
        serving.start(tmp_path / "log")
