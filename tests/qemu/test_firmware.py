"""Firmware is found by the descriptors that its packages bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qup.qemu.firmware import FirmwareFiles, descriptor_folders, find_firmware

Q35 = "pc-q35-7.2"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("usr", "etc", "home")]
    for folder in made:
        folder.mkdir()
    for name in ("code", "vars"):
        (tmp_path / name).write_bytes(b"x")
    return made


def write(path: Path, description: str = "plain", **more: Any) -> None:
    root = path.parent.parent
    descriptor = {
        "description": description,
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(root / "code"), "format": "raw"},
            "nvram-template": {"filename": str(root / "vars"), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3"],
        "tags": [],
        **more,
    }
    path.write_text(json.dumps(descriptor))


def find(folders: list[Path], arch: str = "x86_64", machine: str = Q35) -> str | None:
    found = find_firmware(folders, arch, machine)
    return found and found.description


def test_what_fits_is_found(folders: list[Path], tmp_path: Path) -> None:
    write(folders[0] / "60-a.json")
    assert find_firmware(folders, "x86_64", Q35) == FirmwareFiles(
        "plain", tmp_path / "code", "raw", tmp_path / "vars", "raw"
    )
    assert find(folders, "aarch64", "virt-7.2") is None
    assert find(folders, "x86_64", "microvm") is None


def test_names_say_what_is_tried_first(folders: list[Path]) -> None:
    write(folders[0] / "60-a.json", "sixty")
    write(folders[1] / "50-b.json", "fifty")
    write(folders[2] / "70-c.json", "seventy")
    assert find(folders) == "fifty"


def test_a_later_folder_overrides_and_masks(folders: list[Path]) -> None:
    write(folders[0] / "50-a.json", "theirs")
    write(folders[0] / "60-b.json", "other")
    write(folders[1] / "50-a.json", "the administrator's")
    assert find(folders) == "the administrator's"
    (folders[2] / "50-a.json").write_bytes(b"")
    assert find(folders) == "other"


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": ["secure-boot", "requires-smm"]},
        {"features": ["enrolled-keys"]},
        {"interface-types": ["bios"]},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"mapping": {"device": "flash", "mode": "stateless"}},
        {"targets": []},
        {"targets": None},
        {"targets": [{"architecture": "x86_64"}]},
        {"features": 3},
    ],
)
def test_what_does_not_serve_is_passed_over(folders: list[Path], wrong: dict[str, Any]) -> None:
    write(folders[0] / "50-a.json", "wrong", **wrong)
    write(folders[0] / "60-b.json", "right")
    assert find(folders) == "right"


@pytest.mark.parametrize("content", [b"\xff", b"[" * 10_000, b"[]", b"3", b"{}", b'{"a": '])
def test_a_broken_descriptor_is_passed_over(folders: list[Path], content: bytes) -> None:
    (folders[0] / "50-a.json").write_bytes(content)
    write(folders[0] / "60-b.json", "right")
    assert find(folders) == "right"


def test_firmware_whose_file_is_gone_is_passed_over(folders: list[Path], tmp_path: Path) -> None:
    write(folders[0] / "50-a.json")
    (tmp_path / "vars").unlink()
    assert find(folders) is None


def test_folders_and_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/me/.config")
    assert list(map(str, descriptor_folders(Path("/opt/qemu/bin/qemu-system-x86_64")))) == [
        "/opt/qemu/share/qemu/firmware",
        "/usr/share/qemu/firmware",
        "/etc/qemu/firmware",
        "/home/me/.config/qemu/firmware",
    ]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert descriptor_folders()[-1] == tmp_path / ".config/qemu/firmware"
