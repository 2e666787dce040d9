"""ssh on a real guest: variables, forwarding, and programs that use the configuration as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import SMALL, Lab, open_lab

pytestmark = pytest.mark.vm

VARIABLES = """
[machine.env]
GREETING = "it's $HOME\\nand more"
PORT = 8080
"""


@pytest.fixture(scope="module")
def shared(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache) as made:
        made("up").ok()
        yield made


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
