"""Folders that QEMU serves: where it finds them, and what is hidden in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qup.builtin.folder_9p import NineP
from qup.builtin.folder_virtiofs import Virtiofs
from qup.errors import HostError
from qup.model.folders import FolderPlan, FolderRequest, Owner
from qup.paths import RuntimeFolder
from qup.qemu.shares import describe_device, describe_share, find_hidden, prepare_shares

OWNER = Owner(1000, 1000)


def mounted(name: str, host: str = ".", *, read_only: bool = False) -> FolderPlan:
    share = NineP().share(FolderRequest(host, "/srv/app", read_only))
    return FolderPlan(name, host, "/srv/app", "9p", read_only=read_only, share=share)


def test_options(tmp_path: Path) -> None:
    folder = mounted("folder0", read_only=True)
    backend, device = describe_share(folder, tmp_path)
    assert backend[1]["security_model"] == "none"
    assert backend[1]["readonly"] == "on"
    assert device == ("virtio-9p-pci", {"fsdev": "folder0", "mount_tag": "folder0"})


def test_what_is_hidden_is_what_is_inside_and_there(tmp_path: Path) -> None:
    for name in ("a/.qup", "b/.qup/x", "c"):
        (tmp_path / name).mkdir(parents=True)
    secrets = (
        tmp_path / "b/.qup/x", tmp_path / "a/.qup", tmp_path / "b/.qup", tmp_path / "gone",
        tmp_path.parent, tmp_path,
    )  # fmt: skip
    assert find_hidden(tmp_path, secrets) == (Path("a/.qup"), Path("b/.qup"))
    assert find_hidden(tmp_path / "c", secrets) == ()


def test_places_are_made_and_removed_with_the_sockets(tmp_path: Path) -> None:
    project, runtime = tmp_path / "project", RuntimeFolder(tmp_path / "run")
    (project / ".qup").mkdir(parents=True)
    (project / "link").symlink_to(".")
    runtime.root.mkdir()
    folders = [
        mounted("folder0"),
        FolderPlan("folder1", "x", "/srv/x", "copy"),
        mounted("folder2", "link", read_only=True),
    ]
    shares = prepare_shares(folders, OWNER, (project / ".qup",), runtime, project)
    assert set(shares.paths) == {"folder0", "folder2"}
    assert shares.view is not None
    assert (shares.view.uid, shares.view.gid) == (1000, 1000)
    one, other = shares.view.binds
    assert (one.source, one.hidden, one.read_only) == (project, (Path(".qup"),), False)
    assert (other.source, other.hidden, other.read_only) == (project, (Path(".qup"),), True)
    assert one.place.is_dir()
    runtime.remove()
    assert not runtime.root.exists()
    assert prepare_shares(folders[1:2], OWNER, (), runtime, project).view is None


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for host, said in (("gone", "does not exist"), ("file", "is no folder")):
        folder = mounted("folder0", host)
        with pytest.raises(HostError, match=said):
            prepare_shares([folder], OWNER, (), RuntimeFolder(tmp_path), tmp_path)


def test_what_is_served_beside_qemu_has_a_view_of_its_own(tmp_path: Path) -> None:
    share = Virtiofs().share(FolderRequest(".", "/srv/app"))
    beside = FolderPlan(
        "folder1", ".", "/srv/x", "virtiofs", read_only=True, share=share, tag="folder1-12345678"
    )
    (tmp_path / ".qup").mkdir()
    runtime = RuntimeFolder(tmp_path / "run")
    shares = prepare_shares([mounted("folder0"), beside], OWNER, (), runtime, tmp_path)
    assert set(shares.paths) == {"folder0"}
    assert shares.view is not None
    assert len(shares.view.binds) == 1
    (bind,) = shares.beside["folder1"].binds
    assert (bind.place, bind.hidden, bind.read_only) == (
        runtime.place("folder1"), (Path(".qup"),), True,
    )  # fmt: skip
    assert describe_device(beside) == (
        "vhost-user-fs-pci",
        {"chardev": "folder1", "tag": "folder1-12345678"},
    )
