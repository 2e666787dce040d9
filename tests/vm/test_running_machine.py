"""One machine that runs: everything that can be asked of it without disturbing it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import select
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT, Done, find_free_port
from tests.vm.lab import Lab, open_lab, wait_until

pytestmark = pytest.mark.vm

QUPFILE = """
[machine]
memory = "320M"
cpus = 2
disk = "1500M"
hostname = "hello-guest"
user-data = '''#!/bin/sh
echo "from user-data: $(id -u)" > /etc/from-user-data
'''
[machine.network]
forward = ["0:8000", "0:9999/udp"]
"""

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Never by way of a proxy that the environment may name."""


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, QUPFILE) as made:
        made("up").ok()
        yield made


# --- looking ------------------------------------------------------------------------------


def test_what_was_asked_for_arrives_in_the_guest(lab: Lab) -> None:
    said = lab.sh(
        "hostname; nproc; grep MemTotal /proc/meminfo; cat /sys/block/vda/size; id -un;"
        " cat /sys/class/dmi/id/product_uuid 2>/dev/null || sudo cat /sys/class/dmi/id/product_uuid"
    )
    hostname, cpus, memory, sectors, user, uuid = said.split("\n")[:6]
    assert hostname == "hello-guest"
    assert cpus == "2"
    assert 250_000 < int(memory.split()[1]) <= 320 * 1024
    assert int(sectors) * 512 == 1500 << 20
    assert user == "qup"
    assert uuid.lower() == lab.inspect()["state"]["uuid"]
    free = lab.sh("df -k / | tail -1").split()
    assert int(free[1]) > 1_300_000


def test_the_user_data_script_ran_as_root(lab: Lab) -> None:
    look = "cat /etc/from-user-data"
    assert wait_until(lambda: lab("ssh", "--", look).stdout == "from user-data: 0\n", 60)


def test_up_again_is_nothing_to_do(lab: Lab) -> None:
    pid = lab.pid()
    done = lab("up").ok()
    assert "is up already" in done.stderr
    assert lab.pid() == pid
    assert done.seconds < 10


def test_status_list_ip_inspect(lab: Lab) -> None:
    seen = json.loads(lab("status", "--json").ok().stdout)
    assert seen["schema"] == 1
    (machine,) = seen["machines"]
    assert (machine["name"], machine["status"], machine["ready"]) == ("default", "running", True)
    assert machine["ssh"]["user"] == "qup"
    assert f"127.0.0.1:{machine['ssh']['port']}" in lab("status").ok().stdout
    (listed,) = json.loads(lab("list", "--json").ok().stdout)["machines"]
    assert listed["project"] == str(lab.folder)
    assert listed["id"] == machine["id"]
    assert str(lab.folder) in lab("list").ok().stdout
    assert lab("ip").ok().stdout == "127.0.0.1\n"
    about = lab.inspect()
    assert about["plan"]["memory_mib"] == 320
    assert about["state"]["id"] == machine["id"]
    below = lab.folder / "below" / "it"
    below.mkdir(parents=True)
    assert "running" in lab("status", cwd=below).ok().stdout
    assert "running" in lab("-C", str(below), "status", cwd=lab.box.home).ok().stdout


JSON_COMMANDS = [
    ("status",), ("list",), ("ip",), ("port", "list"), ("inspect",), ("plan",),
    ("plan", "--explain"), ("plan", "--qemu"), ("validate",), ("box", "list"), ("box", "path"),
    ("plugins", "list"), ("doctor",),
]  # fmt: skip


@pytest.mark.parametrize("words", JSON_COMMANDS, ids=" ".join)
def test_json_is_one_document_with_a_schema(lab: Lab, words: tuple[str, ...]) -> None:
    data = json.loads(lab(*words, "--json").ok().stdout)
    assert data["schema"] == 1


