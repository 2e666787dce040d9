"""Facts about the computer: what is asked, what is remembered, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qup import host as host_module
from qup.api import Host, Verdict
from qup.errors import HostError
from qup.host import LocalHost, boot_id
from qup.qemu.probe import Outcome

FAKE = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
    --version) echo "QEMU emulator version 8.2.4 (Debian 1:8.2.4+ds-1)" ;;
    "-machine help")
        echo "Supported machines are:"
        echo "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-8.2)"
        echo "pc-i440fx-8.2        Standard PC (i440FX + PIIX, 1996) (default)"
        echo "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-8.2)"
        echo "pc-q35-8.2           Standard PC (Q35 + ICH9, 2009)" ;;
    "-accel help")
        echo "Accelerators supported in QEMU binary:"
        echo "tcg"
        echo "kvm" ;;
    "-display help")
        echo "Available display backend types:"
        echo "none"
        echo "gtk"
        echo
        echo "Some display backends support suboptions, which can be set with" ;;
esac
"""

Make = Callable[..., str]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def make(tmp_path: Path, log: Path) -> Make:
    def program(script: str = FAKE, name: str = "qemu-system-x86_64") -> str:
        path = tmp_path / name
        path.write_text(script.replace("{log}", str(log)))
        path.chmod(0o755)
        return str(path)

    return program


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "facts.json"


def test_it_is_a_host(cache: Path) -> None:
    host: Host = LocalHost(cache)
    assert host.system == sys.platform
    assert host.arch
    assert host.memory_mib > 16
    assert host.which("sh") == Path(str(shutil.which("sh")))
    assert host.which("no-such-program") is None


def test_cache_is_the_users_own() -> None:
    assert LocalHost()._cache_path == Path(os.environ["QUP_CACHE_DIR"]) / "host" / "facts.json"


def test_facts(cache: Path, make: Make) -> None:
    host, program = LocalHost(cache), make()
    assert host.qemu_version(program) == (8, 2, 4)
    assert host.qemu_supports(program, "kvm")
    assert not host.qemu_supports(program, "hvf")
    assert host.machine_type(program, "q35") == "pc-q35-8.2"
    assert host.machine_type(program, "pc-i440fx-8.2") == "pc-i440fx-8.2"
    assert host.machine_types(program)["pc"] == "pc-i440fx-8.2"
    with pytest.raises(HostError, match="no machine type 'q36'") as caught:
        host.machine_type(program, "q36")
    assert caught.value.hint == "did you mean 'q35'?"


def test_each_question_is_asked_once(cache: Path, make: Make, log: Path) -> None:
    program = make()
    for _ in range(2):
        host = LocalHost(cache)
        host.qemu_version(program)
        host.qemu_supports(program, "kvm")
        assert host.display_types(program) == ("none", "gtk")
    asked = ["--version", "-accel help", "-display help", "-machine help"]
    assert sorted(log.read_text().splitlines()) == asked


def test_a_window_that_was_installed_since_is_found(
    cache: Path, make: Make, tmp_path: Path
) -> None:
    module = tmp_path / "module"
    program = make(FAKE.replace('echo "gtk"', f"cat {module} 2>/dev/null"))
    assert LocalHost(cache).display_types(program) == ("none",)
    module.write_text("gtk\n")  # the program is the same, and so is what is known of it
    host = LocalHost(cache)
    assert host.display_types(program) == ("none",)
    assert host.display_types(program, wanted=("sdl", "gtk")) == ("none", "gtk")
    assert LocalHost(cache).display_types(program) == ("none", "gtk")


def test_questions_are_asked_at_once(cache: Path, make: Make) -> None:
    program = make(FAKE.replace("case", "sleep 0.5\ncase", 1))
    begin = time.monotonic()
    LocalHost(cache).qemu_version(program)
    assert time.monotonic() - begin < 1.2


def test_another_binary_is_asked_anew(cache: Path, make: Make) -> None:
    program = make()
    host = LocalHost(cache)
    assert host.qemu_version(program) == (8, 2, 4)
    make(FAKE.replace("8.2.4", "9.0.10"))
    assert host.qemu_version(program) == (9, 0, 10)
    assert LocalHost(cache).qemu_version(program) == (9, 0, 10)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"schema": 2, "programs": {}, "verdicts": {}}',
        b'{"schema": 1, "programs": [], "verdicts": {}}',
        b'{"schema": 1, "programs": {"x": {}}, "verdicts": {}}',
        b'{"schema": 1, "programs": {}, "verdicts": {"x": 1}}',
    ],
    ids=repr,
)
def test_damaged_cache_is_ignored(cache: Path, make: Make, content: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert LocalHost(cache).qemu_version(make()) == (8, 2, 4)
    assert json.loads(cache.read_bytes())["schema"] == host_module.SCHEMA


def test_cache_that_cannot_be_written(tmp_path: Path, make: Make) -> None:
    (tmp_path / "file").touch()
    assert LocalHost(tmp_path / "file" / "facts.json").qemu_version(make()) == (8, 2, 4)


def test_missing_program_names_its_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="'qemu-system-x86_64' was not found") as caught:
        LocalHost(cache).qemu_version("qemu-system-x86_64")
    assert "apt install qemu-system-x86" in str(caught.value.hint)
    with pytest.raises(HostError) as caught:
        LocalHost(cache).qemu_version("qemu-system-aarch64")
    assert "apt install qemu-system-arm" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho hello", "is not QEMU: it does not say"),
        ("#!/bin/sh\nhead -c 100000 /dev/urandom", "is not QEMU: it does not say"),
        ("#!/bin/sh\necho broken >&2; exit 1", "failed"),
        ("#!/bin/sh\nkill -SEGV $$", "SIGSEGV"),
        ("#!/no/such/interpreter\n", "not found|can't be executed"),
        ("\x7fELFjunk", "can't be executed|failed|is not QEMU"),
    ],
    ids=["hello", "noise", "fails", "crashes", "no-interpreter", "no-program"],
)
def test_program_that_is_no_qemu(cache: Path, make: Make, script: str, said: str) -> None:
    with pytest.raises(HostError, match=said) as caught:
        LocalHost(cache).qemu_version(make(script))
    assert caught.value.hint
    assert not cache.exists()


