"""Names in a guest while the host's first resolver is dead, in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vm.lab import SMALL, Lab, open_lab, wait_until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.root,
    pytest.mark.skipif(
        not all(map(shutil.which, ("ip", "dnsmasq"))), reason="needs iproute2 and dnsmasq-base"
    ),
]

DEAD, ALIVE, ANSWER = "198.51.100.53", "198.51.100.54", "198.51.100.99"
NAME = "there.example"


def run(*words: str) -> None:
    subprocess.run(words, check=True, timeout=20)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A network of its own: two more addresses of this computer, and a DNS server on one."""
    name = f"qup-dns-{os.getpid()}"
    settings = Path("/etc/netns") / name
    made = [folder for folder in (settings.parent, settings) if not folder.exists()]
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "resolv.conf").write_text(f"nameserver {DEAD}\nnameserver {ALIVE}\n")
    run("ip", "netns", "add", name)
    try:
        inside = ("ip", "-n", name)
        run(*inside, "link", "set", "lo", "up")
        for address in (DEAD, ALIVE):
            run(*inside, "addr", "add", f"{address}/24", "dev", "lo")
        # The dead one takes questions and never answers: the worst way of being dead.
        silent = (
            "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM);"
            f" s.bind(('{DEAD}', 53)); time.sleep(600)"
        )
        enter = ("ip", "netns", "exec", name)
        quiet = subprocess.Popen([*enter, sys.executable, "-c", silent])
        server = subprocess.Popen(
            [*enter, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--no-daemon",
             "--bind-interfaces", f"--listen-address={ALIVE}", "--conf-file=/dev/null",
             f"--address=/{NAME}/{ANSWER}", "--user=root", "--pid-file="],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        yield name
        for process in (quiet, server):
            process.kill()
            process.wait()
    finally:
        run("ip", "netns", "del", name)
        shutil.rmtree(settings)
        for folder in made[:1]:
            if folder != settings:
                folder.rmdir()


@pytest.fixture(scope="module")
def inside(vm_cache: Path, namespace: str) -> Iterator[Callable[..., str]]:
    """Run qup in the namespace; its machine is up."""
    with open_lab(vm_cache, SMALL) as lab:
        _make_box(lab)

        def call(*words: str) -> str:
            done = subprocess.run(
                ["ip", "netns", "exec", namespace, sys.executable, "-m", "qup", *words],
                cwd=lab.folder,
                env={**os.environ, **lab.env, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        call("up")
        yield call


def _make_box(lab: Lab) -> None:
    """Where there is a way to the packages: in the namespace there is none."""
    lab("box", "build", "tiny", timeout=300).ok()


def test_the_guest_asks_the_second_resolver(inside: Callable[..., str]) -> None:
    said = inside("ssh", "--", "cat /etc/resolv.conf")
    assert [line.split()[1] for line in said.splitlines() if "nameserver" in line] == [
        "10.0.2.3", ALIVE,
    ]  # fmt: skip
    found: list[str] = []

    def resolves() -> bool:
        found.append(inside("ssh", "--", f"ping -c 1 -W 1 {NAME} 2>&1 | head -n 1"))
        return ANSWER in found[-1]

    assert wait_until(resolves, 20), found
