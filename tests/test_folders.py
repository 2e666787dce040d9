"""Folders in a Qupfile and in a plan: what is refused and where, and what comes out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from qup import qupfile
from qup.builtin.folder_9p import NineP
from qup.builtin.folder_virtiofs import Virtiofs
from qup.folders import NOT_SAVED, STALE, FolderFacts, plan_folders
from qup.model.box import BoxSpec
from qup.model.config import Config
from qup.model.folders import FolderPlan
from qup.qupfile import QupfileErrors
from qup.qupfile.rules import find_untrusted
from tests.qupfile_registry import FakeRegistry

REGISTRY = FakeRegistry()
BOX = BoxSpec("some", "image", "x86_64", "1", "key")
ONE = '[[machine.folders]]\nhost = "."\nguest = "/srv/app"\n'
FOLDERS = """
[[machine.folders]]
host = "."
guest = "/srv//app/"
[[machine.folders]]
host = "logs"
guest = "/srv/logs"
exclude = ["*.tmp"]
[[machine.folders]]
host = "tools"
guest = "/srv/tools"
type = "9p"
read-only = true
"""


def load(text: str) -> Config:
    return qupfile.load(qupfile.parse(text.encode()), registry=REGISTRY)


def problems(text: str) -> list[str]:
    with pytest.raises(QupfileErrors) as caught:
        load(text)
    return [f"{item.line}:{item.col} {item.message}" for item in caught.value.problems]


def plan(text: str, mounts: tuple[str, ...] | None = None, **facts: Any) -> tuple[FolderPlan, ...]:
    box = BoxSpec(**{**BOX.__dict__, "mounts": mounts})
    shares = {"virtiofs": Virtiofs().share, "9p": NineP().share}
    facts = {"shares": shares, "offered": tuple(shares), **facts}
    (machine,) = load(text).machines.values()
    return plan_folders(machine, box, FolderFacts(**facts))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("srv/app", "not an absolute path"),
        ("~/app", "not an absolute path"),
        ("/", "the guest's own"),
        ("/./", "the guest's own"),
        ("/etc/", "the guest's own"),
        ("/proc/1", "the guest's own"),
        ("/dev/shm/x", "the guest's own"),
        ("/srv/../etc", "'..'"),
        ("/srv/" + "a" * 2000, "too long"),
        ("/srv/a\\u0000b", "NUL"),
    ],
)
def test_places_in_the_guest_that_are_refused(place: str, said: str) -> None:
    (found,) = problems(f'[[machine.folders]]\nhost = "."\nguest = "{place}"\n')
    assert found.startswith("3:9 ")
    assert said in found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('type = "nfs"', "4:8 unknown folder type 'nfs'"),
        ('type = "9p"\nexclude = ["x"]', "'exclude' is for folders that are copied"),
        ('type = "9p"\ndelete = true', "'delete' is for folders that are copied"),
        ('read-only = "yes"', "4:13"),
        ('owner = "me"', "owner"),
        ("exclude = [1]", "4:12"),
        ('exclude = ["a\\u0000"]', "NUL"),
    ],
)
def test_values_that_are_refused(line: str, said: str) -> None:
    assert any(said in found for found in problems(ONE + line + "\n"))


def test_no_folder_is_inside_of_another() -> None:
    (found,) = problems(ONE + ONE)
    assert found == "6:9 two folders can't be at /srv/app twice"
    (found,) = problems(ONE + '[[machine.folders]]\nhost = "x"\nguest = "/srv/app/x"\n')
    assert "of which one is inside of the other" in found
    assert load(ONE + '[[machine.folders]]\nhost = "x"\nguest = "/srv/app2"\n')


def test_what_is_outside_of_the_project_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "away").symlink_to("/etc")
    (tmp_path / "here").mkdir()
    for host, outside in (
        (".", False), ("here", False), ("not-there", False), ("..", True), ("/etc", True),
        ("~/x", True), ("away", True), ("here/../..", True), (str(tmp_path / "here"), False),
    ):  # fmt: skip
        config = load(f'[[machine.folders]]\nhost = "{host}"\nguest = "/srv/app"\n')
        found = find_untrusted(config, {}, tmp_path)
        assert [item.key for item in found] == ["folders"] * outside, host


def test_folders_are_mounted_where_that_is_sound_and_say_why_not() -> None:
    found = plan(FOLDERS, ("9p",))
    assert [str(folder) for folder in found] == [
        ". -> /srv/app (9p)",
        "logs -> /srv/logs (copy)",
        "tools -> /srv/tools (9p read-only)",
    ]
    assert found[0].reason == f"not virtiofs: {NOT_SAVED}"
    assert "'exclude'" in found[1].reason
    assert found[2].reason == ""


def test_a_type_by_what_box_and_computer_can() -> None:
    def choose(mounts: tuple[str, ...] | None, **facts: Any) -> tuple[str, str]:
        (folder,) = plan(ONE, mounts, **facts)
        assert folder.chosen
        first, _, rest = folder.reason.partition("; ")
        assert first == f"not virtiofs: {NOT_SAVED}"
        return folder.type, rest

    assert choose(None) == ("9p", "")
    assert choose(("9p",)) == ("9p", "")
    assert choose(()) == ("copy", "not 9p: box some has no driver for it")
    missing = {"9p": "QEMU was built without it"}
    assert choose(None, obstacles=missing) == ("copy", "not 9p: QEMU was built without it")


COLD = "[machine]\ntemplates = false\n" + ONE


@pytest.mark.parametrize(
    ("text", "facts", "chosen", "reason"),
    [
        (COLD, {}, "virtiofs", NOT_SAVED),
        (ONE, {}, "9p", f"not virtiofs: {NOT_SAVED}"),
        (COLD, {"accelerator": "tcg"}, "9p", f"not virtiofs: {STALE}"),
        (COLD, {"reservations": {"virtiofs": "one user"}}, "9p", "not virtiofs: one user"),
        (COLD, {"obstacles": {"virtiofs": "there is none"}}, "9p", "not virtiofs: there is none"),
    ],
)
def test_virtiofs_is_taken_where_nothing_is_lost_by_it(
    text: str, facts: dict[str, Any], chosen: str, reason: str
) -> None:
    (folder,) = plan(text, **{"accelerator": "kvm", **facts})
    assert (folder.type, folder.reason) == (chosen, reason)


def test_virtiofs_by_name_says_what_has_to_be_known_of_it() -> None:
    text = ONE + 'type = "virtiofs"\n'
    (folder,) = plan(text, accelerator="kvm")
    assert (folder.type, folder.vhost, folder.reason) == ("virtiofs", True, "")
    (folder,) = plan(text, reservations={"virtiofs": "one user"})
    assert folder.reason == f"{STALE}; one user"
    assert FolderPlan.of(dataclasses.asdict(folder)) == folder
