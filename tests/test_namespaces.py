"""What a program sees that was started with a view of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qup import namespaces
from qup.namespaces import Bind, View, find_obstacle, prepare_view
from tests.conftest import ROOT

OBSTACLE = find_obstacle()
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")


def see(view: View, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], preexec_fn=prepare_view(view), capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (".qup/machines", "sub/.qup", "place"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".qup" / "machines" / "key").write_text("secret")
    (tmp_path / "sub" / "x").write_text("x")
    return tmp_path


def test_a_folder_is_seen_elsewhere_without_what_is_hidden(folder: Path) -> None:
    place = folder / "place"
    hidden = (Path(".qup"), Path("sub/.qup"))
    view = View(1234, 4321, (Bind(folder, place, hidden),))
    script = f"cd {place} && id -u && id -g && ls -A .qup sub/.qup && cat sub/x && ls -dn sub"
    done = see(view, script)
    assert done.returncode == 0, done
    words = done.stdout.split()
    assert words[:2] == ["1234", "4321"]
    assert "secret" not in done.stdout
    assert "key" not in words
    assert words[-7:-5] == ["1234", "4321"], "what is ours is that user's"
    assert os.listdir(place) == [], "nobody else sees it"


@pytest.mark.parametrize("deed", ["touch .qup/x", "rmdir .qup", "mv .qup other", "umount .qup"])
def test_what_is_hidden_stays_so(folder: Path, deed: str) -> None:
    view = View(0, 0, (Bind(folder, folder / "place", (Path(".qup"),)),))
    assert see(view, f"cd {folder / 'place'} && {deed}").returncode != 0
    assert (folder / ".qup" / "machines" / "key").exists()


@pytest.mark.parametrize("number", [0, 1234])
def test_what_is_made_is_ours_and_no_privilege_is_left(folder: Path, number: int) -> None:
    view = View(number, number, (Bind(folder, folder / "place"),))
    done = see(view, f"touch {folder}/place/made; grep CapEff /proc/self/status")
    assert done.stdout.split() == ["CapEff:", "0" * 16]
    info = (folder / "made").stat()
    assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())


def test_a_folder_that_can_only_be_read(folder: Path) -> None:
    view = View(0, 0, (Bind(folder, folder / "place", read_only=True),))
    done = see(view, f"cat {folder}/place/sub/x; touch {folder}/place/sub/x")
    assert done.stdout == "x"
    assert "Read-only file system" in done.stderr


def test_a_folder_that_is_gone_is_an_error(folder: Path) -> None:
    view = View(0, 0, (Bind(folder / "gone", folder / "place"),))
    with pytest.raises(subprocess.SubprocessError):
        see(view, "true")


def test_where_it_is_not_allowed_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, text: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(namespaces, "_write", refuse)
    reason = namespaces.find_obstacle.__wrapped__()
    assert reason == "this computer lets you have no user namespace (Operation not permitted)"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "only Linux" in namespaces.find_obstacle.__wrapped__()


@pytest.mark.root
def test_without_being_root(folder: Path) -> None:
    """The same for a user without any right."""
    mine = Path("/tmp") / f"qup-ns-{os.getpid()}"
    mine.mkdir()
    try:
        (mine / "src" / ".qup").mkdir(parents=True)
        (mine / "src" / ".qup" / "key").touch()
        (mine / "place").mkdir()
        subprocess.run(["chown", "-R", "65534:65534", str(mine)], check=True)
        code = (
            "import subprocess; from pathlib import Path\n"
            "from qup.namespaces import Bind, View, prepare_view\n"
            f"home = Path({str(mine)!r})\n"
            "view = View(1000, 1000, (Bind(home / 'src', home / 'place', (Path('.qup'),)),))\n"
            "script = f'cd {home}/place && touch made && ls -A .qup && stat -c %u made'\n"
            "subprocess.run(['sh', '-c', script], preexec_fn=prepare_view(view), check=True)\n"
        )
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c",
             code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        if "Permission denied" in done.stderr and "import" in done.stderr:
            pytest.skip("another user can't read this tree")
        assert (done.stdout, done.returncode) == ("1000\n", 0), done
        assert (mine / "src" / "made").stat().st_uid == 65534
    finally:
        subprocess.run(["rm", "-rf", str(mine)], check=True)
