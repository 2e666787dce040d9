"""Folders that a guest mounts, on a real Debian; one template serves all tests."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qup import namespaces
from tests.vm.debian import is_the_same, reboot, who
from tests.vm.lab import Lab, open_lab

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        namespaces.find_obstacle() is not None, reason=namespaces.find_obstacle() or ""
    ),
]

QUPFILE = """\
[machine]
box = "debian/12"
memory = "512M"
[[machine.folders]]
host = "."
guest = "/srv/app"
[[machine.folders]]
host = "tools"
guest = "/srv/tools"
read-only = true
[[machine.provision]]
shell = "cat /srv/app/greeting >/etc/greeting"
[machines.one]
[machines.two]
"""


COPIED = """
[[machine.folders]]
host = "data"
guest = "/srv/data"
type = "rsync"
"""


@pytest.fixture(scope="module")
def lab(debian_cache: Path) -> Iterator[Lab]:
    with open_lab(debian_cache, QUPFILE, templates=True) as made:
        (made.folder / "greeting").write_text("from the host\n")
        (made.folder / "tools").mkdir()
        (made.folder / "tools" / "t").touch()
        done = made("up", "one", timeout=900).ok()
        assert "mounting . at /srv/app" in done.stderr
        yield made


def test_a_change_on_one_side_is_there_on_the_other(lab: Lab) -> None:
    assert lab.sh("cat /etc/greeting; cat /srv/app/greeting", "one") == "from the host\n" * 2
    (lab.folder / "greeting").write_text("changed\n")
    assert lab.sh("cat /srv/app/greeting", "one") == "changed\n"
    lab.sh(
        "cd /srv/app && mkdir made && echo by me >made/x && sudo sh -c 'echo root >made/r'", "one"
    )
    assert (lab.folder / "made" / "x").read_text() == "by me\n"
    for name in ("made", "made/x", "made/r"):
        assert (lab.folder / name).stat().st_uid == os.getuid()
    assert (
        lab.sh("stat -c %U:%G /srv/app/greeting /srv/app/made/r", "one").split()
        == ["debian:debian"] * 2
    )


def test_a_folder_that_was_replaced_is_told_of(lab: Lab) -> None:
    """As by a fresh checkout; the guest has the one of its start."""
    assert "any more" not in lab("up", "one").ok().stderr
    tools, away = lab.folder / "tools", lab.folder / "away"
    tools.rename(away)
    assert f"/srv/tools is not {tools} any more" in lab("up", "one").ok().stderr
    tools.mkdir()
    done = lab("up", "one").ok()
    assert f"/srv/tools is not {tools} any more" in done.stderr
    assert "'qup reload one'" in done.stderr
    assert lab.sh("ls /srv/tools", "one") == "t\n"
    tools.rmdir()
    away.rename(tools)


def test_qups_own_files_are_not_there_not_even_for_root(lab: Lab) -> None:
    said = lab.sh(
        "cd /srv/app && sudo ls -A .qup; sudo touch .qup/x 2>&1; sudo rmdir .qup 2>&1;"
        " sudo mv .qup other 2>&1; sudo umount .qup 2>&1; true",
        "one",
    )
    assert "machines" not in said
    assert len(said.splitlines()) == 4, said
    assert (lab.machine("one") / "ssh" / "key").is_file()


def test_a_read_only_folder_can_not_be_changed_by_root_either(lab: Lab) -> None:
    said = lab.sh(
        "sudo touch /srv/tools/x 2>&1; sudo mount -o remount,rw /srv/tools;"
        " sudo touch /srv/tools/x 2>&1; true",
        "one",
    )
    assert said.count("Read-only file system") == 2, said
    assert os.listdir(lab.folder / "tools") == ["t"]


def test_qemu_keeps_its_sandbox_and_has_no_privileges(lab: Lab) -> None:
    proc = Path(f"/proc/{lab.pid('one')}")
    words = (proc / "cmdline").read_bytes().split(b"\0")
    assert words[words.index(b"-sandbox") + 1].endswith(b"spawn=deny,resourcecontrol=deny")
    status = (proc / "status").read_text()
    assert re.search(r"CapEff:\s+0000000000000000", status)
    assert (proc / "uid_map").read_text().split() == ["1000", str(os.getuid()), "1"]


def test_what_was_unmounted_is_mounted_again_by_up(lab: Lab) -> None:
    lab.sh("sudo umount /srv/app", "one")
    done = lab("up", "one").ok()
    assert "mounting . at /srv/app" in done.stderr
    assert "it was mounted" in done.stderr
    assert lab.sh("cat /srv/app/greeting", "one") == "changed\n"


def test_a_folder_in_use_keeps_a_machine_from_being_saved(lab: Lab) -> None:
    lab.sh("cd /srv/tools; sleep 600 </dev/null >/dev/null 2>&1 &", "one")
    done = lab("snapshot", "save", "used", "one")
    assert done.code == 10, done
    assert "/srv/tools is in use in the guest" in done.stderr
    assert re.search(r"\d+ sleep \(/srv/tools\)", done.stderr), done
    assert lab.sh("cat /srv/app/greeting; pkill sleep", "one") == "changed\n", "mounted again"


def test_an_open_file_keeps_a_machine_from_being_suspended(lab: Lab) -> None:
    lab.sh("tail -f /srv/app/greeting </dev/null >/dev/null 2>&1 &", "one")
    done = lab("suspend", "one")
    assert done.code == 10, done
    assert re.search(r"\d+ tail \(/srv/app/greeting\)", done.stderr), done
    assert lab.status("one") == "running"
    assert lab.sh("cat /srv/app/greeting; pkill tail", "one") == "changed\n"


def test_a_snapshot_is_saved_and_restored_with_its_folders(lab: Lab) -> None:
    lab("snapshot", "save", "good", "one", timeout=300).ok()
    assert lab.sh("cat /srv/app/greeting", "one") == "changed\n"
    (lab.folder / "greeting").write_text("of now\n")
    lab.sh("echo later >/tmp/later", "one")
    lab("snapshot", "restore", "good", "one", timeout=300).ok()
    said = lab.sh("cat /srv/app/greeting; ls /tmp/later 2>&1; true", "one")
    assert said.startswith("of now\n"), "folders are those of now"
    assert "No such file" in said


def test_a_suspended_machine_has_its_folders_again(lab: Lab) -> None:
    lab("suspend", "one", timeout=300).ok()
    (lab.folder / "greeting").write_text("while it slept\n")
    done = lab("resume", "one", timeout=300).ok()
    assert done.stderr.count("mounting . at /srv/app") == 1, done
    assert lab.sh("cat /srv/app/greeting", "one") == "while it slept\n"


def test_a_reset_machine_has_its_folders_again(lab: Lab) -> None:
    lab.sh("echo mine >/tmp/mine", "one")
    done = lab("reset", "one", timeout=300).ok()
    assert "mounting . at /srv/app" in done.stderr, done
    said = lab.sh("cat /srv/app/greeting; ls /tmp/mine 2>&1; true", "one")
    assert said.startswith("while it slept\n")
    assert "No such file" in said


def test_rsync_copies_into_a_real_guest(lab: Lab) -> None:
    """With its own rsync, and names that a shell or a list of files could stumble over."""
    data = lab.folder / "data"
    (data / "sub").mkdir(parents=True)
    names = [b"a b", b"new\nline", b"bad\xff", b"#hash", b"-rf", b"sub/*"]
    for name in names:
        with open(os.path.join(os.fsencode(data), name), "w") as file:
            file.write("odd\n")
    large = os.urandom(3 << 20)
    (data / "large").write_bytes(large)
    (data / "link").symlink_to("sub")
    lab.write(QUPFILE.replace("[[machine.provision]]", f"{COPIED}[[machine.provision]]"))
    done = lab("sync", "one", timeout=300).ok()
    assert "9 sent by rsync" in done.stderr, done
    assert (
        lab.sh("cd /srv/data && find . -type f -size -2k -exec cat {} + | grep -ac '^odd$'", "one")
        == "6\n"
    )
    assert lab.sh("stat -c '%U %a' /srv/data/large; readlink /srv/data/link", "one") == (
        "debian 644\nsub\n"
    )
    (data / "large").write_bytes(b"begin" + large)
    (data / "#hash").unlink()
    lab.sh("touch /srv/data/theirs", "one")
    done = lab("sync", "one", timeout=300).ok()
    assert "1 sent by rsync" in done.stderr, done
    assert "1 removed" in done.stderr, done
    sums = lab.sh("cd /srv/data && sha256sum large && ls -A theirs '#hash' 2>&1; true", "one")
    assert sums.startswith(hashlib.sha256(b"begin" + large).hexdigest())
    assert "theirs" in sums
    lab.write(QUPFILE)
    assert "No such file" in sums


def test_a_guest_that_restarts_mounts_what_it_should_and_no_more(lab: Lab) -> None:
    """By a service that follows the Qupfile, and knows folders by more than their place in it."""
    lab.sh(
        "sudo mkdir /srv/old; tag=$(awk '$2 == \"/srv/tools\" { print $1 }' /proc/mounts)"
        " && sudo umount /srv/tools && sudo mount -t 9p -o trans=virtio $tag /srv/old"
        " && sudo sed -i 's|/srv/tools|/srv/old|g' /var/lib/qup/mount-folders",
        "one",
    )
    lab("up", "one").ok()
    said = lab.sh("cat /var/lib/qup/mount-folders; ls -A /srv/old", "one")
    found = re.findall(r" folder\d-\w{8} (\S+)$", said, re.MULTILINE)
    assert found == ["/srv/app", "/srv/tools"], said
    assert "/srv/old" not in said
    before, pid = who(lab, "one"), lab.pid("one")
    reboot(lab, "one")
    (lab.folder / "greeting").write_text("after all\n")
    said = lab.sh("cat /srv/app/greeting && ls /srv/tools && ! touch /srv/tools/x 2>&1", "one")
    assert said.startswith("after all\nt\n")
    assert "Read-only" in said
    assert lab.sh("systemctl --failed --no-legend", "one") == ""
    # The same QEMU, keys and ports; cloud-init sees the instance that it has set up, and leaves
    # the host's key alone: nothing of what the template became is undone.
    assert lab.pid("one") == pid
    assert "done" in lab.sh("cloud-init status --wait || true", "one")
    assert is_the_same(who(lab, "one"), before)
    assert lab("up", "one").ok().stderr.count("it was mounted") == 2
    (lab.folder / "greeting").write_text("while it slept\n")


def test_another_machine_comes_from_the_template_and_mounts_too(lab: Lab) -> None:
    done = lab("up", "two", timeout=600).ok()
    assert "restoring template" in done.stderr
    assert "booting a template" not in done.stderr
    assert lab.sh("cat /srv/app/greeting /etc/greeting", "two") == "while it slept\n" * 2
    plan = lab("plan", "two").ok().stdout
    assert ". -> /srv/app (9p)" in plan
    lab("down", "two", timeout=200).ok()
    assert len([*lab.box.runtime.glob("qup/*/folders")]) == 1, "those of the other one"
