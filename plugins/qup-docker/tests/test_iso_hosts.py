"""boot2docker's and RancherOS's rules in real guests: files, owners, flags, restarts, ports.

The real ISOs aren't shipped with these tests. Two guests with their documented layout, both in one
project, have a TLS server in the engine's place: see :mod:`tests.vm.iso_guest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qup_docker.engine import ask_version

from qup.api import MachineError
from tests.vm import iso_guest
from tests.vm.lab import Lab, open_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200), pytest.mark.xdist_group("isos")]

QUPFILE = """
[machine]
memory = "256M"
disk = "1G"
boot-timeout = "10m"
[[machine.provision]]
[machine.provision.docker]
labels = { role = "build" }
registry-mirrors = ["https://mirror.example.org"]
insecure-registries = ["r.example.org:5000"]
storage-driver = "overlay2"
env = { HTTP_PROXY = "http://it's:3128" }
names = ["docker.example.org"]
options = { debug = true, log-opt = ["max-size=1m", "max-file=2"] }
"""
MACHINES = """
[machines.b2d]
box = "./b2d.iso"
[machines.ros]
box = "./ros.iso"
[machines.ros.network]
forward = ["127.0.0.2:0:2376"]
"""
FLAGS = (
    "--label role=build --insecure-registry r.example.org:5000"
    " --registry-mirror https://mirror.example.org --debug=true"
    " --log-opt=max-size=1m --log-opt=max-file=2"
)
B2D, ROS = "/var/lib/boot2docker", "/var/lib/rancher/conf"


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    iso_guest.require_tools()
    with open_lab(vm_cache, QUPFILE + MACHINES, name="isos") as made:
        for name, label, words in (
            ("b2d", "b2d-v19.03.12", {"guest": "boot2docker", "version": "v19.03.12"}),
            ("ros", "RancherOS", {"guest": "rancheros", "version": "v1.5.8"}),
        ):
            iso_guest.make_iso(vm_cache, made.folder / f"{name}.iso", label, engine=True, **words)
        made("up", timeout=900).ok()
        yield made


def folder(lab: Lab, name: str) -> Path:
    return lab.machine(name) / "provisioners" / "docker"


def reach(lab: Lab, name: str) -> tuple[str, int]:
    url = lab("docker", "url", name).ok().stdout.strip()
    address, _, port = url.removeprefix("tcp://").rpartition(":")
    return address, int(port)


def stat(lab: Lab, name: str, *paths: str) -> list[str]:
    words = " ".join(paths)
    return lab.sh(f"sudo sh -c \"stat -c '%a %U:%G %n' {words}\"", name).splitlines()


def flags(lab: Lab, name: str) -> str:
    """What the engine was told the last time, with its proxy."""
    return " ".join(lab.sh("sudo tail -n 2 /var/log/dockerd.flags", name).split())


def variables(lab: Lab, name: str) -> Any:
    return json.loads(lab("docker", "env", "--json", name).ok().stdout)["variables"]


def test_boot2docker(lab: Lab) -> None:
    assert stat(lab, "b2d", f"{B2D}/tls", f"{B2D}/tls/*.pem", f"{B2D}/profile") == [
        f"700 root:root {B2D}/tls",
        f"644 root:root {B2D}/tls/ca.pem",
        f"600 root:root {B2D}/tls/cakey.pem",
        f"600 root:root {B2D}/tls/client.pem",
        f"600 root:root {B2D}/tls/clientkey.pem",
        f"644 root:root {B2D}/tls/server.pem",
        f"600 root:root {B2D}/tls/serverkey.pem",
        f"644 root:root {B2D}/profile",
    ]
    assert lab.sh("cat /var/log/generated 2>/dev/null || true", "b2d") == ""
    assert flags(lab, "b2d") == (
        f"--data-root /var/lib/docker -H unix:// {FLAGS} -H tcp://0.0.0.0:2376"
        f" --tlsverify --tlscacert={B2D}/tls/ca.pem --tlskey={B2D}/tls/serverkey.pem"
        f" --tlscert={B2D}/tls/server.pem --storage-driver overlay2"
        " --pidfile /var/run/docker.pid HTTP_PROXY=http://it's:3128"
    )
    # It had been started at boot, without all that, and was started anew once.
    assert lab.sh("grep -c data-root /var/log/dockerd.flags", "b2d") == "2\n"


def test_rancheros(lab: Lab) -> None:
    assert stat(lab, "ros", f"{ROS}/*.pem", f"{ROS}/docker") == [
        f"644 root:root {ROS}/ca.pem",
        f"600 root:root {ROS}/server-key.pem",
        f"644 root:root {ROS}/server.pem",
        f"644 root:root {ROS}/docker",
    ]
    assert flags(lab, "ros") == (
        "-H tcp://0.0.0.0:2376 -H unix:///var/run/docker.sock --storage-driver overlay2"
        f" --tlsverify --tlscacert {ROS}/ca.pem --tlscert {ROS}/server.pem"
        f" --tlskey {ROS}/server-key.pem {FLAGS} --pidfile /var/run/docker.pid"
        " HTTP_PROXY=http://it's:3128"
    )


def test_several_hosts_in_one_project(lab: Lab) -> None:
    """Each has its own port, CA and client: nobody gets in by another machine's key."""
    places = {name: reach(lab, name) for name in ("b2d", "ros")}
    assert [address for address, _ in places.values()] == ["127.0.0.1", "127.0.0.2"]
    for name, place in places.items():
        assert ask_version(folder(lab, name), *place) == "0.0.1"
        assert variables(lab, name)["DOCKER_MACHINE_NAME"] == name
        assert variables(lab, name)["DOCKER_CERT_PATH"] == str(folder(lab, name))
    with pytest.raises(MachineError, match="is not this machine's"):
        ask_version(folder(lab, "ros"), *places["b2d"])
    own = lab.box.root / "mixed"
    own.mkdir()
    for source, file in (("b2d", "ca.pem"), ("ros", "cert.pem"), ("ros", "key.pem")):
        (own / file).write_bytes((folder(lab, source) / file).read_bytes())
    with pytest.raises(MachineError, match="no TLS with|no engine answers"):
        ask_version(own, *places["b2d"])
    done = lab("docker", "env", "--shell", "sh")
    assert done.code == 2
    assert "b2d" in done.stderr


