"""No test can touch the user's home, environment or network by accident."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qup import paths
from tests.conftest import PROXY_TO_NOWHERE, ROOT, Sandbox, find_processes, kill_leaks

pytestmark = pytest.mark.filterwarnings("error")


def test_home_is_ours(sandbox: Sandbox) -> None:
    assert Path.home() == sandbox.home
    assert Path("~/x").expanduser() == sandbox.home / "x"
    assert Path.cwd() == sandbox.home


@pytest.mark.parametrize(
    "root", [paths.cache_root, paths.state_root, paths.config_root, paths.runtime_root]
)
@pytest.mark.parametrize("named", [True, False], ids=["QUP_*", "XDG_*"])
def test_every_folder_of_qup_is_ours(
    root: Callable[[], Path], named: bool, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not named:
        for name in list(os.environ):
            if name.startswith("QUP_"):
                monkeypatch.delenv(name)
    assert root().is_relative_to(sandbox.root)


def test_temporary_files_are_ours(sandbox: Sandbox) -> None:
    assert Path(tempfile.gettempdir()).is_relative_to(sandbox.root)


def test_children_inherit_it(sandbox: Sandbox) -> None:
    code = "from pathlib import Path; import os; print(Path.home(), os.environ['QUP_CACHE_DIR'])"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(Path(word).is_relative_to(sandbox.root) for word in said)


def test_only_our_own_settings_of_qup_are_set(sandbox: Sandbox) -> None:
    ours = {name for name in sandbox.variables() if name.startswith("QUP_")}
    assert {name for name in os.environ if name.startswith("QUP_")} == ours


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_left_for_the_next_test(number: int) -> None:
    mark = Path.home() / "mark"
    assert not mark.exists()
    mark.touch()


def test_sockets_fit(sandbox: Sandbox) -> None:
    path = paths.runtime_folder("0" * 12).ssh_master
    assert len(os.fsencode(path)) + 17 <= paths.SOCKET_PATH_LIMIT


# 192.0.2.1 is nobody's: RFC 5737 keeps it for documentation.
def test_the_network_is_out_of_reach() -> None:
    with socket.socket() as client, pytest.raises(PermissionError, match=r"192\.0\.2\.1"):
        client.connect(("192.0.2.1", 80))
    with socket.socket() as client, pytest.raises(PermissionError):
        client.connect_ex(("192.0.2.1", 80))
    assert os.environ["HTTPS_PROXY"] == os.environ["https_proxy"] == PROXY_TO_NOWHERE


def test_this_computer_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_a_project_is_a_folder_of_our_own(project: Callable[..., Path], sandbox: Sandbox) -> None:
    folder = project("[machine]\n")
    assert folder.is_relative_to(sandbox.root)
    assert Path.cwd() == folder
    assert not folder.is_relative_to(ROOT)


@pytest.mark.parametrize("how", ["command line", "environment"])
def test_a_leaked_process_is_found_and_killed(how: str, sandbox: Sandbox) -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    mark = str(sandbox.root / "leak")
    words, variables = ([mark], {}) if how == "command line" else ([], {"MARK": mark})
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid in find_processes(mark)
        assert len(kill_leaks(mark, patience=0)) == 1
        process.wait(5)
        assert find_processes(mark) == {}