@pytest.mark.parametrize(
    "words",
    [("up",), ("status", "nosuch"), ("ip", "nosuch"), ("down", "nosuch"), ("port", "list", "x")],
    ids=" ".join,
)
def test_json_lines_are_json_in_the_bad_case_too(lab: Lab, words: tuple[str, ...]) -> None:
    done = lab(*words, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert all(line["schema"] == 1 for line in lines)
    if words != ("up",):
        assert done.code == 2
        assert lines[-1]["error"]["kind"] == "usage"


def test_the_logs(lab: Lab) -> None:
    serial = lab("logs").ok().stdout
    assert "qup-tiny: ready" in serial
    assert "\x1b" not in serial
    assert lab("logs", "-n", "1").ok().stdout.count("\n") == 1
    assert lab("logs", "-n", "0").ok().stdout == ""
    assert "qemu-system-x86_64" in lab("logs", "--log", "qemu").ok().stdout
    assert "boot ended" in lab("logs", "--log", "qup").ok().stdout
    lab("logs", "--raw").ok()


def test_logs_that_are_followed(lab: Lab) -> None:
    process = lab.spawn("logs", "-f", "-n", "0")
    try:
        assert process.stdout is not None
        for _ in range(20):  # only what comes after it has begun
            lab.sh("echo 'a line for the log' | sudo tee /dev/console >/dev/null")
            if select.select([process.stdout], [], [], 1.0)[0]:
                break
        assert "a line for the log" in process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_the_files_that_matter_are_private(lab: Lab) -> None:
    for path in (lab.folder / ".qup", lab.machine(), lab.machine() / "ssh"):
        assert path.stat().st_mode & 0o777 == 0o700, path
    for name in ("ssh/key", "ssh/host_key", "seed.iso", "state.json", "disk.qcow2"):
        assert (lab.machine() / name).stat().st_mode & 0o077 == 0, name
    runtime = lab.box.runtime / "qup" / lab.inspect()["id"]
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert (lab.folder / ".qup" / ".gitignore").read_text() == "*\n"


def test_qemu_is_confined_and_detached(lab: Lab) -> None:
    pid = lab.pid()
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert b"-nodefaults" in words
    assert words[words.index(b"-sandbox") + 1].startswith(b"on,")
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert os.getsid(pid) == pid
    for number in (0, 1, 2):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        assert target == "/dev/null" or target.endswith("qemu.log")


# --- ssh ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 130, 255])
def test_the_exit_code_is_the_remote_commands(lab: Lab, code: int) -> None:
    assert lab("ssh", "--", f"exit {code}").code == code


def test_one_word_is_a_script_and_several_are_words(lab: Lab) -> None:
    assert lab("ssh", "--", "echo $HOME; echo two").ok().stdout == "/home/qup\ntwo\n"
    awkward = ["a  b", "$HOME", "it's", '"q"', "*", "", "--", "-n", "\\", "ü\t", "a\nb", ";id"]
    done = lab("ssh", "--", "printf", "<%s>", *awkward).ok()
    assert done.stdout == "".join(f"<{word}>" for word in awkward)
    assert lab("ssh", "--", "sh", "-c", "exit 9").code == 9
    assert lab("ssh", "default", "--", "echo", "--", "x").ok().stdout == "-- x\n"


def test_standard_error_stays_apart(lab: Lab) -> None:
    done = lab("ssh", "--", "echo out; echo err >&2").ok()
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_input_and_output_are_binary_and_whole(lab: Lab) -> None:
    data = random.Random(1).randbytes(1_500_000) + bytes(range(256))
    process = subprocess.run(
        [sys.executable, "-m", "qup", "ssh", "--", "cat"],
        cwd=lab.folder,
        env={**os.environ, **lab.env, "PYTHONPATH": str(ROOT)},
        input=data,
        capture_output=True,
        timeout=100,
        check=True,
    )
    assert hashlib.sha256(process.stdout).digest() == hashlib.sha256(data).digest()


def test_options_of_ssh_pass(lab: Lab) -> None:
    assert lab("ssh", "-T", "--", "echo ok").ok().stdout == "ok\n"
    assert (
        lab("ssh", "default", "-T", "-o", "LogLevel=QUIET", "--", "echo ok").ok().stdout == "ok\n"
    )
    assert lab("ssh", "-o", "SendEnv=X", "default", "--", "echo ok").ok().stdout == "ok\n"
    assert "/dev/" in lab("ssh", "-tt", "--", "tty").ok().stdout
    assert lab("ssh", "-V").ok().stderr.startswith("OpenSSH")


def test_a_machine_that_is_not_there(lab: Lab) -> None:
    done = lab("ssh", "defualt", "--", "true")
    assert done.code == 2
    assert "did you mean 'default'" in done.stderr
    done = lab("ssh", "default", "uname")
    assert done.code == 2
    assert "--" in done.stderr


def test_a_local_forward_of_ssh(lab: Lab) -> None:
    port = find_free_port()
    process = lab.spawn("ssh", "-N", "-L", f"{port}:127.0.0.1:22")
    try:
        banner = b""
        deadline = time.monotonic() + 60
        while not banner and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as connection:
                    banner = connection.recv(20)
            except OSError:
                time.sleep(0.1)
        assert banner.startswith(b"SSH-")
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_ten_sessions_at_once(lab: Lab) -> None:
    def session(number: int) -> Done:
        return lab("ssh", "--", f"echo begin {number}; sleep 0.3; echo end {number}")

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(session, range(10)))
    for number, done in enumerate(results):
        assert done.ok().stdout == f"begin {number}\nend {number}\n"