def test_program_that_hangs(cache: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "QUESTION_TIMEOUT", 0.3)
    begin = time.monotonic()
    with pytest.raises(HostError, match="did not finish"):
        LocalHost(cache).qemu_version(make("#!/bin/sh\nexec sleep 60"))
    assert time.monotonic() - begin < 3


def test_folder_or_plain_file_as_program(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for path in (tmp_path, tmp_path / "plain"):
        with pytest.raises(HostError, match="not a program that can be started") as caught:
            LocalHost(cache).qemu_version(str(path))
        assert caught.value.hint


# --- the accelerator's proof --------------------------------------------------------------


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []

    def fake(program: Path, properties: dict[str, str], cpu: str) -> Outcome:
        calls.append((properties["accel"], cpu))
        return Outcome(properties["accel"] == "tcg", "because", "a hint")

    monkeypatch.setattr(host_module, "run_probe", fake)
    return calls


def test_verdict_is_remembered(cache: Path, make: Make, probed: list[tuple[str, str]]) -> None:
    program = make()
    for _ in range(2):
        host = LocalHost(cache)
        assert host.prove(program, {"accel": "tcg"}, "max") == Verdict(True, "because", "a hint")
        assert not host.prove(program, {"accel": "kvm"}, "host").usable
        assert not host.prove(program, {"accel": "kvm"}, "max").usable
        assert not host.prove(program, {"accel": "kvm", "x": "y"}, "max").usable
    assert len(probed) == 4
    make(FAKE + "\n# newer")
    LocalHost(cache).prove(program, {"accel": "tcg"}, "max")
    assert len(probed) == 5


def test_what_a_program_prints_is_remembered_until_it_changes(cache: Path, make: Make) -> None:
    program = Path(make('#!/bin/sh\necho "said $*"; echo x >>$0.asked\n', "other"))
    for _ in range(2):
        assert LocalHost(cache).ask(program, "--help") == "said --help\n"
    assert LocalHost(cache).ask(program, "-V") == "said -V\n"
    assert Path(f"{program}.asked").read_text() == "x\nx\n"
    make("#!/bin/sh\necho no; exit 1\n", "other")
    assert LocalHost(cache).ask(program, "--help") == ""
    make("#!/bin/sh\necho now\n", "other")
    assert LocalHost(cache).ask(program, "--help") == "now\n"


def test_verdict_ends_with_the_boot(
    cache: Path, make: Make, probed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make()
    LocalHost(cache).prove(program, {"accel": "kvm"}, "host")
    LocalHost(cache).prove(program, {"accel": "kvm"}, "max")
    monkeypatch.setattr(host_module, "boot_id", lambda: "another")
    LocalHost(cache).prove(program, {"accel": "kvm"}, "host")
    assert len(probed) == 3
    verdicts = json.loads(cache.read_bytes())["verdicts"]
    assert [known["boot"] for known in verdicts.values()] == ["another"], "old ones are dropped"


def test_failure_is_remembered_for_an_hour(
    cache: Path, make: Make, probed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make()
    for accelerator in ("kvm", "tcg"):
        LocalHost(cache).prove(program, {"accel": accelerator}, "max")
    later = time.time() + host_module.FAILURE_LIFETIME + 1
    monkeypatch.setattr(time, "time", lambda: later)
    for accelerator in ("kvm", "tcg"):
        LocalHost(cache).prove(program, {"accel": accelerator}, "max")
    assert [accelerator for accelerator, _ in probed] == ["kvm", "tcg", "kvm"]


def test_boot_id_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert boot_id() == boot_id() != ""

    def refuse(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)  # no /proc
    assert boot_id().isdecimal()


@pytest.mark.qemu
def test_real_qemu(cache: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no qemu-system-x86_64")
    host = LocalHost(cache)
    version = host.qemu_version("qemu-system-x86_64")
    assert version >= (5, 0, 0)
    major, minor, _ = version
    assert host.machine_type("qemu-system-x86_64", "q35") == f"pc-q35-{major}.{minor}"
    assert host.qemu_supports("qemu-system-x86_64", "tcg")
    assert host.prove("qemu-system-x86_64", {"accel": "tcg"}, "max").usable


def test_the_resolvers_of_this_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr("qup.host._RESOLVERS", path)
    assert LocalHost().resolvers == ()
    path.write_text(
        "# a\nnameserver 192.0.2.1\nsearch x\n nameserver\t2001:db8::1 # b\nnameserver\n"
    )
    assert LocalHost().resolvers == ("192.0.2.1", "2001:db8::1")
