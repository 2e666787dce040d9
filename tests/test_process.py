"""The one door for other programs: those that are followed while they run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from qup.errors import HostError
from qup.process import follow


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_lines_arrive_while_the_program_runs() -> None:
    seen: list[tuple[str, float]] = []
    code = (
        "import sys,time; print('one', flush=True); time.sleep(0.3); print('two',file=sys.stderr)"
    )
    result = follow(python(code), lambda line: seen.append((line, time.monotonic())), timeout=20)
    assert [line for line, _ in seen] == ["one", "two"]
    assert seen[1][1] - seen[0][1] > 0.1
    assert (result.code, result.stdout) == (0, "one\ntwo")


def test_a_failure_is_the_callers_business() -> None:
    assert follow(python("import sys; sys.exit(3)"), print, timeout=20).code == 3


def test_a_program_that_takes_too_long_is_ended() -> None:
    begin = time.monotonic()
    with pytest.raises(HostError, match=r"did not finish within 0\.3 s"):
        follow(python("import time; time.sleep(60)"), print, timeout=0.3)
    assert time.monotonic() - begin < 15


def test_an_error_of_the_callers_ends_the_program(tmp_path: Path) -> None:
    def refuse(line: str) -> None:
        raise RuntimeError(line)

    code = "import os,time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(RuntimeError) as caught:
        follow(python(code), refuse, timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(caught.value)), 0)


def test_open_files_are_handed_over(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        code = f"import os; os.write({file.fileno()}, b'hello')"
        follow(python(code), print, descriptors=[file.fileno()], timeout=20)
    assert (tmp_path / "file").read_bytes() == b"hello"


def test_only_the_last_lines_are_kept() -> None:
    result = follow(python("print('x\\n' * 5000)"), lambda _: None, timeout=20)
    assert result.stdout.count("\n") < 300


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(HostError, match="no-such-program"):
        follow(["no-such-program"], print, timeout=1)
