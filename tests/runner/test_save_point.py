"""When a machine is saved for ``qup reset``, and what the save point is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qup.errors import UsageError
from qup.model.plan import Plan, ProvisionStep
from qup.model.snapshot import SAVE_POINT, Snapshot
from qup.model.state import State
from qup.ownership import make_private
from qup.paths import MachineFolder
from qup.runner import save_point, snapshots
from qup.runner.provision import Wanted
from tests.templates.test_key import PLAN

ONCE = ProvisionStep("shell", {}, "1", "once", by_content=True)
ALWAYS = replace(ONCE, name="each", digest="2", run="always")
UNKNOWN = replace(ALWAYS, provisioner="docker", digest="3", by_content=False)
HOST = replace(UNKNOWN, provisioner="host", digest="4", on_host=True)
STEPS = replace(PLAN, provision=(ONCE, ALWAYS, UNKNOWN, HOST))
STATE = State("0" * 12, "u", "web", "/p", "", "tiny", "d" * 64, "qup")


@pytest.fixture
def folder(tmp_path: Path) -> MachineFolder:
    made = MachineFolder(tmp_path / ".qup" / "machines" / "web")
    make_private(made.root)
    return made


def make(folder: MachineFolder, name: str, number: int) -> Snapshot:
    draft = snapshots.open_draft(folder)
    (draft / "disk.qcow2").write_bytes(b"disk")
    made = Snapshot(f"{number:012x}", name, STATE.id, f"2026-01-0{number}", template="t" * 12)
    return snapshots.publish(folder, made)


@pytest.mark.parametrize(
    ("ran", "wanted", "lasting"),
    [
        ((), Wanted(), False),
        ((1,), Wanted(), True),
        ((2,), Wanted(), False),
        ((3,), Wanted(), True),  # nobody knows what it has left, and nothing is saved yet
        ((4,), Wanted(), False),
        ((2,), Wanted(again=True), True),
        ((2,), Wanted(only=("each",)), True),
        ((), Wanted(none=True), False),
    ],
)
def test_which_steps_are_worth_it(
    folder: MachineFolder, ran: tuple[int, ...], wanted: Wanted, lasting: bool
) -> None:
    assert save_point.is_lasting(folder, STEPS, ran, wanted) == lasting


def test_a_step_that_looks_first_is_saved_once(folder: MachineFolder) -> None:
    make(folder, SAVE_POINT, 1)
    assert not save_point.is_lasting(folder, STEPS, (3,), Wanted())


def test_it_is_no_snapshot(folder: MachineFolder) -> None:
    one = make(folder, "one", 1)
    point = make(folder, SAVE_POINT, 2)
    assert snapshots.list_snapshots(folder) == [one]
    assert snapshots.read_mark(folder, snapshots.CURRENT) == one.id
    assert save_point.find_save_point(folder, STATE) == point
    assert save_point.find_save_point(folder, replace(STATE, id="1" * 12)) is None
    with pytest.raises(UsageError):
        snapshots.check_name(SAVE_POINT)
    make(folder, SAVE_POINT, 3)
    assert len(snapshots.list_all(folder)) == 2
    save_point.drop_save_point(folder)
    assert snapshots.list_all(folder) == [one]


@pytest.mark.parametrize(
    "plan",
    [
        replace(STEPS, provision=STEPS.provision[1:]),
        replace(STEPS, provision=(replace(ONCE, digest="5"), *STEPS.provision[1:])),
        replace(STEPS, provision=(replace(ONCE, run="never"), *STEPS.provision[1:])),
        replace(STEPS, provision=STEPS.provision[::-1]),
    ],
)
def test_what_a_qupfile_says_of_steps(plan: Plan) -> None:
    assert save_point.describe_steps(plan) != save_point.describe_steps(STEPS)
    again = replace(STEPS, memory_mib=512, provision=STEPS.provision)
    assert save_point.describe_steps(again) == save_point.describe_steps(STEPS)
