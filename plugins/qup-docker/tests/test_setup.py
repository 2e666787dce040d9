"""The step on guests that are none: what it finds out, what it writes there, what it says."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import qup_docker
from qup_docker import boot2docker, setup
from qup_docker.guests import END, ROOT, Facts, File, parse_facts, write_files
from qup_docker.options import make_options
from qup_docker.systemd import (
    DAEMON,
    HOLD,
    KEYS,
    PATHS,
    UNIT,
    Systemd,
    find_command,
    merge_daemon,
    write_keys,
    write_unit,
)

from qup.api import ConfigError, MachineError, ProvisionError
from qup.testing import FakeGuest, check_plugin, make_plan

DEBIAN = """\
id=debian
title=Debian GNU/Linux 12 (bookworm)
hostname=web
user=debian
groups=debian adm sudo
engine=/usr/sbin/dockerd
apt=/usr/bin/apt-get
parser=/sbin/apparmor_parser
apparmor=Y
systemd=yes
active=active
addresses
2: eth0    inet 10.0.2.15/24 metric 1024 brd 10.0.2.255 scope global dynamic eth0
2: eth0    inet6 fec0::5054:ff:fe12:3456/64 scope site dynamic
2: eth0    inet6 2001:db8::99/64 scope global temporary dynamic
3: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0
digests
lines
/lib/systemd/system/docker.service:[Service]
/lib/systemd/system/docker.service:ExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS
"""


def options(**given: Any) -> Any:
    return make_options().model_validate({key.replace("_", "-"): given[key] for key in given})


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGuest:
    """A Debian with an engine that answers."""
    made = FakeGuest("web", folder=tmp_path, ways={2376: ("127.0.0.1", 4000)})
    answer(made, DEBIAN)
    monkeypatch.setattr(setup, "ask_version", lambda *_: "20.10.24")
    monkeypatch.setattr(setup, "run", lambda *_, **__: None)  # ssh -O stop
    monkeypatch.setattr(setup, "adopt_context", lambda *_: None)
    return made


def answer(guest: FakeGuest, text: str) -> None:
    """What the guest says when it is looked at."""
    guest.on(*ROOT, PATHS[0], stdout=text)


def step(guest: FakeGuest, **given: Any) -> list[str]:
    said: list[str] = []
    setup.set_up(options(**given), guest, Path("/home/me/project"), said.append)
    return said


def scripts(guest: FakeGuest) -> list[str]:
    """What was run as root, without the looking."""
    pairs = zip(guest.ran, guest.inputs, strict=True)
    return [text or "" for words, text in pairs if words == ROOT]


def after(guest: FakeGuest) -> str:
    """The guest's answer once it has what the scripts have written."""
    files = {path: file for path, file in read_back(guest).items() if path in PATHS}
    digests = "".join(f"{file.digest}  {path}\n" for path, file in files.items())
    lines = "".join(
        f"{path}:{line}\n"
        for path, file in files.items()
        if path in (DAEMON, KEYS, UNIT)
        for line in file.text.splitlines()
    )
    text = DEBIAN.replace("digests\n", f"digests\n{digests}") + lines
    return text.replace("adm sudo", "adm sudo docker")


def read_back(guest: FakeGuest) -> dict[str, File]:
    """The files that scripts wrote; the last one of each."""
    found = {}
    for script in scripts(guest):
        for part in script.split("cat >")[1:]:
            head, _, rest = part.partition("\n")
            path = shlex.split(head)[0].removesuffix(".qup-part")
            found[path] = File(rest.partition(END)[0])
    return found


# --- the plugin -----------------------------------------------------------------------------


def test_it_keeps_to_the_hooks() -> None:
    plugins = check_plugin(qup_docker)
    assert plugins.plugins["qup_docker"].brings == ["provisioner docker", "command docker"]


