"""Box tiny as a real guest under plain QEMU: what the recipe makes has to boot and to behave.

It is the box that other tests boot by qup, made from the apt sources of this computer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from qup.builtin.tiny import recipe
from tests.conftest import run_qup
from tests.vm.conftest import make_sandbox
from tests.vm.lab import make_box

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        not all(map(shutil.which, ("qemu-system-x86_64", "qemu-img", "apt-get", "ssh"))),
        reason="needs qemu-system-x86_64, qemu-img, apt-get and ssh",
    ),
]

BOOT_TIMEOUT = 60.0
"""Seconds for a guest that takes three on a quiet computer."""


@dataclass(frozen=True)
class Box:
    """What the recipe made, and where; ``details`` are the manifest's."""

    path: Path
    details: dict[str, Any]


@pytest.fixture(scope="module")
def box(vm_cache: Path, sandboxes: Path) -> Box:
    sandbox = make_sandbox(sandboxes)
    make_box(vm_cache, "tiny", sandbox)
    variables = {**sandbox.variables(), "QUP_CACHE_DIR": str(vm_cache)}
    done = run_qup("box", "path", "tiny", cwd=sandbox.home, env=variables).ok()
    path = Path(done.stdout.strip())
    return Box(path, json.loads((path / "box.json").read_bytes())["details"])


