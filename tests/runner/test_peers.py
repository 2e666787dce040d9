"""Telling guests who their neighbours are: whom, when, and what happens if one does not listen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qup.errors import HostError
from qup.model.config import MachineConfig, MachineSettings
from qup.model.events import Event, Message
from qup.model.network import Seat
from qup.paths import MachineFolder, Project
from qup.process import Result
from qup.runner import peers
from qup.runner.context import Context
from qup.runner.peers import BEGIN, END, share_names
from qup.store import create_folders, ensure_project_id, find_project_id

SEATS = (
    Seat("web", "web", "private/default", "10.128.0.1/16"),
    Seat("db", "db", "private/default", "10.128.0.2/16"),
    Seat("alone", "alone", "private/lab", "10.129.0.1/16"),
)


@dataclass
class World:
    """Machines that run or don't, and what their guests were told."""

    ctx: Context
    running: set[str] = field(default_factory=set)
    told: list[tuple[str, str]] = field(default_factory=list)
    said: list[Message] = field(default_factory=list)
    deaf: bool = False

    def observe(self, folder: MachineFolder, *, thorough: bool) -> Any:
        assert not thorough
        up = folder.name in self.running
        return SimpleNamespace(alive=up, ready=up)

    def run_in_guest(
        self, _: object, machine: str, words: Sequence[str], *, timeout: float
    ) -> Result:
        if self.deaf:
            raise HostError(f"ssh did not end within {timeout:g} s")
        self.told.append((machine, words[-1]))
        return Result(tuple(words), 0, "", "")

    def write_plan(self, machine: str, address: str) -> None:
        card = {"segment": "private/default", "address": {"addresses": [address]}}
        plan = {
            "nics": [{"plan": {"segment": None}}, {"plan": card}],
            "seed_form": {"login": machine != "mute"},
        }
        create_folders(self.ctx.project, machine).plan.write_text(json.dumps(plan))

    def share(self, machine: str, seats: tuple[Seat, ...] = SEATS) -> list[str]:
        """Whom it told."""
        self.told.clear()
        create_folders(self.ctx.project, machine)
        settings = MachineSettings()
        share_names(self.ctx, MachineConfig(machine, settings, settings, seats=seats))
        return [name for name, _ in self.told]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(Context(Project(tmp_path)))

    def listen(event: Event) -> None:
        if isinstance(event, Message):
            made.said.append(event)

    made.ctx.listener = listen
    monkeypatch.setattr(peers, "observe", made.observe)
    monkeypatch.setattr(peers.ssh, "run_in_guest", made.run_in_guest)
    return made


def test_a_machine_on_no_shared_network_is_left_alone(world: World) -> None:
    assert world.share("other") == []


def test_a_guest_is_told_and_so_are_those_that_run(world: World) -> None:
    world.running = {"web"}
    world.write_plan("web", "10.128.0.1/16")
    assert world.share("web") == ["web"]
    assert world.told == [("web", f"{BEGIN}\n10.128.0.2 db db.default\n{END}\n")]
    world.running = {"web", "db"}
    world.write_plan("db", "10.128.0.2/16")
    assert world.share("db") == ["db"]  # web knows: addresses are fixed


def test_a_neighbour_that_moved_is_told_of(world: World) -> None:
    world.running = {"web", "db"}
    world.write_plan("web", "10.128.0.1/16")
    world.write_plan("db", "10.128.0.2/16")
    world.share("web")
    world.write_plan("db", "10.128.0.9/16")  # started with an address that was written
    assert world.share("db") == ["db", "web"]
    assert "10.128.0.9 db" in world.told[1][1]


def test_a_machine_that_is_the_only_one_is_told_nothing(world: World) -> None:
    assert world.share("web", SEATS[:1]) == []


def test_a_machine_that_nobody_can_log_in_to_is_only_told_of(world: World) -> None:
    mute = Seat("mute", "mute", "private/default", "10.128.0.3/16")
    world.running = {"web", "mute"}
    world.write_plan("web", "10.128.0.1/16")
    world.write_plan("mute", "10.128.0.3/16")
    assert world.share("web", (*SEATS, mute)) == ["web"]
    assert "10.128.0.3 mute" in world.told[0][1]


def test_a_machine_that_left_the_qupfile_is_forgotten(world: World) -> None:
    world.running = {"web", "db"}
    world.write_plan("web", "10.128.0.1/16")
    world.write_plan("db", "10.128.0.2/16")
    assert world.share("web") == ["web", "db"]
    world.running = {"web"}
    assert world.share("web", SEATS[:1]) == ["web"]
    assert world.told == [("web", "")]


def test_a_machine_that_left_all_networks_forgets_the_others(world: World) -> None:
    world.running = {"web"}
    world.write_plan("web", "10.128.0.1/16")
    world.share("web")
    assert world.share("web", SEATS[1:]) == ["web"]
    assert world.told == [("web", "")]
    assert world.share("web", SEATS[1:]) == []


def test_a_plan_that_can_not_be_read_is_as_the_qupfile_says(world: World) -> None:
    world.running = {"web", "db"}
    world.write_plan("web", "10.128.0.1/16")
    create_folders(world.ctx.project, "db").plan.write_text('{"nics": [3]}')
    world.share("web")
    assert "10.128.0.2 db" in world.told[0][1]


def test_a_guest_that_does_not_listen_is_a_warning(world: World) -> None:
    world.deaf = True
    world.share("web")
    (said,) = world.said
    assert said.level == "warning"
    assert "could not tell the guest the names" in said.text
    world.deaf = False
    assert world.share("web") == ["web"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "BLOCK"),
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\nBLOCK"),
        ("127.0.0.1 localhost", "127.0.0.1 localhost\nBLOCK"),
        (f"a\n{BEGIN}\nold\n{END}\nb\n", "a\nb\nBLOCK"),
        (f"a\n{BEGIN}\ncut off\n", "a\nBLOCK"),
    ],
)
def test_the_block_is_replaced_and_the_rest_stays(tmp_path: Path, before: str, after: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(before)
    script = peers._WRITE.replace("/etc/hosts", str(file))
    block = f"{BEGIN}\n10.0.0.1 x\n{END}\n"
    for _ in range(2):
        subprocess.run(["sh", "-c", script, "sh", block], check=True)
        assert file.read_text() == after.replace("BLOCK", block)
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]
    subprocess.run(["sh", "-c", script, "sh", ""], check=True)
    assert file.read_text() == after.replace("BLOCK", "")


# --- which project it is --------------------------------------------------------------------------


def test_a_project_keeps_its_id_when_it_moves_and_a_copy_has_none(tmp_path: Path) -> None:
    project = Project(tmp_path / "one")
    project.state.mkdir(parents=True)
    assert find_project_id(project) is None
    known = ensure_project_id(project)
    assert ensure_project_id(project) == find_project_id(project) == known
    moved = Project(tmp_path / "two")
    project.root.rename(moved.root)
    assert find_project_id(moved) == known
    subprocess.run(["cp", "-a", moved.root, project.root], check=True)
    assert find_project_id(project) is None
    assert ensure_project_id(project) != known
    assert find_project_id(moved) == known


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"device": 1}', "\0"])
def test_a_damaged_id_is_none(tmp_path: Path, text: str) -> None:
    project = Project(tmp_path)
    project.state.mkdir()
    project.identity.write_text(text)
    assert find_project_id(project) is None
    assert len(ensure_project_id(project)) == 32
