"""The step in a plain Debian: apt installs an engine, which is started once and does as it is told.

The guest's apt and systemd are real. Its packages come from a server on loopback, and are small: in
the engine's place they have a TLS server (``stand_in/``). A real engine is in test_docker_host.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.client import HTTPSConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import Lab, open_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

STAND_IN = Path(__file__).parent / "stand_in"
CERTIFICATES = ".qup/machines/default/provisioners/docker"
STARTS = "journalctl --unit docker.service --output cat | grep -c ^Starting"
UNITS = "lib/systemd/system"
PACKAGES = {
    "docker.io": {
        "usr/sbin/dockerd": "dockerd",
        f"{UNITS}/docker.service": "docker.service",
        f"{UNITS}/docker.socket": "docker.socket",
        "DEBIAN/postinst": "postinst",
    },
    "apparmor": {"sbin/apparmor_parser": "postinst"},  # it has to be there, and is not run
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A line for ``sources.list``: QEMU's user network has this computer at 10.0.2.2."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("packages are made with dpkg-deb, which is not installed")
    folder = tmp_path_factory.mktemp("archive")
    index = [make_package(folder, name, files) for name, files in PACKAGES.items()]
    (folder / "Packages").write_text("\n".join(index), encoding="utf-8")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"deb [trusted=yes] http://10.0.2.2:{server.server_address[1]}/ ./"
        server.shutdown()
        thread.join()


def make_package(folder: Path, name: str, files: dict[str, str]) -> str:
    """Make a package; what the archive's list says of it."""
    tree = folder / f"{name}.tree"
    for place, file in files.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(STAND_IN / file, tree / place)
        (tree / place).chmod(0o644 if file.startswith("docker.") else 0o755)
    control = (
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n"
        f"Description: {name} for tests\n"
    )
    (tree / "DEBIAN").mkdir(exist_ok=True)
    (tree / "DEBIAN" / "control").write_text(control)
    package = folder / f"{name}_1_all.deb"
    words = ["dpkg-deb", "--root-owner-group", "-b", tree, package]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    data = package.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return f"{control}Filename: {package.name}\nSize: {len(data)}\nSHA256: {digest}\n"


def write_qupfile(lab: Lab, source: str, options: str = "true") -> None:
    """The hardware is that of other tests of Debian, whose template serves here, too."""
    lab.write(f"""
[machine]
box = "debian/12"
memory = "512M"
boot-timeout = "15m"
[[machine.provision]]
run = "always"
shell = "echo '{source}' >/etc/apt/sources.list"
[[machine.provision]]
docker = {options}
""")


@pytest.fixture(scope="module")
def lab(source: str, debian_cache: Path) -> Iterator[Lab]:
    with open_lab(debian_cache, name="plain", templates=True) as made:
        write_qupfile(made, source)
        (made.box.root / "up.log").write_text(made("up", timeout=1000).ok().stderr)
        yield made


def ask(lab: Lab, server: str = "") -> Any:
    """What the engine says; with a name, it has to be one that its certificate is good for."""
    found = json.loads(lab("docker", "env", "--json").ok().stdout)["variables"]
    address, _, port = found["DOCKER_HOST"].removeprefix("tcp://").rpartition(":")
    folder = Path(found["DOCKER_CERT_PATH"])
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    connection = HTTPSConnection(address, int(port), timeout=60, context=context)
    if server:
        connection._server_hostname = server  # type: ignore[attr-defined]
    connection.request("GET", "/version")
    return json.loads(connection.getresponse().read())


