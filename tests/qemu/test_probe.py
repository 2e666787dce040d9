"""The accelerator probe: the image, and what is made of each way it can end."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from qup.qemu import probe

SOURCE = Path(probe.__file__).with_name("probe.S")
TCG = {"accel": "tcg"}


def program(folder: Path, script: str, name: str = "qemu-system-x86_64") -> Path:
    """A program that takes QEMU's place."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_image_is_what_the_source_says(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("as", "ld"))):
        pytest.skip("no binutils")
    steps = (
        f"as --64 -o probe.o {shlex.quote(str(SOURCE))}",
        "ld -m elf_x86_64 -Ttext=0xffe00 --oformat=binary -e start -o probe.bin probe.o",
    )
    for step in steps:
        done = subprocess.run(
            shlex.split(step), cwd=tmp_path, check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"this binutils does not make x86-64: {done.stderr}")
    assembled = (tmp_path / "probe.bin").read_bytes()
    assert probe.make_image() == assembled.rjust(probe.IMAGE_SIZE, b"\0")


def test_image_starts_at_the_reset_vector() -> None:
    image = probe.make_image()
    assert len(image) == probe.IMAGE_SIZE
    assert image[0xFFF0] == 0xEA, "a far jump"
    assert image[0xFFF1:0xFFF5] == bytes.fromhex("00fe00f0"), "to f000:fe00"
    assert image[0xFE00] == 0xFA, "where interrupts are switched off first"


@pytest.mark.qemu
@pytest.mark.parametrize("cpu", ["max", "qemu64"])
def test_emulation_passes(cpu: str) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("no qemu-system-x86_64")
    outcome = probe.run_probe(Path(qemu), TCG, cpu, timeout=20)
    assert outcome == probe.Outcome(True, "a tiny 64-bit guest ran under tcg")


@pytest.mark.qemu
def test_cpu_without_long_mode_fails() -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("no qemu-system-x86_64")
    outcome = probe.run_probe(Path(qemu), TCG, "qemu32", timeout=20)
    assert not outcome.usable
    assert "crashed" in outcome.reason


@pytest.mark.qemu
def test_missing_accelerator_in_qemus_words() -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("no qemu-system-x86_64")
    outcome = probe.run_probe(Path(qemu), {"accel": "nonsense"}, "max", timeout=20)
    assert not outcome.usable
    assert "invalid accelerator nonsense" in outcome.reason


def test_only_one_exit_code_is_success(tmp_path: Path) -> None:
    for code in (0, 1, 2, 43, 84, 86, 127, 255):
        qemu = program(tmp_path, f"exit {code}")
        assert not probe.run_probe(qemu, TCG, "max").usable, code
    assert probe.run_probe(program(tmp_path, "exit 85"), TCG, "max").usable


def test_hang_is_cut_short_and_leaves_nothing(tmp_path: Path) -> None:
    qemu = program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    begin = time.monotonic()
    outcome = probe.run_probe(qemu, {"accel": "kvm"}, "host", timeout=0.3)
    assert time.monotonic() - begin < 3
    assert not outcome.usable
    assert "hangs under kvm" in outcome.reason
    assert "nested" in str(outcome.hint)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_spinning_guest_ends_even_without_us(tmp_path: Path) -> None:
    qemu = program(tmp_path, f"ulimit -t > {tmp_path}/limit; exit 85")
    assert probe.run_probe(qemu, TCG, "max").usable
    assert (tmp_path / "limit").read_text().strip() == "10", "seconds of CPU"


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    def interrupt(*_: object, **__: object) -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        probe.run_probe(qemu, TCG, "max")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_abort_is_told_in_qemus_words(tmp_path: Path) -> None:
    script = "echo warning: x >&2; echo 'qemu: error: failed to set MSR 0x10a' >&2; kill -ABRT $$"
    outcome = probe.run_probe(program(tmp_path, script), {"accel": "kvm"}, "host")
    assert not outcome.usable
    assert outcome.reason == "QEMU says: qemu: error: failed to set MSR 0x10a"
    outcome = probe.run_probe(program(tmp_path, "kill -SEGV $$"), TCG, "max")
    assert outcome.reason == "QEMU ended with killed by SIGSEGV under tcg"


def test_other_architectures_are_not_proved(tmp_path: Path) -> None:
    qemu = program(tmp_path, "exit 85", "qemu-system-aarch64")
    emulated = probe.run_probe(qemu, TCG, "max")
    assert (emulated.usable, emulated.reason) == (
        True,
        "not proved: there is no probe for aarch64 guests",
    )
    assert not probe.run_probe(qemu, {"accel": "kvm"}, "host").usable


def test_program_that_is_missing(tmp_path: Path) -> None:
    outcome = probe.run_probe(tmp_path / "nothing", TCG, "max")
    assert not outcome.usable
    assert "nothing" in outcome.reason


def test_properties_become_one_option(tmp_path: Path) -> None:
    qemu = program(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/words; exit 85')
    probe.run_probe(qemu, {"accel": "tcg", "tb-size": "32"}, "max")
    assert (tmp_path / "words").read_text().splitlines()[:4] == [
        "-accel",
        "accel=tcg,tb-size=32",
        "-cpu",
        "max",
    ]
