"""Networks of a test's own: a namespace with bridges, DHCP servers and strangers in it.

A namespace belongs to a process and is gone with it, and the process ends when its standard
input does: nothing is left behind, however a test or the whole run ends. Files that programs
look for at fixed places are private in there, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import wait_until

LEASES = "/var/lib/misc"
HELPER = "/usr/lib/qemu/qemu-bridge-helper"

_SET_UP = """
set -e
mount -t sysfs sysfs /sys
mkdir -p "$1/leases" "$1/etc"
chmod 755 "$1"
mount --bind "$1/leases" /var/lib/misc
cp -a /etc/. "$1/etc"
rm -rf "$1/etc/qemu"
mkdir "$1/etc/qemu"
mount --bind "$1/etc" /etc
mknod -m 666 "$1/tun" c 10 200
mount --bind "$1/tun" /dev/net/tun
ip link set lo up
echo ready
exec cat
"""
_BANNER = """
import socket, sys, time
server = socket.create_server(("0.0.0.0", 22))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(b"SSH-2.0-host\\r\\n")
"""


@dataclass
class Net:
    """A network namespace, with a mount namespace around it.

    Attributes:
        pid: a process in it.
        root: a folder for its private files.
    """

    pid: int
    root: Path
    stack: contextlib.ExitStack
    parts: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words that run a command in it, in the caller's working folder."""
        return ("nsenter", f"--target={self.pid}", "--net", "--mount", "--wd=.")

    def run(self, words: str, check: bool = True) -> str:
        """Run a command, split at blanks; what it printed."""
        done = subprocess.run(
            [*self.prefix, *words.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def links(self) -> set[str]:
        """The names of its interfaces, without the loopback."""
        return {item["ifname"] for item in json.loads(self.run("ip -j link"))} - {"lo"}

    def add_bridge(self, name: str = "br0", address: str | None = None) -> None:
        self.run(f"ip link add {name} type bridge")
        if address:
            self.run(f"ip address add {address} dev {name}")
        self.run(f"ip link set {name} up")

    def spawn(self, words: list[str], ready: str | None = None) -> subprocess.Popen[str]:
        """Start something that ends with the namespace; wait until it says a word."""
        process = subprocess.Popen(
            [*self.prefix, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.stack.callback(_end, process)
        assert process.stdout is not None
        seen = ""
        while ready and ready not in seen:
            line = process.stdout.readline()
            assert line, f"{words} ended: {seen}"
            seen += line
        return process

    def serve_dhcp(self, interface: str, first: str, last: str) -> subprocess.Popen[str]:
        """A DHCP server, also for an interface that isn't there yet."""
        program = shutil.which("dnsmasq") or "/usr/sbin/dnsmasq"
        return self.spawn(
            [program, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
             "--bind-dynamic", f"--interface={interface}", f"--dhcp-range={first},{last},1h",
             f"--dhcp-leasefile={LEASES}/dnsmasq.leases", f"--pid-file={self.root}/dnsmasq.pid",
             "--log-facility=-", "--log-dhcp", "--dhcp-no-override", "--no-ping"],
            "DHCP, IP range",
        )  # fmt: skip

    def forget_leases(self) -> None:
        self.run("rm -f /var/lib/misc/dnsmasq.leases")

    def serve_ssh_on_the_host(self) -> subprocess.Popen[str]:
        """Something on port 22 of every address of the host, which says that it is an sshd."""
        return self.spawn([sys.executable, "-c", _BANNER], "ready")

    def allow(self, text: str) -> None:
        """Write qemu-bridge-helper's ACL."""
        (self.root / "etc/qemu/bridge.conf").write_text(text)

    def make_helper_setuid(self) -> None:
        copy = self.root / "helper"
        shutil.copy(HELPER, copy)
        copy.chmod(0o4755)
        self.run(f"mount --bind {copy} {HELPER}")


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


@contextlib.contextmanager
def open_net() -> Iterator[Net]:
    """A network of its own; what runs in it ends with it."""
    for program in ("ip", "nsenter", "unshare", "dnsmasq"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"no {program}: 'make test' installs it")
    root = Path(tempfile.mkdtemp(prefix="qn-", dir="/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        anchor = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _SET_UP, "sh", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, anchor)
        assert anchor.stdout is not None
        assert anchor.stderr is not None
        assert anchor.stdin is not None
        stack.callback(anchor.stdin.close)
        stack.callback(anchor.stderr.close)
        if anchor.stdout.readline() != "ready\n":
            pytest.skip(f"no namespaces here: {anchor.stderr.read().strip()}")
        yield Net(anchor.pid, root, stack)


def wait_for_links(net: Net, names: set[str]) -> bool:
    """Whether a namespace comes to have just these interfaces."""
    return wait_until(lambda: net.links() == names)
