"""The plugin without a guest: options, content, inventory, command line, and what is said."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qup_ansible
from qup_ansible import galaxy, playbook, program
from qup_ansible.content import find_content
from qup_ansible.inventory import make_inventory
from qup_ansible.options import ansible_options

from qup.api import ConfigError, ProvisionError
from qup.testing import FakeGuest, FakeHost, check_plugin, make_plan

pytest_plugins = ["qup.testing"]

ANSIBLE = qup_ansible.Ansible()


def options(**more: Any) -> Any:
    return ansible_options()(**{"playbook": "site.yml", **more})


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site.yml").write_text("- hosts: all\n")
    return tmp_path


@pytest.fixture
def fake_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """``fake_ansible(name, script)`` makes a program that is found instead of Ansible's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(program.sys, "executable", str(folder / "python"))

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def test_it_keeps_to_the_hooks() -> None:
    plugins = check_plugin(qup_ansible)
    assert plugins.plugins["qup_ansible"].brings == ["provisioner ansible", "check ansible"]


# --- the plan -----------------------------------------------------------------------------


def test_a_step_in_a_plan(site: Path) -> None:
    text = '[[machine.provision]]\nansible = "site.yml"\n'
    (step,) = make_plan(text, qup_ansible, project=site).provision
    assert (step.on_host, step.run, step.by_content) == (True, "changed", False)
    assert ANSIBLE.risk(options(), site) == "runs on this computer: ansible-playbook site.yml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('on = "before-up"\nansible = "site.yml"', "works on the guest, which is not up"),
        ('ansible = { playbook = "site.yml", groups = { "a b" = [] } }', "not a group's name"),
        ('ansible = { playbook = "site.yml", verbosity = 9 }', "verbosity"),
        ("ansible = {}", "playbook"),
    ],
)
def test_what_a_step_can_not_have(site: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(f"[[machine.provision]]\n{text}\n", qup_ansible, project=site)
    assert words in str(caught.value.details)


def test_a_computer_without_ansible(
    monkeypatch: pytest.MonkeyPatch, fake_host: FakeHost, fake_guest: FakeGuest, site: Path
) -> None:
    monkeypatch.setattr(program.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    (problem,) = ANSIBLE.problems(options(), site, fake_host)
    assert "pip install 'qup-ansible[ansible]'" in str(problem.hint)
    (finding,) = qup_ansible.check_ansible(fake_host)
    assert finding.status == "warning"
    with pytest.raises(Exception, match="Ansible was not found"):
        ANSIBLE.run(options(), fake_guest, site, print)


def test_the_check(fake_host: FakeHost) -> None:
    (finding,) = qup_ansible.check_ansible(fake_host)
    assert finding.status == "ok"
    assert "core" in finding.message


# --- which files count --------------------------------------------------------------------


def test_what_counts_as_content(tmp_path: Path) -> None:
    for name in (
        "deploy/site.yml", "deploy/other.yaml", "deploy/notes.txt", "deploy/ansible.cfg",
        "deploy/roles/web/tasks/main.yml", "deploy/roles/web/files/index.html",
        "deploy/roles/web/__pycache__/x.pyc", "deploy/site.retry", "group_vars/all.yml",
        "requirements.yml", "src/main.c", "app.yml", "more/a", "secret",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "deploy/roles/web/circle").symlink_to("..")
    chosen = options(
        playbook="deploy/site.yml",
        requirements="requirements.yml",
        files=("more",),
        vault_password_file="secret",
    )
    found = {str(path.relative_to(tmp_path)) for path in find_content(chosen, tmp_path)}
    own = {name for name in found if "circle" not in name}
    assert own == {
        "deploy/site.yml", "deploy/other.yaml", "deploy/ansible.cfg",
        "deploy/roles/web/tasks/main.yml", "deploy/roles/web/files/index.html",
        "group_vars/all.yml", "requirements.yml", "more/a",
    }  # fmt: skip

    before = ANSIBLE.digest(chosen, tmp_path)
    (tmp_path / "src/main.c").write_text("changed")
    (tmp_path / "secret").write_text("changed")
    assert ANSIBLE.digest(chosen, tmp_path) == before
    (tmp_path / "deploy/roles/web/files/index.html").write_text("changed")
    assert ANSIBLE.digest(chosen, tmp_path) != before


@pytest.mark.parametrize(
    "wrong",
    [
        {"playbook": "nowhere.yml"},
        {"playbook": "."},
        {"files": ("nowhere",)},
        {"requirements": "nowhere"},
        {"config": "nowhere"},
    ],
)
def test_a_file_that_is_not_there(site: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"nowhere|not a file"):
        ANSIBLE.digest(options(**wrong), site)


# --- the inventory ------------------------------------------------------------------------

CONFIG = """\
Host web
  HostName 127.0.0.1
  Port 40001
  User debian
  IdentityFile "/run/a b/key"
"""


def write_configs(folder: Path) -> dict[str, Path]:
    peers = {}
    for name in ("web", "db"):
        peers[name] = folder / f"a folder of {name}" / "config"
        peers[name].parent.mkdir()
        peers[name].write_text(CONFIG.replace("web", name))
    return peers


def test_the_inventory(tmp_path: Path) -> None:
    peers = write_configs(tmp_path)
    groups = {"front": ["web"], "all_of_it": ["web", "db", "gone"]}
    inventory, absent = make_inventory(peers, groups, {"db": {"size": 3, "ansible_port": 22}})
    assert absent == ["gone"]
    hosts = inventory["all"]["hosts"]
    assert hosts["web"]["ansible_user"] == "debian"
    assert hosts["web"]["ansible_port"] == 40001
    assert hosts["web"]["ansible_host_key_checking"] is True
    assert (hosts["db"]["size"], hosts["db"]["ansible_port"]) == (3, 22)
    assert list(inventory["all"]["children"]["all_of_it"]["hosts"]) == ["web", "db"]


def test_ansible_understands_the_inventory(tmp_path: Path) -> None:
    peers = write_configs(tmp_path)
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps(make_inventory(peers, {"front": ["web"]}, {})[0]))
    done = subprocess.run(
        [program.require_program("ansible-inventory"), "-i", path, "--list"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["front"]["hosts"] == ["web"]
    assert said["_meta"]["hostvars"]["db"]["ansible_port"] == 40001


# --- running it ---------------------------------------------------------------------------


def test_the_words(site: Path, fake_guest: FakeGuest) -> None:
    chosen = options(
        tags=("a", "b"),
        skip_tags=("c",),
        become=True,
        become_user="postgres",
        verbosity=2,
        vault_password_file="pass",
        extra_vars={"secret": "x"},
        args=("--diff",),
    )
    words = playbook.make_words(chosen, fake_guest, site, Path("/t"))
    assert " ".join(words) == (
        "--inventory /t/inventory.json --limit default --extra-vars @/t/extra-vars.json"
        f" --tags a,b --skip-tags c --become --become-user postgres --vault-password-file"
        f" {site}/pass -vv --diff -- {site}/site.yml"
    )
    assert "all" in playbook.make_words(options(limit="all"), fake_guest, site, Path("/t"))


def test_its_configuration(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "deploy").mkdir()
    (site / "deploy" / "ansible.cfg").touch()
    chosen = options(playbook="deploy/site.yml")
    env = playbook.make_environment(chosen, site)
    assert env["ANSIBLE_CONFIG"] == str(site / "deploy/ansible.cfg")
    (site / "ansible.cfg").touch()
    env = playbook.make_environment(chosen, site)
    assert env["ANSIBLE_CONFIG"] == str(site / "ansible.cfg")
    monkeypatch.setenv("ANSIBLE_CONFIG", "/mine")
    assert "ANSIBLE_CONFIG" not in playbook.make_environment(chosen, site)
    env = playbook.make_environment(options(config="deploy/ansible.cfg"), site)
    assert env["ANSIBLE_CONFIG"] == str(site / "deploy/ansible.cfg")


RECAP = """
echo 'PLAY RECAP ****'
echo 'a      : ok=2    changed=0    unreachable=0    failed=0    skipped=0'
echo 'b-1    : ok=1    changed=1    unreachable=0    failed=1    skipped=0'
echo 'c      : ok=0    changed=0    unreachable=1    failed=0    skipped=0'
exit 4
"""


def test_a_failure_names_the_hosts(
    site: Path, fake_guest: FakeGuest, fake_ansible: Callable[[str, str], Path]
) -> None:
    fake_ansible("ansible-playbook", RECAP)
    said: list[str] = []
    with pytest.raises(ProvisionError) as caught:
        ANSIBLE.run(options(), fake_guest, site, said.append)
    assert caught.value.message == (
        "the playbook site.yml failed on b-1 (1 failed), c (not reachable); well on: a"
    )
    assert said[0] == "PLAY RECAP ****"


def test_a_guest_without_python(
    site: Path, fake_guest: FakeGuest, fake_ansible: Callable[[str, str], Path]
) -> None:
    fake_ansible("ansible-playbook", RECAP)
    fake_guest.name = "b-1"
    fake_guest.on("sh", "-c", code=1)
    with pytest.raises(ProvisionError, match="the guest has no Python") as caught:
        ANSIBLE.run(options(), fake_guest, site, print)
    assert "debian/12" in str(caught.value.hint)


def test_a_failure_without_a_recap(
    site: Path, fake_guest: FakeGuest, fake_ansible: Callable[[str, str], Path]
) -> None:
    fake_ansible("ansible-playbook", "echo 'ERROR! no such thing' >&2; exit 4")
    with pytest.raises(ProvisionError, match="site.yml ended with exit code 4"):
        ANSIBLE.run(options(), fake_guest, site, print)


def test_secrets_are_for_nobody_else(
    site: Path, fake_guest: FakeGuest, fake_ansible: Callable[[str, str], Path]
) -> None:
    fake_ansible(
        "ansible-playbook",
        f'cp -p "${{6#@}}" {site}/seen; cp "$2" {site}/inventory; echo $# "$@" > {site}/words',
    )
    fake_guest.others = ("other",)
    ANSIBLE.run(options(extra_vars={"token": "hush"}), fake_guest, site, print)
    assert json.loads((site / "seen").read_text()) == {"token": "hush"}
    assert stat.S_IMODE((site / "seen").stat().st_mode) == 0o600
    assert "hush" not in (site / "words").read_text()
    assert set(json.loads((site / "inventory").read_text())["all"]["hosts"]) == {"default", "other"}
    assert not list(Path(os.environ["TMPDIR"]).glob("qup-ansible-*"))


# --- galaxy -------------------------------------------------------------------------------


def test_requirements_are_installed_once(
    site: Path,
    fake_guest: FakeGuest,
    fake_ansible: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_ansible("ansible-playbook", f"echo $ANSIBLE_ROLES_PATH >{site}/roles-path")
    fake_ansible(
        "ansible-config", """echo '[{"name": "DEFAULT_ROLES_PATH", "value": ["/my/roles"]}]'"""
    )
    fake_ansible("ansible-galaxy", f"echo run >>{site}/installs; exit $(cat {site}/code)")
    (site / "requirements.yml").write_text("roles: []\n")
    chosen = options(requirements="requirements.yml")

    (site / "code").write_text("1")
    with pytest.raises(ProvisionError, match="ansible-galaxy ended with exit code 1"):
        ANSIBLE.run(chosen, fake_guest, site, print)
    (site / "code").write_text("0")
    for _ in range(2):
        ANSIBLE.run(chosen, fake_guest, site, print)
    assert (site / "installs").read_text() == "run\nrun\n"  # the one that failed, and one
    own = site / ".qup" / "ansible" / "roles"
    assert (site / "roles-path").read_text() == f"{own}:/my/roles\n"

    monkeypatch.setattr(galaxy, "is_offline", lambda: True)
    ANSIBLE.run(chosen, fake_guest, site, print)
    (site / "requirements.yml").write_text("roles: [x]\n")
    with pytest.raises(ProvisionError, match="qup is offline"):
        ANSIBLE.run(chosen, fake_guest, site, print)


def test_every_option_is_in_the_readme() -> None:
    text = (Path(qup_ansible.__file__).parents[1] / "README.md").read_text()
    for name, field in ansible_options().model_fields.items():
        assert f"`{field.alias or name}`" in text