def test_another_forward(lab: Lab) -> None:
    """It is opened in a machine that runs, and its address is one of the certificate's then."""
    lab.write(f'{QUPFILE}{MACHINES}[machines.b2d.network]\nforward = ["127.0.0.3:0:2376"]\n')
    done = lab("up", "b2d", timeout=300).ok()
    assert "certificate made: server (it lacks 127.0.0.3)" in done.stderr
    place = reach(lab, "b2d")
    assert place[0] == "127.0.0.3"
    ask_version(folder(lab, "b2d"), *place)
    lab.write(QUPFILE + MACHINES)
    assert "certificate made" not in lab("up", "b2d", timeout=300).ok().stderr
    assert reach(lab, "b2d")[0] == "127.0.0.1"


def test_up_again_changes_nothing(lab: Lab) -> None:
    pids = [lab.sh("cat /var/run/docker.pid", name) for name in ("b2d", "ros")]
    done = lab("up", timeout=300).ok()
    assert "Docker 0.0.1 at tcp://" in done.stderr
    assert "starting the engine" not in done.stderr
    assert [lab.sh("cat /var/run/docker.pid", name) for name in ("b2d", "ros")] == pids


def test_a_flag_that_the_engine_does_not_know(lab: Lab) -> None:
    text = QUPFILE.replace("options = {", "options = { nosuchflag = true,") + MACHINES
    lab.write(text)
    done = lab("up", "b2d", timeout=600)
    assert done.code == 11
    assert "Docker's engine did not start" in done.stderr
    lab.write(QUPFILE + MACHINES)
    assert f"changed: {B2D}/profile" in lab("up", "b2d", timeout=300).ok().stderr
    ask_version(folder(lab, "b2d"), *reach(lab, "b2d"))


def test_after_a_boot(lab: Lab) -> None:
    """All of it is on the data disk, and the boot itself starts the engine as it was."""
    before = (folder(lab, "b2d") / "server.pem").read_bytes()
    lab("down", "b2d", timeout=300).ok()
    done = lab("docker", "url", "b2d")
    assert done.code == 9
    assert "is not running" in done.stderr
    done = lab("up", "b2d", timeout=900).ok()
    assert "certificate made" not in done.stderr
    assert "starting the engine" not in done.stderr
    assert (folder(lab, "b2d") / "server.pem").read_bytes() == before
    assert lab.sh("grep -c data-root /var/log/dockerd.flags", "b2d") == "1\n"
    ask_version(folder(lab, "b2d"), *reach(lab, "b2d"))


def test_new_certificates(lab: Lab) -> None:
    old = lab.box.root / "old"
    old.mkdir()
    for file in ("ca.pem", "cert.pem", "key.pem"):
        (old / file).write_bytes((folder(lab, "ros") / file).read_bytes())
    done = lab("docker", "regenerate-certs", "-y", "ros", timeout=300).ok()
    assert "certificate made: server" in done.stderr
    assert "certificate made: CA" not in done.stderr
    assert ask_version(old, *reach(lab, "ros")) == "0.0.1"
    done = lab("docker", "regenerate-certs", "-y", "--client-certs", "ros", timeout=300).ok()
    assert "certificate made: CA" in done.stderr
    ask_version(folder(lab, "ros"), *reach(lab, "ros"))
    with pytest.raises(MachineError, match="is not this machine's"):
        ask_version(old, *reach(lab, "ros"))
