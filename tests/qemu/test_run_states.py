"""qup's table of run states against the QEMU of this computer."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qup.model.runstate import RUN_STATES, Way, explain_run_state
from qup.qemu.qmp import Qmp


def test_every_state_that_up_refuses_says_what_to_do() -> None:
    for name, state in RUN_STATES.items():
        if state.way is not Way.NONE:
            assert state.meaning, name
            assert state.advice, name


def test_a_state_of_the_future_is_its_own_word() -> None:
    state = explain_run_state("teleported")
    assert (state.word, state.way) == ("teleported", Way.REFUSE)
    assert state.detail


@pytest.mark.qemu
def test_the_table_has_the_states_that_qemu_names(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "qmp"))
        listener.listen()
        handle = listener.fileno()
        words = ["-M", "none", "-nodefaults", "-display", "none", "-mon", "chardev=q,mode=control"]
        process = subprocess.Popen(
            ["qemu-system-x86_64", *words, "-chardev", f"socket,id=q,fd={handle},server=on"],
            pass_fds=(handle,),
        )
    try:
        with Qmp.connect(tmp_path / "qmp", timeout=20) as monitor:
            schema: list[dict[str, Any]] = monitor.execute("query-qmp-schema", timeout=20)
            monitor.execute("quit")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    kinds = {item["name"]: item for item in schema}
    answer = kinds[kinds["query-status"]["ret-type"]]
    (status,) = [item for item in answer["members"] if item["name"] == "status"]
    assert set(RUN_STATES) >= set(kinds[status["type"]]["values"])