def test_ssh_works_without_the_shared_connection_and_opens_it_again(lab: Lab) -> None:
    runtime = lab.box.runtime / "qup" / lab.inspect()["id"]
    config = lab.machine() / "ssh" / "config"
    subprocess.run(["ssh", "-F", config, "-O", "exit", "default"], check=True, capture_output=True)
    assert lab.sh("echo again") == "again\n"
    assert wait_until((runtime / "ssh.sock").exists, 60)


def test_ssh_and_status_work_with_a_broken_qupfile(lab: Lab) -> None:
    good = (lab.folder / "Qupfile").read_text()
    try:
        lab.write("[machine\nnonsense")
        assert lab.sh("echo in") == "in\n"
        done = lab("status").ok()
        assert "running" in done.stdout
        assert "note:" in done.stderr
        assert lab("up").code == 4
        (lab.folder / "Qupfile").unlink()
        assert lab("status").code == 4
    finally:
        lab.write(good)
    lab("status").ok()


def test_the_configuration_serves_ssh_scp_and_sftp(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "ssh.conf"
    config.write_text(lab("ssh-config").ok().stdout)
    said = subprocess.run(
        ["ssh", "-F", config, "default", "echo", "plain"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "plain\n"
    data = os.urandom(200_000)
    (tmp_path / "up.bin").write_bytes(data)
    for copy in (["scp"], ["scp", "-O"]):
        done = subprocess.run(
            [*copy, "-F", config, "-q", tmp_path / "up.bin", "default:/tmp/there.bin"],
            capture_output=True,
            text=True,
            check=False,
        )
        if copy == ["scp"]:
            assert done.returncode == 0, done.stderr
    subprocess.run(
        ["sftp", "-q", "-F", config, "-b", "-", "default"],
        input=f"get /tmp/there.bin {tmp_path}/back.bin\n",
        text=True,
        capture_output=True,
        check=True,
    )
    assert (tmp_path / "back.bin").read_bytes() == data


def test_an_impostor_is_refused(lab: Lab, tmp_path: Path) -> None:
    """The host key is pinned: another one is no reason to ask, but to stop."""
    config = tmp_path / "ssh.conf"
    text = lab("ssh-config").ok().stdout
    other = tmp_path / "known_hosts"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    alias = re.search(r"HostKeyAlias (\S+)", text)[1]  # type: ignore[index]
    other.write_text(f"{alias} {' '.join((tmp_path / 'k.pub').read_text().split()[:2])}\n")
    text = re.sub(r"UserKnownHostsFile .*", f"UserKnownHostsFile {other}", text)
    config.write_text(re.sub(r"ControlPath .*", "ControlPath none", text))
    done = subprocess.run(
        ["ssh", "-F", config, "default", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 255
    assert "host key" in done.stderr.lower()


# --- ports --------------------------------------------------------------------------------


def ports(lab: Lab) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(lab("port", "list", "--json").ok().stdout)[
        "forwards"
    ]
    return found


def port_to(lab: Lab, guest: int) -> int:
    (found,) = [item for item in ports(lab) if item["guest"] == guest]
    assert found["address"] == "127.0.0.1"
    assert isinstance(found["host"], int)
    return found["host"]


def fetch(port: int, seconds: float = 60.0) -> bytes:
    """What the web server behind a port has; slirp connects before anybody listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with OPENER.open(f"http://127.0.0.1:{port}/", timeout=3) as answer:
                found: bytes = answer.read()
                return found
        except OSError:
            time.sleep(0.1)
    return b""


def serve(lab: Lab, port: int, text: str) -> None:
    root = f"/tmp/web-{port}"
    lab.sh(f"mkdir -p {root}; echo {text} > {root}/index.html; httpd -p {port} -h {root}")


def test_a_tcp_forward_reaches_a_server_in_the_guest(lab: Lab) -> None:
    serve(lab, 8000, "tcp-hello")
    assert fetch(port_to(lab, 8000)) == b"tcp-hello\n"


def test_a_udp_forward_reaches_the_guest(lab: Lab) -> None:
    """The guest has no program that serves UDP; its kernel counts what comes for nobody."""

    def refused() -> int:
        names, numbers = lab.sh("grep ^Udp: /proc/net/snmp").splitlines()
        return int(dict(zip(names.split(), numbers.split(), strict=True))["NoPorts"])

    before, port = refused(), port_to(lab, 9999)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(40):
            sender.sendto(b"udp-hello", ("127.0.0.1", port))
            time.sleep(0.2)
            if refused() > before:
                return
    pytest.fail("no datagram arrived")


def test_a_port_is_added_used_and_removed(lab: Lab) -> None:
    serve(lab, 8001, "added")
    port = find_free_port()
    done = lab("port", "add", f"{port}:8001").ok()
    assert str(port) in done.stdout
    assert fetch(port) == b"added\n"
    assert port_to(lab, 8001) == port
    lab("port", "rm", f"{port}:8001").ok()
    with pytest.raises(OSError, match="refused|reset"):
        socket.create_connection(("127.0.0.1", port), 1)
    assert lab("port", "rm", f"{port}:8001").code == 9
    picked = json.loads(lab("port", "add", "0:8002", "--json").ok().stdout)
    assert picked["schema"] == 1
    lab("port", "rm", "0:8002").ok()


def test_a_port_that_is_taken_is_named(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = lab("port", "add", f"{port}:8003")
        assert done.code == 9
        assert str(port) in done.stderr
    lab("port", "add", f"{port}:8003").ok()
    lab("port", "rm", f"{port}:8003").ok()


@pytest.mark.parametrize(
    "rule", ["x", "80", "1:2:3:4:5", "70000:80", "0:0", "1.2.3.4.5:1:2", "-1:5"]
)
def test_bad_forwards_are_a_usage_error(lab: Lab, rule: str) -> None:
    done = lab("port", "add", "--", rule)
    assert done.code == 2, done
    assert "Traceback" not in done.stderr


def test_the_forward_of_ssh_stays(lab: Lab) -> None:
    for rule in ("0:22", f"{port_to(lab, 22)}:22"):
        assert lab("port", "rm", rule).code in (2, 9)
    assert lab.sh("echo still") == "still\n"


def test_a_taken_forward_of_the_qupfile_is_repaired_by_the_next_up(lab: Lab) -> None:
    good = (lab.folder / "Qupfile").read_text()
    serve(lab, 8004, "late")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        lab.write(good.replace('"0:8000"', f'"0:8000", "{port}:8004"'))
        done = lab("up")
        assert done.code == 9, done
        assert str(port) in done.stderr
        assert lab.status() == "running"
    try:
        lab("up").ok()
        assert fetch(port) == b"late\n"
    finally:
        lab.write(good)
        lab("port", "rm", f"{port}:8004")


# --- changes ------------------------------------------------------------------------------


def test_a_change_is_told_and_not_applied(lab: Lab) -> None:
    good = (lab.folder / "Qupfile").read_text()
    try:
        lab.write(good.replace("320M", "400M"))
        done = lab("up").ok()
        assert "memory: 320M -> 400M" in done.stderr
        assert "qup reload" in done.stderr
    finally:
        lab.write(good)
    assert "warning" not in lab("up").ok().stderr


def test_what_plan_prints_is_what_runs(lab: Lab) -> None:
    text = lab("plan", "--qemu").ok().stdout
    words = Path(f"/proc/{lab.pid()}/cmdline").read_bytes().decode().split("\0")
    for option in ("-m", "-smp", "-uuid", "-accel", "-cpu", "-machine", "-netdev"):
        assert f"{option} {words[words.index(option) + 1]}" in text