def test_it_is_installed_and_started_once(lab: Lab) -> None:
    said = (lab.box.root / "up.log").read_text()
    assert "installing Docker's engine in Debian GNU/Linux 12 (bookworm)" in said
    assert "Setting up docker.io" in said
    assert "debian may use the engine" in said
    assert lab.sh(STARTS) == "1\n"
    assert lab.sh("systemctl is-enabled docker.service docker.socket") == "enabled\nenabled\n"
    assert lab.sh("ls /run/systemd/system/docker.service.d") == ""
    assert ask(lab)["Version"] == "0.0.1"
    before = lab.sh("systemctl show docker --property MainPID")
    assert "installing" not in lab("up", timeout=300).ok().stderr
    assert lab.sh("systemctl show docker --property MainPID") == before


def test_suspended_and_resumed(lab: Lab) -> None:
    lab("suspend", timeout=300).ok()
    done = lab("docker", "env", "--shell", "sh")
    assert done.code == 9
    assert "suspended" in done.stderr
    lab("resume", timeout=300).ok()
    assert ask(lab)["Version"] == "0.0.1"
    assert lab.sh(STARTS) == "1\n"


def test_certificates_made_anew(lab: Lab) -> None:
    """The old client is a stranger then."""
    words = ("docker", "regenerate-certs", "--yes", "--client-certs")
    assert "certificate made: CA" in lab(*words, timeout=300).ok().stderr
    assert ask(lab)["Version"] == "0.0.1"
    assert lab.sh(STARTS) == "2\n"


def test_options_and_names(lab: Lab, source: str) -> None:
    options = """{ labels = { role = "build" }, registry-mirrors = ["https://m.example.org"], \
insecure-registries = ["r.example.org:5000"], storage-driver = "vfs", \
env = { HTTPS_PROXY = "http://it's \\"quoted\\" 100%:3128" }, names = ["docker.example.org"], \
options = { log-driver = "local", debug = true } }"""
    write_qupfile(lab, source, options)
    done = lab("up", timeout=300).ok()
    assert "certificate made: server (it lacks docker.example.org)" in done.stderr
    assert ask(lab, "docker.example.org") == {
        "Version": "0.0.1",
        "Settings": {
            "labels": ["role=build"],
            "registry-mirrors": ["https://m.example.org"],
            "insecure-registries": ["r.example.org:5000"],
            "storage-driver": "vfs",
            "log-driver": "local",
            "debug": True,
        },
        "Proxy": 'http://it\'s "quoted" 100%:3128',
    }
    assert lab.sh(STARTS) == "3\n"


def test_an_engine_that_does_not_start_is_quoted(lab: Lab, source: str) -> None:
    write_qupfile(lab, source, '{ storage-driver = "nosuchdriver" }')
    done = lab("up", timeout=300)
    assert done.code == 11
    assert "Docker's engine did not start" in done.stderr
    assert "error initializing graphdriver: nosuchdriver" in done.stderr
    done = lab("docker", "env", "--shell", "sh")
    assert (done.code, done.stdout) == (9, "")
    assert "no engine answers at tcp://" in done.stderr
    write_qupfile(lab, source)
    lab("up", timeout=300).ok()
    assert ask(lab)["Settings"] == {}


def test_what_apt_was_killed_at_is_finished(lab: Lab) -> None:
    lab.sh("sudo systemctl stop docker.service docker.socket")
    lab.sh("sudo dpkg --unpack /var/cache/apt/archives/docker.io_*.deb")
    said = lab("up", timeout=300).ok().stderr
    assert "installing Docker's engine" in said
    assert "Setting up docker.io" in said
    assert lab.sh("dpkg-query -W -f '${Status}' docker.io") == "install ok installed"
    assert ask(lab)["Version"] == "0.0.1"


def test_reset(lab: Lab) -> None:
    """Back to the first moment of the engine; it is the same machine, with the same keys."""
    keys = [(lab.folder / CERTIFICATES / name).read_bytes() for name in ("ca.pem", "key.pem")]
    lab("reset", timeout=600).ok()
    assert ask(lab)["Version"] == "0.0.1"
    assert [
        (lab.folder / CERTIFICATES / name).read_bytes() for name in ("ca.pem", "key.pem")
    ] == keys
