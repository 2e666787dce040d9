"""A real machine's display: VNC on its own socket, viewers, pictures, keys."""

from __future__ import annotations

import json
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import find_free_port
from tests.docs.test_json import compare
from tests.qemu.test_picture import read_png
from tests.vm.lab import SMALL, Lab, open_lab, wait_until

pytestmark = pytest.mark.vm

SHOWN = SMALL + '[machine.qemu]\ndisplay = "vnc"\n'


@pytest.fixture(scope="module")
def lab(vm_cache: Path) -> Iterator[Lab]:
    with open_lab(vm_cache, SHOWN) as made:
        made("up").ok()
        yield made


class Viewer:
    """As much of a VNC viewer as a test needs (RFC 6143)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        assert self.read(12) == b"RFB 003.008\n"
        connection.sendall(b"RFB 003.008\n")
        kinds = self.read(self.read(1)[0])
        assert 1 in kinds  # no password: who can open the socket may
        connection.sendall(b"\x01")
        assert self.read(4) == b"\0\0\0\0"
        connection.sendall(b"\x01")  # let others look as well
        self.width, self.height, _, size = struct.unpack(">HH16sI", self.read(24))
        self.name = self.read(size).decode()

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            fresh = self.connection.recv(size - len(data))
            assert fresh
            data += fresh
        return data

    def press(self, key: str) -> None:
        for down in (1, 0):
            self.connection.sendall(struct.pack(">BBxxI", 4, down, ord(key)))


def open_socket(lab: Lab) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(json.loads(lab("view", "--json").ok().stdout)["socket"])
    return connection


def test_vnc_on_a_socket_of_the_users_own(lab: Lab) -> None:
    path = Path(json.loads(lab("view", "--json").ok().stdout)["socket"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with closing(open_socket(lab)) as connection:
        viewer = Viewer(connection)
        assert "default" in viewer.name
        assert viewer.width >= 640
        listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout
        ours = [line for line in listening.splitlines() if f"pid={lab.pid()}," in line]
        assert not any(":59" in line.split()[3] for line in ours)


def test_keys_reach_the_guest(lab: Lab) -> None:
    reader = lab.spawn(
        "ssh", "--", "echo reading; sudo timeout 20 dd if=/dev/input/event0 bs=24 count=1 | wc -c"
    )
    assert reader.stdout is not None
    with closing(open_socket(lab)) as connection:
        viewer = Viewer(connection)
        assert reader.stdout.readline() == "reading\n"
        for _ in range(50):
            viewer.press("q")
            if wait_until(lambda: reader.poll() is not None, 0.3):
                break
    assert "24" in reader.stdout.read()
    reader.stdout.close()


def test_a_screenshot_is_a_picture_of_the_screen(lab: Lab) -> None:
    done = lab("screenshot", "boot.png").ok()
    picture = read_png((lab.folder / "boot.png").read_bytes())
    assert (picture.width, picture.height) == (720, 400)  # text of 80x25, with 9x16 a character
    assert "720x400" in done.stdout
    colors = {picture.pixels[at : at + 3] for at in range(0, len(picture.pixels), 3)}
    assert len(colors) > 1
    bright = sum(1 for at in range(0, len(picture.pixels), 3) if picture.pixels[at] > 100)
    assert 500 < bright < 20_000  # the firmware's few lines
    assert stat.S_IMODE((lab.folder / "boot.png").stat().st_mode) == 0o644
    assert not [*lab.folder.glob(".boot*")]
    assert not [*(lab.box.root / "tmp").glob("qup-picture-*")]
    said = json.loads(lab("screenshot", "default", "again.png", "--json").ok().stdout)
    assert (said["width"], said["height"]) == (720, 400)
    with (lab.folder / "piped.png").open("wb") as file:
        process = lab.spawn("screenshot", "-", stdout=file)
        assert process.wait(20) == 0
    assert read_png((lab.folder / "piped.png").read_bytes()).width == 720


def test_screenshots_that_can_not_be(lab: Lab) -> None:
    for words, code, said in (
        (("default",), 2, ".png"),
        (("a", "b", "c.png"), 2, "one machine"),
        (("-", "--json"), 2, "--json"),
        (("no/such/folder/a.png",), 5, "no/such/folder"),
        (("web", "a.png"), 2, "web"),
    ):
        done = lab("screenshot", *words)
        assert done.code == code, done
        assert said in done.stderr + done.stdout
    (lab.folder / "d.png").mkdir()
    assert lab("screenshot", "d.png").code == 2


def test_view_names_the_ways_in_or_opens_a_viewer(lab: Lab) -> None:
    nowhere = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    path = json.loads(lab("view", "--json").ok().stdout)["socket"]
    said = lab("view", env=nowhere).ok().stdout
    assert "no screen is here" in said
    assert f"UNIX-CONNECT:{path}" in said
    assert f"ssh -L 5909:{path}" in said
    bin_ = lab.box.root / "bin"
    bin_.mkdir()
    viewer = bin_ / "remote-viewer"
    viewer.write_text('#!/bin/sh\necho "opened $*"\nexit 5\n')
    viewer.chmod(0o755)
    there = {"PATH": f"{bin_}:/usr/bin:/bin", "DISPLAY": ":0"}
    done = lab("view", env=there)
    assert (done.code, done.stdout) == (5, f"opened vnc+unix://{path}\n")
    assert "opened" not in lab("view", "--print", env=there).ok().stdout
    assert json.loads(lab("view", "--json", env=there).ok().stdout)["viewer"][0] == str(viewer)


def test_json_is_as_documented(lab: Lab) -> None:
    for words in (("view",), ("screenshot", "json.png")):
        compare(f"qup {words[0]}", json.loads(lab(*words, "--json").ok().stdout))


def test_a_port_of_loopback_then_none(lab: Lab) -> None:
    port = find_free_port()
    lab("reload", "--force", f"--display=vnc=:{port - 5900}").ok()
    seen = json.loads(lab("view", "--json").ok().stdout)
    assert (seen["socket"], seen["host"], seen["port"]) == (None, "127.0.0.1", port)
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as connection:
        assert Viewer(connection).width >= 640
    taken = lab("up", "--set", "memory=160M", f"--display=vnc=:{port - 5900}").ok()
    assert "memory" in taken.stderr  # told, as it runs; its own port is not in its way

    lab("reload", "--force", "--display=none").ok()
    for words in (("view",), ("screenshot", "x.png")):
        refused = lab(*words)
        assert refused.code == 9, refused
        assert 'display = "vnc"' in refused.stderr
    assert not (lab.folder / "x.png").exists()
