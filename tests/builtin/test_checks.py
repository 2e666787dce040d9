"""``qup doctor``'s own checks, on computers that aren't there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from qup import paths
from qup.api import Check, Finding, Host, HostError, Result, Verdict
from qup.builtin import checks

FAMILIES = sorted(checks.INSTALL)


@dataclass
class FakeHost:
    """A computer with the programs it is given."""

    system: str = "linux"
    arch: str = "x86_64"
    memory_mib: int = 16384
    programs: dict[str, str] = field(default_factory=dict)
    version: tuple[int, int, int] | HostError = (7, 2, 22)

    def which(self, program: str) -> Path | None:
        found = self.programs.get(program)
        return Path(found) if found else None

    def qemu_version(self, program: str) -> tuple[int, int, int]:
        if isinstance(self.version, HostError):
            raise self.version
        return self.version

    def qemu_supports(self, program: str, accelerator: str) -> bool:
        return True

    def prove(self, program: str, properties: Mapping[str, str], cpu: str) -> Verdict:
        return Verdict(False, "nothing runs here")


def host_with(*programs: str) -> FakeHost:
    return FakeHost(programs={name: f"/usr/bin/{name}" for name in programs})


def the_one(findings: object) -> Finding:
    assert isinstance(findings, list)
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make this computer one of a family, by its ID in ``os-release``."""

    def become(name: str, like: str = "") -> None:
        release = {"ID": name, "ID_LIKE": like}
        monkeypatch.setattr(checks.platform, "freedesktop_os_release", lambda: release)

    become("debian")
    return become


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may do everything, so access is decided by the mode bits of the owner."""

    def access(path: os.PathLike[str], mode: int) -> bool:
        return (Path(path).stat().st_mode >> 6) & mode == mode

    monkeypatch.setattr(checks.os, "access", access)


# --- all of them --------------------------------------------------------------------------


def test_names_are_unique_and_every_check_is_typed() -> None:
    found = checks.qup_checks()
    assert all(isinstance(check, Check) for check in found)
    assert len({check.name for check in found}) == len(found)


@pytest.mark.parametrize("check", checks.qup_checks(), ids=lambda check: check.name)
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_every_check_copes_with_an_empty_computer(
    check: Check, system: str, family: Callable[[str], None]
) -> None:
    host: Host = FakeHost(system=system)
    for finding in check.run(host):
        assert finding.status == "ok" or finding.hint, finding
        assert "\n" not in finding.message


@pytest.mark.parametrize("check", checks.qup_checks(), ids=lambda check: check.name)
def test_no_check_writes_anything(check: Check, family: Callable[[str], None]) -> None:
    before = sorted(Path.home().parent.rglob("*"))
    check.run(FakeHost())
    assert sorted(Path.home().parent.rglob("*")) == before


# --- programs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "program", "package"),
    [
        (checks.check_qemu, "qemu-system-x86_64", "qemu-system-x86"),
        (checks.check_qemu_img, "qemu-img", "qemu-utils"),
        (checks.check_ssh, "ssh", "openssh-client"),
    ],
)
def test_a_missing_program_names_its_package(
    check: Callable[[Host], object],
    program: str,
    package: str,
    family: Callable[[str], None],
) -> None:
    finding = the_one(check(FakeHost()))
    assert finding.status == "problem"
    assert finding.message.startswith(f"{program} is missing")
    assert finding.packages == (package,)
    assert package in str(finding.hint)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("debian", "macos")])
@pytest.mark.parametrize(
    "program", ["qemu-system-x86_64", "qemu-system-aarch64", "qemu-img", "ssh"]
)
def test_other_systems_get_their_own_words(
    name: str, program: str, family: Callable[[str], None]
) -> None:
    family(name)
    hint, packages = checks.advise_package(FakeHost(), program)
    assert hint == f"{checks.INSTALL[name]} {checks.PACKAGES[program][name]}"
    assert packages == (), "doctor --fix must not call apt there"


@pytest.mark.parametrize(
    ("name", "like", "expected"),
    [
        ("debian", "", "debian"),
        ("ubuntu", "debian", "debian"),
        ("linuxmint", "ubuntu debian", "debian"),
        ("rocky", "rhel centos fedora", "fedora"),
        ("opensuse-tumbleweed", "opensuse suse", "suse"),
        ("manjaro", "arch", "arch"),
        ("alpine", "", "alpine"),
        ("plan9", "", None),
    ],
)
def test_families_by_os_release(
    name: str, like: str, expected: str | None, family: Callable[..., None]
) -> None:
    family(name, like)
    assert checks.find_family("linux") == expected
    assert checks.find_family("darwin") == "macos"


def test_no_os_release(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise FileNotFoundError("/etc/os-release")

    monkeypatch.setattr(checks.platform, "freedesktop_os_release", fail)
    hint, packages = checks.advise_package(FakeHost(), "qemu-img")
    assert "Debian calls qemu-utils" in hint
    assert packages == ()


def test_a_processor_that_nobody_listed(family: Callable[[str], None]) -> None:
    finding = the_one(checks.check_qemu(FakeHost(arch="riscv64")))
    assert finding.packages == ("qemu-system",)


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ((5, 2, 0), "problem"),
        ((6, 1, 9), "problem"),
        ((6, 2, 0), "warning"),
        ((7, 2, 0), "ok"),
        ((11, 0, 0), "ok"),
        (HostError("it is no QEMU", hint="look at it"), "problem"),
    ],
)
def test_versions_of_qemu(version: tuple[int, int, int] | HostError, status: str) -> None:
    host = host_with("qemu-system-x86_64")
    host.version = version
    assert the_one(checks.check_qemu(host)).status == status


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u6, OpenSSL 3.0.17 1 Jul 2025", "ok"),
        ("OpenSSH_10.0p2, LibreSSL 3.3.6", "ok"),
        ("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", "ok"),
        ("OpenSSH_6.6.1p1, OpenSSL 1.0.1e", "warning"),
        ("Dropbear v2022.83", "warning"),
        ("", "warning"),
    ],
)
def test_versions_of_ssh(said: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "run", lambda argv, **_: Result(("ssh", "-V"), 0, "", said + "\n"))
    assert the_one(checks.check_ssh(host_with("ssh"))).status == status


def test_an_ssh_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(argv: object, **_: object) -> Result:
        raise HostError("ssh did not finish within 5 s", hint="look at it")

    monkeypatch.setattr(checks, "run", hang)
    assert the_one(checks.check_ssh(host_with("ssh"))).status == "problem"


def test_tools_in_the_folders_of_root_are_found() -> None:
    host = FakeHost(
        programs={
            "apt-get": "/usr/bin/apt-get",
            "dpkg-deb": "/usr/bin/dpkg-deb",
            "/usr/sbin/mke2fs": "/usr/sbin/mke2fs",
        }
    )
    assert the_one(checks.check_tiny_tools(host)).status == "ok"


def test_tiny_names_each_missing_package(family: Callable[[str], None]) -> None:
    found = checks.check_tiny_tools(host_with("apt-get"))
    assert [finding.packages for finding in found] == [("dpkg",), ("e2fsprogs",)]


def test_mmdebstrap_is_worth_a_note(family: Callable[[str], None]) -> None:
    family("debian")
    finding = the_one(checks.check_debian_tools(host_with()))
    assert (finding.status, finding.packages) == ("note", ())
    assert "mmdebstrap" in str(finding.hint)
    assert the_one(checks.check_debian_tools(host_with("mmdebstrap"))).status == "ok"
    family("fedora")
    assert list(checks.check_debian_tools(host_with())) == []


def test_tiny_elsewhere_is_no_problem(family: Callable[[str], None]) -> None:
    family("fedora")
    finding = the_one(checks.check_tiny_tools(FakeHost()))
    assert finding.status == "warning"
    assert finding.packages == ()


# --- the computer -------------------------------------------------------------------------


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "kvm"
    monkeypatch.setattr(checks, "KVM", device)
    return device


def test_no_kvm(kvm: Path) -> None:
    finding = the_one(checks.check_kvm_device(FakeHost()))
    assert finding.status == "warning"
    assert "--device" in str(finding.hint)


def test_kvm_elsewhere_is_nobody_s_business(kvm: Path) -> None:
    assert checks.check_kvm_device(FakeHost(system="darwin")) == []


def test_kvm_that_opens(kvm: Path) -> None:
    kvm.touch(mode=0o600)
    assert the_one(checks.check_kvm_device(FakeHost())).status == "ok"


def test_kvm_of_a_group(kvm: Path, user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kvm.touch()
    kvm.chmod(0o060)
    real = kvm.stat()
    fields = list(real)
    fields[5] = 104  # its group
    monkeypatch.setattr(type(kvm), "stat", lambda *_, **__: os.stat_result(fields))
    monkeypatch.setattr(type(kvm), "exists", lambda *_, **__: True)
    monkeypatch.setattr(checks, "_group_name", lambda gid: {104: "kvm"}[gid])
    finding = the_one(checks.check_kvm_device(FakeHost()))
    assert finding.status == "warning"
    assert "usermod -aG kvm" in str(finding.hint)


def test_kvm_of_root_alone(kvm: Path, user: None) -> None:
    kvm.touch()
    kvm.chmod(0)
    finding = the_one(checks.check_kvm_device(FakeHost()))
    assert finding.status == "warning"
    assert "administrator" in str(finding.hint)


@pytest.mark.parametrize(
    ("free", "status"), [(100, "problem"), (500, "warning"), (1024, "ok"), (9999, "ok")]
)
def test_free_memory(
    free: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:   {free * 1024} kB\n")
    monkeypatch.setattr(checks, "MEMINFO", meminfo)
    monkeypatch.setattr(checks, "CGROUP", tmp_path)
    assert the_one(checks.check_memory(FakeHost())).status == status


def test_a_container_s_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(checks, "CGROUP", tmp_path)
    assert checks.find_free_memory(FakeHost()) == 16384
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{100 << 20}\n")
    assert checks.find_free_memory(FakeHost()) == 16384
    (tmp_path / "memory.max").write_text(f"{600 << 20}\n")
    assert checks.find_free_memory(FakeHost()) == 500


# --- folders ------------------------------------------------------------------------------


VARIABLES = {
    "as it is": {},
    "QUP": {"QUP_RUNTIME_DIR": "/tmp/r", "QUP_CACHE_DIR": "/tmp/c"},
    "relative": {"QUP_RUNTIME_DIR": "r", "QUP_CACHE_DIR": "c"},
    "XDG": {"XDG_RUNTIME_DIR": "/tmp", "XDG_CACHE_HOME": "/tmp/c"},
    "no such XDG": {"XDG_RUNTIME_DIR": "/nowhere"},
    "long XDG": {"XDG_RUNTIME_DIR": "long"},
    "empty": {"XDG_RUNTIME_DIR": "", "XDG_CACHE_HOME": "", "QUP_CACHE_DIR": ""},
}


@pytest.mark.parametrize("variables", VARIABLES.values(), ids=VARIABLES)
def test_folders_are_those_of_qup_paths(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("QUP_RUNTIME_DIR", "QUP_CACHE_DIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if variables.get("XDG_RUNTIME_DIR") == "long":
        folder = tmp_path / ("x" * 80)
        folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert checks.find_runtime_folder() == paths.runtime_root()
    assert checks.find_cache_folder(sys.platform) == paths.cache_root()


@pytest.fixture
def runtime(sandbox: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path.home() / "r"
    monkeypatch.setenv("QUP_RUNTIME_DIR", str(folder))
    return folder


def test_a_runtime_folder_to_be(runtime: Path) -> None:
    assert the_one(checks.check_runtime_folder(FakeHost())).status == "ok"
    assert not runtime.exists()


def test_a_private_runtime_folder(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    assert the_one(checks.check_runtime_folder(FakeHost())).status == "ok"


def test_a_runtime_folder_open_to_all(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o755)
    finding = the_one(checks.check_runtime_folder(FakeHost()))
    assert finding.status == "warning"
    assert finding.fix == ("chmod", "700", str(runtime))


def test_a_runtime_folder_that_is_a_link(runtime: Path) -> None:
    runtime.symlink_to(Path.home())
    assert the_one(checks.check_runtime_folder(FakeHost())).status == "problem"


def test_a_runtime_folder_that_is_read_only(runtime: Path, user: None) -> None:
    runtime.mkdir(mode=0o500)
    assert the_one(checks.check_runtime_folder(FakeHost())).status == "problem"


def test_a_runtime_folder_in_a_read_only_place(runtime: Path, user: None) -> None:
    Path.home().chmod(0o500)
    assert the_one(checks.check_runtime_folder(FakeHost())).status == "problem"


def test_a_runtime_folder_with_a_long_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUP_RUNTIME_DIR", "/tmp/" + "x" * 80)
    finding = the_one(checks.check_runtime_folder(FakeHost()))
    assert finding.status == "problem"
    assert "too long" in finding.message


@pytest.mark.parametrize(
    ("free_mib", "status"), [(10, "problem"), (1000, "warning"), (50_000, "ok")]
)
def test_space_in_the_cache(free_mib: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=free_mib << 20)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage)
    assert the_one(checks.check_cache_folder(FakeHost())).status == status


def test_a_cache_that_is_read_only(user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path.home() / "cache"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("QUP_CACHE_DIR", str(folder / "deep" / "down"))
    assert the_one(checks.check_cache_folder(FakeHost())).status == "problem"


def test_a_cache_that_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path.home() / "cache"
    file.touch()
    monkeypatch.setenv("QUP_CACHE_DIR", str(file))
    assert the_one(checks.check_cache_folder(FakeHost())).status == "problem"


# --- people -------------------------------------------------------------------------------


def test_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "geteuid", lambda: 0)
    assert "nothing in qup needs it" in the_one(checks.check_user(FakeHost())).message
    monkeypatch.setattr(checks.os, "geteuid", lambda: 1000)
    assert "ordinary" in the_one(checks.check_user(FakeHost())).message


def test_an_encoding_that_garbles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.sys, "getfilesystemencoding", lambda: "ascii")
    assert the_one(checks.check_encoding(FakeHost())).status == "warning"
