"""How a plugin is tested with ``qup.testing``, without QEMU; and once with a real guest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import qup_hello
from typer import Typer
from typer.testing import CliRunner

from qup.api import ConfigError, Event, MachineError, Result
from qup.testing import FakeGuest, FakeHost, check_plugin, make_plan, qemu_words

pytest_plugins = ["qup.testing"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "qup-hello"


class Finished(Event):
    """The event that qup sends at the end of a verb."""

    kind = "finished"

    def __init__(self, machine: str, verb: str = "up", *, changed: bool = True) -> None:
        super().__init__(machine)
        self.data = {"verb": verb, "changed": changed, "seconds": 3.456}

    def to_dict(self) -> dict[str, Any]:
        return {"event": self.kind, "machine": self.machine, **self.data}


def test_it_keeps_to_the_hooks() -> None:
    plugins = check_plugin(qup_hello)
    assert plugins.plugins["qup_hello"].brings == [
        "network mode quiet",
        "accelerator slow-tcg",
        "folder type packed",
        "provisioner greet",
        "command hello",
        "check hello-starts",
        "additions to plans",
        "an observer of events",
    ]


# --- what a Qupfile can ask for -----------------------------------------------------------


def test_the_network_mode() -> None:
    plan = make_plan('[machine.network]\nmode = "quiet"\nsubnet = "10.9.8.0/24"', qup_hello)
    assert plan.nics[0].plan.guest_address == "10.9.8.15"
    netdev = "user,id=net0,hostname=default,net=10.9.8.0/24,restrict=on,ipv6=off"
    assert netdev in qemu_words(plan)


@pytest.mark.parametrize("subnet", ["10.9.8.0/16", "10.9.8.7/24", "nonsense"])
def test_a_wrong_subnet_is_shown_at_its_line(subnet: str) -> None:
    text = f'[machine.network]\nmode = "quiet"\nsubnet = "{subnet}"'
    with pytest.raises(ConfigError) as caught:
        make_plan(text, qup_hello)
    assert "Qupfile:3:" in str(caught.value.details)


def test_the_accelerator() -> None:
    plan = make_plan('[machine.qemu]\naccelerator = "slow-tcg"', qup_hello)
    assert "tcg,thread=single" in qemu_words(plan)


def test_the_accelerator_is_never_taken_by_auto() -> None:
    assert make_plan("", qup_hello).accelerator.name == "tcg"


def test_the_accelerator_needs_a_qemu_with_tcg(fake_host: FakeHost) -> None:
    fake_host.accelerators = {"kvm"}
    verdict = qup_hello.SlowTcg().usable(fake_host, "qemu-system-x86_64", "x86_64", prove=True)
    assert not verdict.usable
    assert verdict.hint


def test_the_provisioner(fake_guest: FakeGuest, tmp_path: Path) -> None:
    greet = qup_hello.Greet()
    said: list[str] = []
    fake_guest.on("cat", stdout="good day\n")
    greet.run(greet.options(text="good day"), fake_guest, tmp_path, said.append)
    assert fake_guest.files == {"greeting.txt": b"good day\n"}
    assert said == ["good day"]


def test_the_folder_type() -> None:
    text = '[[machine.folders]]\nhost = "."\nguest = "/srv/app"\ntype = "{}"'
    (folder,) = make_plan(text.format("packed"), qup_hello).folders
    assert str(folder) == ". -> /srv/app (packed)"
    with pytest.raises(ConfigError) as caught:
        make_plan(text.format("packd"), qup_hello)
    assert "did you mean 'packed'?" in str(caught.value.details)


STEP = '[[machine.provision]]\ngreet = {text = "good day, sir"}'


def test_the_guest_sees_the_greeting() -> None:
    words = qemu_words(make_plan(STEP, qup_hello))
    assert words[words.index("-smbios") + 1] == "type=11,value=qup-hello:good day,, sir"


def test_nothing_is_added_for_those_who_did_not_ask() -> None:
    assert make_plan("", qup_hello) == make_plan("")


# --- starts, the command, the check -------------------------------------------------------


def test_starts_are_noted(state: Path) -> None:
    qup_hello.qup_event(Event("web"))
    qup_hello.qup_event(Finished("web", "down"))
    qup_hello.qup_event(Finished("web", changed=False))
    assert not state.exists()
    qup_hello.qup_event(Finished("web"))
    qup_hello.qup_event(Finished("db"))
    lines = (state / "starts.log").read_text().splitlines()
    assert [line.split(" ")[1:] for line in lines] == [["web", "3.46"], ["db", "3.46"]]
    assert qup_hello.read_starts() == [3.46, 3.46]


def command(monkeypatch: pytest.MonkeyPatch, answer: Result, *words: str) -> Any:
    asked: list[str] = []
    monkeypatch.setattr(qup_hello, "run", lambda argv, check: asked.extend(argv) or answer)
    app = Typer()
    app.command()(qup_hello.hello)
    done = CliRunner().invoke(app, list(words))
    return asked, done


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    qup_hello.qup_event(Finished("web"))
    answer = Result((), 0, "web.example\n", "")
    asked, done = command(monkeypatch, answer, "web", "--times", "2", "--shout")
    assert asked[-5:] == ["ssh", "web", "--", "uname", "-n"]
    assert done.stdout.splitlines() == [
        "HELLO, WEB.EXAMPLE!",
        "HELLO, WEB.EXAMPLE!",
        "1 starts so far, 3.5 s in the median",
    ]


def test_the_command_without_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    _, done = command(monkeypatch, Result((), 9, "", "error: it is down"))
    assert isinstance(done.exception, MachineError)
    assert done.exception.details == "error: it is down"


def test_the_check(fake_host: FakeHost) -> None:
    (finding,) = qup_hello.check_starts(fake_host)
    assert finding.status == "ok"


# --- with a real guest, where the plugin is installed -------------------------------------


@pytest.mark.vm
def test_a_real_guest(vm_project: Any, qup: Any) -> None:
    # As if installed: an entry point is a few lines in a folder on the path.
    project = vm_project(f"""
