"""Programs that use ``qup ssh-config`` as it is, with a real Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import Lab, open_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
QUPFILE = '[machine]\nbox = "debian/12"\nmemory = "512M"\n[machine.env]\nSTAGE = "test"\n'


@pytest.fixture(scope="module")
def lab(debian_cache: Path) -> Iterator[Lab]:
    with open_lab(debian_cache, QUPFILE, name="my project", templates=True) as made:
        made("up", timeout=400).ok()
        yield made


@pytest.fixture(scope="module")
def config(lab: Lab) -> Path:
    path = lab.folder / ".qup" / "ssh_config"
    path.write_text(lab("ssh-config").ok().stdout)
    return path


def run(*words: str | Path, **more: object) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def test_openssh(lab: Lab, config: Path) -> None:
    assert run("ssh", "-F", config, "default", "id -un") == "debian\n"
    (lab.folder / "file").write_text("one\n")
    run("scp", "-F", config, lab.folder / "file", "default:")
    run("scp", "-O", "-F", config, "default:file", lab.folder / "back")
    assert (lab.folder / "back").read_text() == "one\n"
    assert "file" in run("sftp", "-b", "-", "-F", config, "default", input="ls\n")


def test_variables_in_login_sessions(lab: Lab) -> None:
    assert lab.sh("echo $STAGE; bash -lc 'echo $STAGE'") == "test\ntest\n"
    assert "test\n" in lab("ssh", "-T", input="echo $STAGE\n").ok().stdout
    assert lab.sh("sudo -i printenv STAGE") == "test\n"


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(lab: Lab, config: Path) -> None:
    """A guest that has none gets the one of this computer."""
    tree = lab.folder / "tree"
    tree.mkdir()
    (tree / "sp ace").write_text("x")
    rsync = str(shutil.which("rsync"))
    program = "rsync"
    if not lab.sh("command -v rsync || true"):
        listed = run("ldd", rsync).splitlines()
        libraries = [line.split(" => ")[1].split()[0] for line in listed if " => /" in line]
        lab.sh("mkdir -p own")
        lab("cp", rsync, *libraries, ":own").ok()
        program = "LD_LIBRARY_PATH=own own/rsync"
    words = ["-a", "-e", f"ssh -F '{config}'", f"--rsync-path={program}"]
    run(rsync, *words, f"{tree}/", "default:to/")
    run(rsync, *words, "default:to/", f"{lab.folder}/from/")
    assert (lab.folder / "from" / "sp ace").read_text() == "x"


TESTS = """\
def test_it(host):
    assert host.user().name == "debian"
    assert host.file("/etc/os-release").contains("Debian")
    with host.sudo():
        assert host.file("/etc/shadow").mode == 0o640
    assert host.package("openssh-server").is_installed
"""


def test_testinfra(lab: Lab, config: Path) -> None:
    (lab.folder / "test_it.py").write_text(TESTS)
    done = run(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--hosts=ssh://default",
        f"--ssh-config={config}", "test_it.py", cwd=lab.folder,
    )  # fmt: skip
    assert "1 passed" in done


def test_ansible(lab: Lab, config: Path) -> None:
    words = ["-i", "default,", "-m", "ansible.builtin.ping"]
    options = ["--ssh-common-args", f"-F '{config}'"]
    assert "SUCCESS" in run(BIN / "ansible", "all", *words, *options)


ASK_AGENT = """
import os, socket
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["SSH_AUTH_SOCK"])
agent.sendall(b"\\0\\0\\0\\1\\x0b")
print(agent.recv(5)[4], int.from_bytes(agent.recv(4), "big"))
"""


def test_agent(lab: Lab) -> None:
    """The agent is the caller's, whoever opened the shared connection."""
    key, path = lab.folder / "key", lab.box.root / "agent"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()  # it listens now
        env = {"SSH_AUTH_SOCK": str(path)}
        run("ssh-add", "-q", key, env={**os.environ, **env})
        said = lab("ssh", "-A", "--", "python3", "-c", ASK_AGENT, env=env).ok().stdout
        # SSH_AGENT_IDENTITIES_ANSWER (draft-ietf-sshm-ssh-agent), and one key.
        assert said == "12 1\n"
        assert lab("ssh", "--", "echo $SSH_AUTH_SOCK", env=env).ok().stdout == "\n"
        agent.terminate()
