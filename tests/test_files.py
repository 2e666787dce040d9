from __future__ import annotations

import os
from pathlib import Path

import pytest

from qup.errors import ConfigError
from qup.files import read_text


def test_a_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("é\n")
    assert read_text(tmp_path / "a", "x", limit=3) == "é\n"


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def refuse(reason: str) -> None:
        with pytest.raises(ConfigError) as caught:
            read_text(path, "machine web: userdata", limit=1024)
        assert caught.value.message == f"machine web: userdata: {path} {reason}"

    refuse("can't be read: No such file or directory")
    path.mkdir()
    refuse("is a folder")
    path.rmdir()
    os.mkfifo(path)
    refuse("is not a file")
    path.unlink()
    path.write_bytes(b"\xff")
    refuse("is no text")
    path.write_text("x" * 1025)
    refuse("is too large: the most is 1 KiB")