def test_in_a_plan() -> None:
    plan = make_plan("[[machine.provision]]\ndocker = true\n", qup_docker)
    (made,) = plan.provision
    assert (made.run, made.by_content) == ("always", False)
    assert [str(item) for item in plan.nics[0].plan.forwards] == ["127.0.0.1:0:2376"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{ lables = {} }", "did you mean 'labels'"),
        ('{ labels = { "a b" = "c" } }', "not the name of a label"),
        ('{ labels = { a = "b\\nc" } }', "can't be printed"),
        ('{ registry-mirrors = ["mirror.example.org"] }', "not the http:// or https:// address"),
        ('{ insecure-registries = ["http://r.example.org"] }', "is no registry"),
        ('{ env = { "A-B" = "c" } }', "not the name of a variable"),
        ('{ env = { A = "b\\u0007" } }', "can't be printed"),
        ('{ names = ["a b"] }', "neither a host's name nor an address"),
        ('{ options = { hosts = ["tcp://0.0.0.0"] } }', "set by qup"),
        ('{ options = { labels = ["a=b"] } }', "beside 'options'"),
        ('{ options = { "log driver" = "local" } }', "not a key of the engine's"),
        ("{ options = { x = 2026-11-24 } }", "has no dates"),
        ('{ storage-driver = "a b" }', "storage-driver"),
        ('"debian"', "expected a table"),
    ],
)
def test_what_is_refused(table: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(f"[[machine.provision]]\ndocker = {table}\n", qup_docker)
    assert words in f"{caught.value.message}\n{caught.value.details}\n{caught.value.hint}"


def test_what_is_taken() -> None:
    text = """
[[machine.provision]]
[machine.provision.docker]
labels = { role = "build", "org.example/x" = "a b" }
registry-mirrors = ["https://mirror.example.org", "http://192.0.2.1:5000"]
insecure-registries = ["registry.local:5000", "10.0.0.0/8", "192.0.2.7", "[fd00::1]:5000"]
env = { HTTPS_PROXY = "http://proxy.example.org:3128" }
options = { "log-driver" = "local", "log-opts" = { max-size = "1m" }, debug = true }
names = ["docker.example.org", "*.example.org", "192.0.2.9", "fd00::1"]
storage-driver = "overlay2"
install = false
"""
    make_plan(text, qup_docker)


# --- Debian ---------------------------------------------------------------------------------


def test_a_guest_becomes_a_docker_host_and_stays_one(guest: FakeGuest) -> None:
    said = step(guest)
    assert said[:3] == [f"certificate made: {what} (there was none)" for what in
                        ("CA", "client", "server")]  # fmt: skip
    assert said[-2:] == ["debian may use the engine", "Docker 20.10.24 at tcp://127.0.0.1:4000"]
    (setting, admitting) = scripts(guest)
    assert "systemctl restart docker.service" in setting
    assert "rm -f /etc/docker/key.json /var/lib/docker/engine-id" in setting
    assert "usermod -aG docker debian" in admitting
    assert "chmod 600 /etc/docker/tls/server-key.pem.qup-part" in setting
    assert "BEGIN PRIVATE KEY" in setting
    assert (guest.folder / "ca-key.pem").read_text() not in setting
    assert (guest.folder / "key.pem").read_text() not in setting
    assert not any("PRIVATE" in word for words in guest.ran for word in words)
    # Again: nothing is different, so nothing is done.
    answer(guest, after(guest))
    before = len(scripts(guest))
    assert step(guest) == ["Docker 20.10.24 at tcp://127.0.0.1:4000"]
    assert len(scripts(guest)) == before


def test_an_engine_that_sleeps_is_started(guest: FakeGuest) -> None:
    step(guest)
    answer(guest, after(guest).replace("active=active", "active=activating"))
    step(guest)
    assert scripts(guest)[-1] == "systemctl start docker.service\n"


def test_a_clone_gets_certificates_of_its_own(guest: FakeGuest, tmp_path: Path) -> None:
    """Its disk has those of the machine that was saved as a template."""
    step(guest)
    answer(guest, after(guest).replace("hostname=web", "hostname=db"))
    other = tmp_path / "other"
    other.mkdir()
    guest.name, guest.folder = "db", other
    said = step(guest)
    assert "changed: /etc/docker/tls/server-key.pem" in said
    assert "rm -f /etc/docker/key.json /var/lib/docker/engine-id" in scripts(guest)[-1]
    assert UNIT not in str(said)


def test_another_address_makes_another_certificate(guest: FakeGuest) -> None:
    step(guest)
    answer(guest, after(guest).replace("10.0.2.15", "192.0.2.7"))
    said = step(guest)
    assert said[0] == "certificate made: server (it lacks 192.0.2.7)"
    assert "changed: /etc/docker/tls/server.pem" in said
    assert "new: " not in str(said)
    assert "engine-id" not in scripts(guest)[-1]


def test_the_certificate_is_good_for_where_a_forward_is(guest: FakeGuest) -> None:
    step(guest)
    answer(guest, after(guest))
    guest.ways = {2376: ("127.0.0.2", 4000)}
    said = step(guest)
    assert said[0] == "certificate made: server (it lacks 127.0.0.2)"
    assert "changed: /etc/docker/tls/server.pem" in said
    guest.ways.clear()
    with pytest.raises(ProvisionError, match="doesn't answer: no port of this computer"):
        step(guest)


def test_options_come_and_go(guest: FakeGuest) -> None:
    given = {"labels": {"role": "build"}, "options": {"log-driver": "local"}}
    step(guest, **given, env={"HTTPS_PROXY": 'http://a"b%c'})
    files = read_back(guest)
    assert json.loads(files[DAEMON].text) == {"labels": ["role=build"], "log-driver": "local"}
    assert 'Environment="HTTPS_PROXY=http://a\\"b%%c"' in files[UNIT].text
    answer(guest, after(guest))
    assert len(step(guest, **given, env={"HTTPS_PROXY": 'http://a"b%c'})) == 1
    said = step(guest, labels={"role": "test"})
    assert f"changed: {DAEMON}" in said
    files = read_back(guest)
    assert json.loads(files[DAEMON].text) == {"labels": ["role=test"]}
    assert "Environment" not in files[UNIT].text
    answer(guest, after(guest))
    step(guest)
    assert json.loads(read_back(guest)[DAEMON].text) == {}


def test_the_guests_own_settings_are_kept() -> None:
    merged = merge_daemon('{"debug": true, "labels": ["a=b"]}', '["labels"]', {"mtu": 1400})
    assert json.loads(merged) == {"debug": True, "mtu": 1400}
    assert json.loads(merge_daemon("", "", {"mtu": 1400})) == {"mtu": 1400}
    assert json.loads(merge_daemon('{"a": 1}', "damaged", {})) == {"a": 1}
    for damaged in ("{", "[]"):
        with pytest.raises(ProvisionError, match="is damaged"):
            merge_daemon(damaged, "", {})


def test_all_keys_of_the_configuration() -> None:
    made = write_keys(
        options(
            labels={"a": "b"},
            registry_mirrors=["https://m.example.org"],
            insecure_registries=["r:5000"],
            storage_driver="vfs",
            options={"debug": True},
        )
    )
    assert made == {
        "debug": True,
        "labels": ["a=b"],
        "registry-mirrors": ["https://m.example.org"],
        "insecure-registries": ["r:5000"],
        "storage-driver": "vfs",
    }


LIB, ETC = "/lib/systemd/system", "/etc/systemd/system"


@pytest.mark.parametrize(
    ("texts", "command"),
    [
        ({f"{LIB}/docker.service": "ExecStart=/a -H fd://"}, "/a -H fd://"),
        ({f"{LIB}/docker.service": "ExecStart=/a \\\n  -H fd:// \\\n  --x"}, "/a  -H fd://  --x"),
        ({f"{LIB}/docker.service": "ExecStart=/a", f"{ETC}/docker.service": "ExecStart=/b"}, "/b"),
        (
            {
                f"{LIB}/docker.service": "ExecStart=/a",
                f"{ETC}/docker.service.d/x.conf": "[Service]\nExecStart=\nExecStart=/c",
                f"{LIB}/docker.service.d/x.conf": "ExecStart=/hidden",
                UNIT: "ExecStart=/ours",
            },
            "/c",
        ),
    ],
)
def test_what_starts_the_engine(texts: Mapping[str, str], command: str) -> None:
    assert find_command(texts) == command


def test_no_unit() -> None:
    with pytest.raises(ProvisionError, match=r"no docker\.service"):
        find_command({})


def test_an_engine_that_listens_nowhere_by_flags_keeps_its_socket() -> None:
    texts = {f"{LIB}/docker.service": "ExecStart=/usr/bin/dockerd"}
    assert "/usr/bin/dockerd -H unix:///var/run/docker.sock -H tcp://" in write_unit(
        Facts({}, texts=texts), {}
    )
    texts[DAEMON] = '{"hosts": ["unix:///run/x.sock"]}'
    assert "-H unix://" not in write_unit(Facts({}, texts=texts), {})


# --- installing -----------------------------------------------------------------------------


def test_an_engine_is_installed(guest: FakeGuest) -> None:
    answers = [DEBIAN.replace("engine=/usr/sbin/dockerd", "engine="), DEBIAN]
    guest_run = guest.run

    def run(argv: Any, **more: Any) -> Any:
        if tuple(argv[: len(ROOT)]) == ROOT and len(argv) > len(ROOT):
            answer(guest, answers.pop(0))
        return guest_run(argv, **more)

    guest.run = run  # type: ignore[method-assign]
    said = step(guest)
    assert "installing Docker's engine in Debian GNU/Linux 12 (bookworm)" in said
    (words,) = [words for words in guest.ran if "apt-get -q install" in str(words)]
    assert "docker.io apparmor" in words[-1]
    # It starts once, when it has been told who may speak to it.
    assert words[-1].index(HOLD) < words[-1].index("apt-get")
    assert "trap let_go EXIT" in words[-1]
    assert scripts(guest)[0].count("systemctl restart docker.service") == 1


def test_what_apt_has_left_half_done_is_finished() -> None:
    half = DEBIAN.replace("parser=", "half=Status: install ok unpacked\nparser=")
    assert setup.needs_installation(parse_facts(half))
    assert not setup.needs_installation(parse_facts(half.replace("apt=/usr/bin/apt-get", "apt=")))


def test_apparmor_without_its_parser_is_mended() -> None:
    assert not setup.needs_installation(parse_facts(DEBIAN))
    lacking = DEBIAN.replace("parser=/sbin/apparmor_parser", "parser=")
    assert setup.needs_installation(parse_facts(lacking))
    assert not setup.needs_installation(parse_facts(lacking.replace("apparmor=Y", "apparmor=N")))


@pytest.mark.parametrize(
    ("change", "given", "words"),
    [
        (("engine=/usr/sbin/dockerd", "engine="), {"install": False}, "install = false"),
        (("apt=/usr/bin/apt-get", "apt="), {}, "no package of one that qup knows"),
    ],
)
def test_no_engine_and_none_to_be_had(
    guest: FakeGuest, change: tuple[str, str], given: dict[str, Any], words: str
) -> None:
    text = DEBIAN.replace("engine=/usr/sbin/dockerd", "engine=")
    answer(guest, text.replace(*change))
    with pytest.raises(ProvisionError, match=words):
        step(guest, **given)


def test_apt_that_fails(guest: FakeGuest) -> None:
    answer(guest, DEBIAN.replace("engine=/usr/sbin/dockerd", "engine="))
    guest.on(*ROOT[:-1], "-c", code=100)
    with pytest.raises(ProvisionError, match="apt-get ended with 100"):
        step(guest)


def test_a_guest_of_another_kind(guest: FakeGuest) -> None:
    answer(guest, "id=alpine\ntitle=Alpine Linux v3.20\naddresses\ndigests\nlines\n")
    with pytest.raises(ProvisionError, match="Alpine Linux v3.20 can't be made a Docker host"):
        step(guest)


# --- failing --------------------------------------------------------------------------------


def test_an_engine_that_does_not_start_is_quoted(guest: FakeGuest) -> None:
    guest.on(*ROOT, code=1, stdout="level=info msg=well\nunable to configure: bad storage\nbye\n")
    answer(guest, DEBIAN)
    with pytest.raises(ProvisionError) as caught:
        step(guest)
    assert caught.value.details == "unable to configure: bad storage"


def test_an_engine_that_does_not_answer(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise MachineError("no engine answers at tcp://127.0.0.1:4000: refused", hint="look")

    monkeypatch.setattr(setup, "ask_version", refuse)
    with pytest.raises(ProvisionError, match="doesn't answer: no engine answers"):
        step(guest)
    guest.ways.clear()
    with pytest.raises(ProvisionError, match="doesn't answer: no port of this computer"):
        step(guest)


# --- boot2docker and RancherOS --------------------------------------------------------------

B2D = """\
id=boot2docker
title=Boot2Docker 19.03.12 (TCL 10.1)
hostname=web
user=docker
groups=docker staff
engine=/usr/local/bin/dockerd
addresses
3: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0
digests
lines
"""
GIVEN = {
    "labels": {"role": "build"},
    "registry_mirrors": ["https://m.example.org"],
    "insecure_registries": ["r:5000"],
    "options": {"debug": True, "log-opt": ["max-size=1m", "max-file=2"], "mtu": 1400},
    "env": {"HTTP_PROXY": "http://it's"},
}
FLAGS = [
    *("--label role=build", "--insecure-registry r:5000"),
    *("--registry-mirror https://m.example.org", "--debug=true"),
    *("--log-opt=max-size=1m", "--log-opt=max-file=2", "--mtu=1400"),
]


def source(text: str, *names: str, folder: Path) -> list[str]:
    """What a shell makes of a file of variables."""
    (folder / "profile").write_text(text)
    show = "; ".join(f'printf "%s\\n" "$(echo ${name})"' for name in names)
    done = subprocess.run(
        ["sh", "-c", f". ./profile; {show}; printenv HTTP_PROXY"],
        cwd=folder, check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout.splitlines()


def test_boot2docker_has_rules_of_its_own(guest: FakeGuest, tmp_path: Path) -> None:
    answer(guest, B2D)
    said = step(guest, **GIVEN)
    root = "/var/lib/boot2docker"
    assert [line for line in said if line.startswith("new: ")] == [
        f"new: {root}/tls/ca.pem",
        f"new: {root}/tls/server.pem",
        f"new: {root}/tls/serverkey.pem",
        f"new: {root}/profile",
    ]
    files = read_back(guest)
    names = ("EXTRA_ARGS", "CACERT", "SERVERCERT", "SERVERKEY", "DOCKER_HOST", "DOCKER_STORAGE")
    found = source(files[f"{root}/profile"].text, *names, "DOCKER_TLS", folder=tmp_path)
    assert found == [
        " ".join(FLAGS),
        f"{root}/tls/ca.pem",
        f"{root}/tls/server.pem",
        f"{root}/tls/serverkey.pem",
        "-H tcp://0.0.0.0:2376",
        "auto",
        "auto",
        "http://it's",
    ]
    (script,) = scripts(guest)
    assert "/etc/init.d/docker stop\n/etc/init.d/docker start" in script
    assert "apt-get" not in script


def test_rancheros_has_others(guest: FakeGuest, tmp_path: Path) -> None:
    answer(guest, B2D.replace("id=boot2docker", "id=rancheros"))
    step(guest, **GIVEN)
    root = "/var/lib/rancher/conf"
    files = read_back(guest)
    assert source(files[f"{root}/docker"].text, "DOCKER_OPTS", folder=tmp_path) == [
        " ".join(
            [
                "-H tcp://0.0.0.0:2376 -H unix:///var/run/docker.sock --storage-driver overlay",
                f"--tlsverify --tlscacert {root}/ca.pem --tlscert {root}/server.pem",
                f"--tlskey {root}/server-key.pem",
                *FLAGS,
            ]
        ),
        "http://it's",
    ]
    assert "system-docker restart docker" in scripts(guest)[-1]
    with pytest.raises(ProvisionError, match="can't use the storage driver zfs"):
        step(guest, storage_driver="zfs")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": {"a": "b c"}}, "has a space"),
        ({"labels": {"a": "it's"}}, "quotation mark"),
        ({"options": {"log-opts": {"max-size": "1m"}}}, "none that is a table"),
        ({"options": {"runtimes": {"x": {"path": "/x"}}}}, "no flag can say"),
    ],
)
def test_what_flags_can_not_say(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ProvisionError, match=words):
        list(boot2docker.write_flags(options(**given)))


# --- scripts --------------------------------------------------------------------------------


def test_files_are_written_aside(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "it's"
    file = File("$HOME `x` \\ \n'\"\n", "640")
    for _ in range(2):
        subprocess.run(["sh", "-s"], input=write_files({str(path): file}), text=True, check=True)
    assert path.read_text() == file.text
    assert f"{path.stat().st_mode:o}" == "100640"
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_facts() -> None:
    facts = parse_facts(DEBIAN + f"{DAEMON}:{{}}\n")
    assert facts.names == ("web", "10.0.2.15", "fec0::5054:ff:fe12:3456")
    assert facts.texts[DAEMON] == "{}"
    assert facts.get("nothing") == ""
    files: Callable[..., Any] = Systemd().files
    assert set(files(facts, options(), "a", "b", "c")) == set(PATHS) - {DAEMON, KEYS}