@dataclass
class Guest:
    """A machine of plain QEMU: a disk, a seed, one network card, and ssh to it."""

    box: Box
    folder: Path
    user_data: str = ""
    network: str | None = None
    disk_size: str | None = "2G"
    instance: str = "i-1"
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    started: float = 0.0
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("user", "host"):
            path = self.folder / name
            if not path.exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path],
                    check=True,
                )
        self.keys = [(self.folder / f"{name}.pub").read_text().strip() for name in ("user", "host")]
        (self.folder / "known_hosts").write_text(f"guest {self.keys[1]}\n")

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def console(self) -> str:
        return (self.folder / "console").read_text(errors="replace")

    def write_seed(self) -> None:
        private = json.dumps((self.folder / "host").read_text())
        documents = {
            "meta-data": f"instance-id: {self.instance}\nlocal-hostname: box-a\n",
            "user-data": f"#cloud-config\nssh_authorized_keys: [{json.dumps(self.keys[0])}]\n"
            f"ssh_keys:\n  ed25519_private: {private}\n{self.user_data}",
        }
        if self.network is not None:
            documents["network-config"] = self.network
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
        for index, (name, text) in enumerate(documents.items()):
            data = text.encode()
            iso.add_fp(
                io.BytesIO(data), len(data), f"/F{index}.;1", rr_name=name, joliet_path=f"/{name}"
            )
        iso.write(str(self.folder / "seed.iso"))
        iso.close()

    def start(self) -> None:
        self.write_seed()
        base = self.box.path
        if self.disk_size and not self.disk.exists():
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
            subprocess.run(
                [*create, base / "disk.qcow2", str(self.disk), self.disk_size], check=True
            )
        details = self.box.details
        argv = [
            *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "256"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", base / "kernel", "-initrd", base / "initrd"),
            *("-append", f"{details['cmdline']} {details['cmdline_tcg']}"),
            *("-serial", f"file:{self.folder}/console"),
            *("-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"),
            *("-device", "virtio-rng-pci", "-device", "pvpanic-pci"),
            *("-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22"),
            *("-device", "virtio-net-pci,netdev=net,mac=52:54:00:aa:bb:cc"),
        ]
        drives = [("seed", f"{self.folder}/seed.iso", "raw,readonly=on")]
        if self.disk_size:
            drives.insert(0, ("disk", str(self.disk), "qcow2"))
        for name, path, kind in drives:
            argv += ["-drive", f"if=none,id={name},file={path},format={kind}"]
            argv += ["-device", f"virtio-blk-pci,drive={name},serial=qup-{name}"]
        self.started = time.monotonic()
        (self.folder / "qmp").unlink(missing_ok=True)
        self.process = subprocess.Popen(argv)
        self._connect()

    def _connect(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(self.folder / "qmp"))
                break
            except OSError:
                self._socket.close()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self._socket.settimeout(20)
        self._qmp = self._socket.makefile("rw")
        self.read_event()
        self.qmp("qmp_capabilities")
        users = self.qmp("human-monitor-command", **{"command-line": "info usernet"})
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)", users)
        assert match is not None
        self.port = int(match[1])

    def read_event(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._qmp.readline() or "{}")
        return message

    def qmp(self, command: str, **arguments: Any) -> Any:
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._qmp.flush()
        while "return" not in (message := self.read_event()):
            assert message, "QEMU closed the connection"
            assert "error" not in message, message
        return message["return"]

    def wait_for_banner(self) -> float:
        """Seconds from the start of QEMU to sshd's first words, over a few parallel tries."""
        tries: list[socket.socket] = []
        due = 0.0
        while time.monotonic() < self.started + BOOT_TIMEOUT:
            if time.monotonic() >= due:
                if len(tries) == 4:
                    tries.pop(0).close()
                probe = socket.socket()
                probe.setblocking(False)
                probe.connect_ex(("127.0.0.1", self.port))
                tries.append(probe)
                due = time.monotonic() + 0.2
            for probe in select.select(tries, [], [], 0.05)[0]:
                try:
                    found = probe.recv(64).startswith(b"SSH-2.0-")
                except OSError:
                    found = False
                if found:
                    took = time.monotonic() - self.started
                    for each in tries:
                        each.close()
                    return took
                tries.remove(probe)
                probe.close()
        pytest.fail(f"no sshd within {BOOT_TIMEOUT} s; the console says:\n{self.console}")

    def boot(self) -> float:
        self.start()
        took = self.wait_for_banner()
        self.wait_for(lambda: "qup-tiny: ready" in self.console)
        return took

    def wait_for(self, true: Any, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, self.console
            time.sleep(0.05)

    def wait_for_result(self, status: str) -> None:
        self.wait_for(lambda: f"status={status}".encode() in self.run("cat /run/qup/result").stdout)

    def ssh_options(self) -> list[str]:
        settings = {
            "IdentityFile": self.folder / "user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": "guest",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ControlPath": "none",
        }
        return [
            "-F",
            "none",
            *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")),
        ]

    def run(
        self, command: str, *, user: str = "qup", data: bytes = b"", options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """What a command says. sshd sends away who comes while it has five callers (of the
        prober's, some may be there still): it is called again.
        """
        target = ["-p", str(self.port), f"{user}@127.0.0.1"]
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run(
                ["ssh", *options, *self.ssh_options(), *target, command],
                input=data,
                capture_output=True,
                timeout=60,
                check=False,
            )
            sent_away = b"kex_exchange_identification: Connection closed" in done.stderr
            if not sent_away or time.monotonic() > deadline:
                return done

    def read(self, command: str, *, user: str = "qup") -> str:
        done = self.run(command, user=user)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def gigabytes(self) -> float:
        """The size of its file system."""
        return int(self.read("df -m / | tail -1 | awk '{print $2}'")) / 1024

    def power_down(self) -> float:
        """Seconds from the power button to the end of QEMU.

        A guest whose sshd answers may not listen to the button yet: it is pressed again.
        """
        assert self.process is not None
        pressed = time.monotonic()
        while self.process.poll() is None:
            assert time.monotonic() - pressed < 20
            with contextlib.suppress(OSError):  # it ends meanwhile
                self._qmp.write('{"execute": "system_powerdown"}\n')
                self._qmp.flush()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)
        took = time.monotonic() - pressed
        self.kill()
        return took

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self._qmp.close()
            self._socket.close()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    # Not tmp_path: the path of a socket has to be shorter than 108 bytes.
    with tempfile.TemporaryDirectory(prefix="tiny-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def guest(box: Box) -> Iterator[Guest]:
    """One that is up, for all tests that leave it as they find it."""
    with short_folder() as path:
        made = Guest(box, path)
        try:
            made.boot()
            yield made
        finally:
            made.kill()


@pytest.fixture
def guests(box: Box, folder: Path) -> Iterator[Any]:
    made: list[Guest] = []

    def make(**settings: Any) -> Guest:
        guest = Guest(box, folder, **settings)
        made.append(guest)
        return guest

    yield make
    for guest in made:
        guest.kill()


def test_the_same_packages_give_the_same_bytes(box: Box, tmp_path: Path) -> None:
    again = recipe.build(tmp_path, arch="amd64", report=print)
    assert json.loads(json.dumps(asdict(again))) == box.details
    for name in recipe.FILES:
        data = (tmp_path / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == again.sha256[name]
        assert data == (box.path / name).read_bytes()


# --- one guest, in this order: the last two stop it ---------------------------------------------


def test_ssh(guest: Guest) -> None:
    assert guest.read("id -un; hostname") == "qup\nbox-a"
    assert guest.read("sudo -n id -u") == "0"
    assert guest.read("sudo -u nobody id -un") == "nobody"
    assert guest.run("exit 42").returncode == 42
    binary = bytes(range(256)) * 4000
    assert guest.run("cat", data=binary).stdout == binary
    assert guest.run("tty", options=("-tt",)).stdout.strip() == b"/dev/pts/0"
    assert guest.read("sudo cat /etc/shadow | cut -d: -f2 | sort -u") == "*"
    assert guest.console.count("qup-tiny: ready") == 1
    version = guest.box.details["version"]
    assert version in guest.console
    assert guest.read(". /etc/os-release; echo $ID $VERSION") == f"qup-tiny {version}"


def test_files_over_sftp(guest: Guest, folder: Path) -> None:
    (folder / "sent").write_bytes(b"\0\n\r" * 100_000)
    script = f"put {folder}/sent got\nget got {folder}/back\n"
    subprocess.run(
        ["sftp", "-q", "-b", "-", *guest.ssh_options(), "-P", str(guest.port), "qup@127.0.0.1"],
        input=script.encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (folder / "back").read_bytes() == (folder / "sent").read_bytes()


def test_many_sessions_over_one_connection(guest: Guest, folder: Path) -> None:
    shared = ("-o", f"ControlPath={folder}/mux", "-o", "ControlMaster=auto")
    keep = ("-o", "ControlPersist=60")
    # To files: the master stays, and would keep pipes open.
    subprocess.run(
        [
            *("ssh", *shared, *keep, *guest.ssh_options(), "-p", str(guest.port)),
            *("qup@127.0.0.1", "true"),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def run(number: int) -> tuple[int, bool]:
        data = bytes([number]) * 100_000
        done = guest.run(f"cat; exit {number}", data=data, options=shared)
        return done.returncode, done.stdout == data

    try:
        with ThreadPoolExecutor(12) as pool:
            results = list(pool.map(run, range(60)))
    finally:
        guest.run("", options=(*shared, "-O", "exit"))
    assert results == [(number, True) for number in range(60)]


def test_orphans_are_buried(guest: Guest) -> None:
    guest.read("sh -c '(sleep 0.2 &) & (sleep 0.1 &) &'; sleep 0.6")
    assert guest.read("grep -l '^State:.Z' /proc/[0-9]*/status | wc -l") == "0"


def test_reboot_keeps_who_it_is(guest: Guest) -> None:
    identity = guest.read("cat /etc/machine-id /proc/sys/kernel/random/boot_id")
    guest.run("sudo reboot")
    guest.wait_for(lambda: guest.console.count("qup-tiny: ready") == 2)
    guest.wait_for_banner()
    again = guest.read("cat /etc/machine-id /proc/sys/kernel/random/boot_id")
    assert identity.split()[0] == again.split()[0]
    assert identity.split()[1] != again.split()[1]


def test_power_off_from_inside(guest: Guest) -> None:
    guest.run("sudo poweroff")
    assert guest.process is not None
    assert guest.process.wait(timeout=20) == 0


# --- each with guests of its own ----------------------------------------------------------------


def test_everything_survives_power_off(guests: Any) -> None:
    """And the disk grows to its size, when it is new and later."""
    guest = guests(disk_size="6G")
    guest.boot()
    guest.wait_for(lambda: guest.gigabytes() > 5)
    guest.read("echo mine >note; echo extra-key >>.ssh/authorized_keys; sudo touch /etc/mine")
    identity = guest.read("cat /etc/machine-id")
    assert guest.power_down() < 10
    subprocess.run(["qemu-img", "resize", "-q", guest.disk, "9G"], check=True)
    guest.boot()
    guest.wait_for(lambda: guest.gigabytes() > 8)
    assert (
        guest.read("cat note; ls /etc/mine; cat /etc/machine-id") == f"mine\n/etc/mine\n{identity}"
    )
    assert "extra-key" in guest.read("cat .ssh/authorized_keys")
    assert "recovery" not in guest.read("sudo dmesg")
    # Another instance: another identity, with the same files.
    assert guest.power_down() < 10
    guest.instance = "i-2"
    guest.boot()
    assert guest.read("cat note") == "mine"
    assert guest.read("cat /etc/machine-id") != identity


@pytest.mark.parametrize("delay", [-0.4, 0.0, 0.6, 2.0])
def test_a_first_boot_that_is_cut_off(guests: Any, delay: float) -> None:
    guest = guests()
    guest.start()
    guest.wait_for_banner()
    if delay >= 0:
        guest.wait_for(lambda: "qup-tiny: ready" in guest.console)
        time.sleep(delay)
    if delay > 1:
        guest.read("echo mine >note; sync")
    guest.kill()
    guest.boot()
    # Over ssh, which knows the host key.
    owned = "qup 700\nqup 700\nqup 600"
    assert guest.read("stat -c '%U %a' . .ssh .ssh/authorized_keys") == owned
    assert len(guest.read("cat /etc/machine-id")) == 32
    assert guest.read("sudo id -u; hostname") == "0\nbox-a"
    if delay > 1:
        assert guest.read("cat note") == "mine"


DAMAGE = """\
rm -rf /home/qup
for file in /etc/passwd /etc/shadow /etc/machine-id /var/lib/qup/instance-id /var/lib/qup/result
do : >$file; done
for file in /etc/group /etc/dropbear/host_ed25519 /etc/dropbear/host_ed25519.seed /etc/hosts
do dd if=/dev/zero of=$file bs=83 count=1; done
mkdir -p /run/disk/work/work/left
"""


def test_whatever_a_power_cut_left_is_mended(guests: Any) -> None:
    guest = guests()
    guest.boot()
    guest.wait_for_result("done")
    guest.run(f"sudo sh -c {shlex.quote(DAMAGE + 'sync')}")
    guest.kill()
    guest.boot()
    assert guest.read("sudo id -u; hostname; pwd") == "0\nbox-a\n/home/qup"
    assert guest.read("id -gn; sudo cut -d: -f1 /etc/shadow").split()[::3] == ["qup", "qup"]
    assert len(guest.read("cat /etc/machine-id")) == 32
    assert guest.read("sudo stat -c %a /etc/passwd /etc/shadow /etc/group") == "644\n600\n644"
    assert "damaged: /etc/passwd, kept as passwd.damaged" in guest.console
    # A home whose maker had no time to give it away.
    guest.run("sudo sh -c 'chown 0:0 /home/qup /home/qup/.ssh /home/qup/.ssh/*; sync'")
    guest.kill()
    guest.boot()
    owners = guest.read("stat -c %U . .ssh .ssh/authorized_keys").split()
    assert owners == ["qup", "qup", "qup"]


def test_users_stay_who_they_are(guests: Any) -> None:
    guest = guests(user_data="users: [default, {name: dev, uid: 1000, sudo: true}]\n")
    guest.boot()
    assert "user dev: uid 1000 is taken, using 1001" in guest.console
    guest.read("sudo sh -c 'echo own:x:77:77::/:/bin/sh >>/etc/passwd'")
    before = guest.read("cat /etc/passwd /etc/group")
    assert "sudo:x:27:qup,dev\n" in before
    assert guest.power_down() < 10
    guest.boot()
    assert guest.read("cat /etc/passwd /etc/group") == before


def test_a_damaged_disk_is_reported_and_ssh_works(guests: Any) -> None:
    guest = guests()
    guest.boot()
    guest.power_down()
    zero = ["qemu-io", "-f", "qcow2", "-c", "write -P 0xff 0 64k", str(guest.disk)]
    subprocess.run(zero, check=True, capture_output=True)
    guest.boot()
    assert "running from memory, and leaving the disk as it is" in guest.console
    assert guest.read("id -un") == "qup"


USER_DATA = """\
users:
  - default
  - {name: dev, sudo: false, ssh_authorized_keys: [KEY]}
write_files:
  - {path: /srv/new/file, content: "it's\\n", permissions: "0640", owner: "dev:dev"}
  - {path: /srv/binary, content: AAEC/w==, encoding: b64}
runcmd:
  - cd /srv
  - pwd >/srv/where
  - [sh, -c, "exit 7"]
  - echo "$0" >/srv/after
packages: [vim]
"""


def test_cloud_config(guests: Any) -> None:
    guest = guests()
    guest.user_data = USER_DATA.replace("KEY", json.dumps(guest.keys[0]))
    guest.boot()
    guest.wait_for_result("done")
    assert guest.read("cat /run/qup/result") == "status=done exit=7 instance=i-1"
    assert guest.read("sudo cat /var/lib/qup/steps").splitlines()[-3:] == [
        "runcmd 2 exit=0",
        "runcmd 3 exit=7",
        "runcmd 4 exit=0",
    ]
    assert guest.read("cat /srv/where; ls /srv/after") == "/srv\n/srv/after"
    assert guest.read("stat -c '%a %U' /srv/new/file; sudo cat /srv/new/file") == "640 dev\nit's"
    assert guest.run("cat /srv/binary").stdout == b"\0\1\2\xff"
    assert guest.run("sudo -n true", user="dev").returncode == 126
    assert "ignored by tiny: packages" in guest.console
    assert "runcmd 3 failed with exit code 7" in guest.console
    # Once per instance.
    guest.read("sudo rm /srv/after")
    guest.power_down()
    guest.boot()
    guest.wait_for_result("done")
    assert guest.run("test -e /srv/after").returncode == 1


def test_a_hanging_command_holds_nobody_up(guests: Any) -> None:
    guest = guests(user_data="runcmd: [sleep 1000]\n")
    guest.boot()
    guest.wait_for_result("running")
    assert guest.read("cat /run/qup/result") == "status=running exit=0 instance=i-1"
    assert guest.power_down() < 10
    guest.boot()
    guest.wait_for_result("interrupted")


def test_fixed_address(guests: Any) -> None:
    guest = guests(
        network="version: 2\nethernets:\n  lan:\n    match: {macaddress: '52:54:00:AA:BB:CC'}\n"
        "    set-name: lan0\n    addresses: [10.0.2.15/24]\n"
        "    routes: [{to: default, via: 10.0.2.2}]\n    nameservers: {addresses: [10.0.2.3]}\n"
    )
    guest.boot()
    assert "default via 10.0.2.2 dev lan0" in guest.read("ip route")
    assert "nameserver 10.0.2.3" in guest.read("cat /etc/resolv.conf").splitlines()
    assert "qup-tiny: lan0 10.0.2.15/24" in guest.console


def test_without_a_disk(guests: Any) -> None:
    """It runs from memory, and its panic reaches the host."""
    guest = guests(disk_size=None)
    guest.boot()
    assert "no disk: this machine runs from memory" in guest.console
    assert guest.read("sudo touch /etc/x && echo done") == "done"
    guest.wait_for(lambda: guest.run("test -d /sys/module/pvpanic").returncode == 0)
    guest.run("sudo sh -c '(sleep 0.3; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &'")
    for _ in range(20):
        if guest.read_event().get("event") == "GUEST_PANICKED":
            break
    else:
        pytest.fail("no GUEST_PANICKED")
    assert "Kernel panic" in guest.console
