"""A real engine in a Debian guest, and Docker's own client: the example, and a machine made anew.

One machine serves all tests, in their order: in emulation its start takes a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sandbox
from tests.vm.lab import Lab, make_box, open_lab
from tests.vm.test_examples import steps, type_line

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

EXAMPLE = ROOT / "examples" / "docker-host"
BOX = "debian/12-docker"
CERTIFICATES = ".qup/machines/default/provisioners/docker"


@pytest.fixture(scope="module")
def client(vm_cache: Path) -> Iterator[Path]:
    """Docker's client as Debian has it, on the PATH; its package is unpacked, not installed: the
    engine in it is not for this computer.
    """
    for program in ("mmdebstrap", "mke2fs", "apt-get", "dpkg-deb"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"box {BOX} is made with {program}, which is not installed")
    place = vm_cache / "docker-client"
    if not (place / "docker").exists():
        unpack_client(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
        for name in [name for name in os.environ if name.startswith("DOCKER_")]:
            patch.delenv(name)
        yield place / "docker"


def unpack_client(place: Path) -> None:
    """Get the package with ``docker`` in it: docker-cli, and before Debian 13 docker.io."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for package in ("docker-cli", "docker.io"):
            got = subprocess.run(["apt-get", "-q", "download", package], cwd=folder, check=False)
            if got.returncode == 0:
                break
        else:
            pytest.skip("apt has no package with Docker's client")
        (archive,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        place.mkdir(exist_ok=True)
        part = place / "docker.part"
        shutil.copy(Path(folder, "usr/bin/docker"), part)
        part.replace(place / "docker")


@pytest.fixture(scope="module")
def lab(client: Path, vm_cache: Path, sandboxes: Path) -> Iterator[Lab]:
    make_box(vm_cache, BOX, Sandbox(Path(tempfile.mkdtemp(prefix="d", dir=sandboxes))))
    with open_lab(vm_cache, name="docker-host", templates=True) as made:
        shutil.copytree(EXAMPLE, made.folder, dirs_exist_ok=True)
        made("up", timeout=900).ok()
        yield made


def docker(lab: Lab, *words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run Docker's client; its exit code and all that it said."""
    done = subprocess.run(
        ["docker", *words], cwd=lab.folder, env={**os.environ, **lab.env, **(env or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def variables(lab: Lab) -> dict[str, str]:
    found: dict[str, str] = json.loads(lab("docker", "env", "--json").ok().stdout)["variables"]
    return found


def engine_id(lab: Lab) -> str:
    """Tells one run of the engine from another."""
    return lab.sh("systemctl show docker --property MainPID --property ActiveEnterTimestamp")


def test_the_example(lab: Lab) -> None:
    """Context, labels, an image from scratch, its build, containers and a volume."""
    for line, shown in steps(EXAMPLE):
        if line == "qup docker context rm":
            break
        said = type_line(lab, line)
        assert shown is None or said == shown, line


def test_it_was_started_once(lab: Lab) -> None:
    """By the step, when the engine had been told who may speak to it; not by the box before."""
    said = lab.sh("journalctl --unit docker.service --output cat | grep ^Starting")
    assert len(said.splitlines()) == 1


def test_up_again_changes_nothing(lab: Lab) -> None:
    before = engine_id(lab)
    done = lab("up", timeout=300).ok()
    assert "at tcp://127.0.0.1:" in done.stderr
    assert "new: " not in done.stderr
    assert "starting the engine" not in done.stderr
    assert "docker's context docker-host leads there" in done.stderr
    assert engine_id(lab) == before


def test_words_for_shells(lab: Lab) -> None:
    place = variables(lab)["DOCKER_HOST"]
    assert lab("docker", "url").ok().stdout == f"{place}\n"
    assert lab("url").ok().stdout == f"{place}\n"
    assert lab("active", env={"DOCKER_HOST": place}).ok().stdout == "default\n"
    assert lab("docker", "config").ok().stdout == lab("config").ok().stdout
    words = 'docker $(qup config) version --format "{{.Server.Os}}"'
    assert type_line(lab, words) == "linux\n"
    words = 'eval "$(qup docker env --shell sh)"; docker version --format "{{.Server.Os}}"'
    assert type_line(lab, f"{words}; docker context use default").startswith("linux\n")
    code, said = docker(lab, "version", "--format", "{{.Server.Os}}", env=variables(lab))
    assert (code, said) == (0, "linux\n")
    done = lab("docker", "env", env={"SHELL": "/usr/bin/fish"}).ok()
    assert done.stdout.startswith('set -gx DOCKER_TLS_VERIFY "1";\n')
    assert "set -e DOCKER_HOST;" in lab("docker", "env", "-u", "--shell", "fish").ok().stdout
    assert lab("docker", "env", "-u", "default").code == 2


def test_only_who_has_the_key_is_let_in(lab: Lab) -> None:
    host = variables(lab)["DOCKER_HOST"]
    code, said = docker(lab, "-H", host, "version")
    assert code != 0
    assert "HTTP request to an HTTPS server" in said
    address, _, port = host.removeprefix("tcp://").rpartition(":")
    context = ssl.create_default_context(cafile=str(lab.folder / CERTIFICATES / "ca.pem"))
    connection = HTTPSConnection(address, int(port), timeout=60, context=context)
    with pytest.raises(OSError, match=r"(?i)certificate required|bad certificate|reset|EOF"):
        connection.request("GET", "/version")
        connection.getresponse()
    connection.close()
    keys = sorted((lab.folder / CERTIFICATES).glob("*key.pem"))
    assert [f"{path.stat().st_mode:o}" for path in keys] == ["100600"] * 3
    here = "sudo ls /etc/docker/tls; sudo stat -c %a /etc/docker/tls/server-key.pem"
    assert lab.sh(here).split() == ["ca.pem", "server-key.pem", "server.pem", "600"]


def test_by_ssh(lab: Lab) -> None:
    """The ssh user may use the engine; docker takes the program ``ssh`` from the PATH."""
    folder = lab.box.root / "ssh"
    folder.mkdir()
    (folder / "config").write_text(lab("ssh-config").ok().stdout)
    program = folder / "ssh"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{folder}/config" "$@"\n')
    program.chmod(0o755)
    env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    words = ("-H", "ssh://default", "version", "--format", "{{.Server.Os}}")
    assert docker(lab, *words, env=env) == (0, "linux\n")


def test_a_machine_made_anew(lab: Lab) -> None:
    """From the template of the first: its keys are its own, and docker's context leads to it."""
    old = lab.box.root / "destroyed"
    shutil.copytree(lab.folder / CERTIFICATES, old)
    lab("destroy", "-y").ok()
    said = lab("up", timeout=600).ok().stderr
    assert "restoring template" in said
    assert "docker's context docker-host leads there" in said
    words = ("--context", "docker-host")
    assert docker(lab, *words, "build", "--quiet", "--tag", "hello", "hello")[0] == 0
    run = ("run", "--rm", "--volume", "notes:/notes", "hello")
    assert docker(lab, *words, *run) == (0, "hello\n")
    stranger = {**variables(lab), "DOCKER_CERT_PATH": str(old)}
    code, answer = docker(lab, "version", env=stranger)
    assert code != 0
    assert "x509" in answer


def test_and_it_is_gone(lab: Lab) -> None:
    lines = [line for line, _ in steps(EXAMPLE)]
    for line in lines[lines.index("qup docker context rm") :]:
        type_line(lab, line)
    assert "docker-host" not in docker(lab, "context", "ls", "--format", "{{.Name}}")[1]
    assert not (lab.folder / ".qup" / "machines" / "default").exists()
    done = lab("docker", "env", "--shell", "sh")
    assert done.code == 9
