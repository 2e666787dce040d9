"""Playbooks on real guests: two of Debian, and one without Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vm.lab import Lab, open_lab
from tests.vm.test_examples import steps, type_line

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

MACHINES = """\
[machine]
memory = "192M"
disk = "1G"

[machines.a]
box = "debian/12"
memory = "512M"
disk = "20G"

[machines.b]
[machines.c]
"""

STEP = """
[[machine.provision]]
name = "site"
[machine.provision.ansible]
playbook = "deploy/site.yml"
requirements = "deploy/requirements.yml"
vault-password-file = "password"
become = true
skip-tags = ["never-here"]
[machine.provision.ansible.groups]
web = ["a", "gone"]
[machine.provision.ansible.host-vars.a]
colour = "blue"
[machine.provision.ansible.extra-vars]
text = "two words: 'quoted'"
"""

PLAYBOOK = """\
- hosts: all
  gather_facts: false
  roles:
    - marker
  tasks:
    - ansible.builtin.copy:
        content: "{{ text }}|{{ colour | default('none') }}|{{ hush }}|{{ group_names }}\\n"
        dest: /etc/site
    - ansible.builtin.command: "false"
      tags: [never-here]
"""


@pytest.fixture(scope="module")
def lab(debian_cache: Path) -> Iterator[Lab]:
    with open_lab(debian_cache, MACHINES, templates=True) as made:
        write_site(made.folder)
        made("up", timeout=600).ok()
        yield made


def write_site(folder: Path) -> None:
    """A site with a role that galaxy installs from a folder, and a variable in a vault."""
    source = folder / "our-role"
    (source / "tasks").mkdir(parents=True)
    (source / "meta").mkdir()
    (source / "meta" / "main.yml").write_text("galaxy_info: {author: us, description: x}\n")
    (source / "tasks" / "main.yml").write_text(
        "- ansible.builtin.file: {path: /etc/marker, state: touch}\n"
    )
    subprocess.run(["tar", "-czf", folder / "role.tgz", "-C", folder, "our-role"], check=True)
    shutil.rmtree(source)
    deploy = folder / "deploy"
    (deploy / "group_vars").mkdir(parents=True)
    (deploy / "site.yml").write_text(PLAYBOOK)
    (deploy / "requirements.yml").write_text(
        f"roles: [{{name: marker, src: 'file://{folder}/role.tgz'}}]\n"
    )
    (folder / "password").write_text("open sesame\n")
    secret = deploy / "group_vars" / "all.yml"
    secret.write_text("hush: from the vault\n")
    vault = Path(sys.executable).parent / "ansible-vault"
    words = [vault, "encrypt", "--vault-password-file", folder / "password", secret]
    subprocess.run(words, check=True, capture_output=True)


def log(lab: Lab, name: str) -> str:
    return (lab.machine(name) / "logs" / "provision-1.log").read_text()


def test_a_playbook(lab: Lab) -> None:
    lab.write(MACHINES + STEP.replace("machine.provision", "machines.a.provision"))
    refused = lab("up")
    assert refused.code == 4, refused
    assert "runs on this computer: ansible-playbook deploy/site.yml" in refused.stderr
    assert "site (on this computer)" in lab("plan", "a").ok().stdout

    lab("trust").ok()
    done = lab("up", "a", timeout=300).ok()
    assert "a:   TASK [ansible.builtin.copy]" in done.stderr
    assert "not up, and so not in the inventory: gone" in done.stderr
    assert "PLAY RECAP" in log(lab, "a")
    assert lab.sh("cat /etc/site; ls /etc/marker", "a") == (
        "two words: 'quoted'|blue|from the vault|['web']\n/etc/marker\n"
    )
    assert (lab.folder / ".qup" / "ansible" / "roles" / "marker").is_dir()
    assert "is up already" in lab("up", "a").ok().stderr


def test_the_example(debian_cache: Path) -> None:
    """It runs again when its content changes, and by name."""
    example = ROOT / "examples" / "ansible-role"
    with open_lab(debian_cache, templates=True) as lab:
        shutil.copytree(example, lab.folder, dirs_exist_ok=True)
        for line, shown in steps(example):
            said = type_line(lab, line)
            assert shown is None or said == shown, line


def write_plain(
    lab: Lab, task: str, *, more: str = "verbosity = 0", where: str = "machine"
) -> None:
    (lab.folder / "plain.yml").write_text(f"""\
- hosts: all
  gather_facts: false
  tasks:
    - {task}
""")
    step = f'[[{where}.provision]]\nansible = {{ playbook = "plain.yml", {more} }}\n'
    lab.write(MACHINES + step)
    lab("trust").ok()


def test_it_fails_on_one_of_three(lab: Lab) -> None:
    write_plain(lab, "ansible.builtin.raw: test $(hostname) != b", more="verbosity = 1")
    done = lab("up", timeout=300)
    assert done.code == 11, done
    assert "done: a, c; failed: b" in done.stderr
    assert "machine b: provisioning step 1 (ansible 1) failed" in done.stderr
    assert "the playbook plain.yml failed on b (1 failed)" in done.stderr
    assert f"its log: {lab.machine('b')}/logs/provision-1.log" in done.stderr

    # One run on all that are up: its summary says who failed, and who did not.
    write_plain(
        lab, "ansible.builtin.raw: test $(hostname) != b", more='limit = "all"', where="machines.c"
    )
    done = lab("up", "c", timeout=300)
    assert done.code == 11, done
    assert "failed on b (1 failed); well on: a, c" in done.stderr


def test_a_guest_without_python(lab: Lab) -> None:
    write_plain(lab, "ansible.builtin.ping:", where="machines.c")
    done = lab("up", "c")
    assert done.code == 11, done
    assert "the guest has no Python, which Ansible's modules need" in done.stderr
    assert "debian/12" in done.stderr


def test_a_playbook_that_never_ends(lab: Lab) -> None:
    write_plain(lab, "ansible.builtin.raw: sleep 999", where="machines.c")
    with (lab.folder / "Qupfile").open("a") as file:
        file.write('timeout = "4s"\n')
    lab("trust").ok()
    done = lab("up", "c")
    assert done.code == 11, done
    assert "did not finish within 4 s" in done.stderr
    assert lab.sh("echo fine", "c") == "fine\n"