[machine]
memory = "256M"
[machine.network]
mode = "quiet"
[machine.qemu]
accelerator = "slow-tcg"
[[machine.folders]]
host = "src"
guest = "/srv/app"
type = "packed"
{STEP}
""")
    entry = project.parent / "site"
    info = entry / "qup_hello-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qup-hello\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[qup]\nhello = qup_hello\n")
    path = f"{entry}:{Path(qup_hello.__file__).parent.parent}"
    env = {"PYTHONPATH": path}
    src = project / "src"
    (src / "sub").mkdir(parents=True)
    (src / "sub" / "a b").write_text("packed\n")
    (src / "link").symlink_to("sub/a b")
    events = [json.loads(line) for line in qup("up", "--json", env=env).ok().stdout.splitlines()]
    assert any(event.get("text") == "good day, sir" for event in events)
    assert qup("ssh", "--", "cat", "greeting.txt", env=env).ok().stdout == "good day, sir\n"
    assert qup("ssh", "--", "cat /srv/app/link", env=env).ok().stdout == "packed\n"
    (src / "sub" / "a b").write_text("again\n")
    assert "1 sent by packed" in qup("sync", env=env).ok().stderr
    assert qup("ssh", "--", "cat /srv/app/link", env=env).ok().stdout == "again\n"
    # Nothing gets out: not even the name server behind QEMU's address translation answers.
    assert qup("ssh", "--", "nslookup", "localhost", "10.7.0.3", env=env).code != 0
    said = qup("hello", "--shout", env=env).ok().stdout
    assert said.startswith("HELLO, DEFAULT!\n1 starts so far")
    qup("destroy", "-y", env=env).ok()
