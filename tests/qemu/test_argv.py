"""From a plan to a command line: golden files, hostile names, and what QEMU makes of it.

``UPDATE_GOLDEN=1 pytest tests/qemu/test_argv.py`` writes the golden files anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.errors import HostError
from qup.model.box import BoxSpec
from qup.model.folders import FolderPlan, Share
from qup.model.network import NOWHERE, NicPlan
from qup.model.plan import (
    AcceleratorPlan,
    Disk,
    DisplayPlan,
    ExtraArguments,
    Firmware,
    Identity,
    Nic,
    Plan,
    SeedPlan,
    TemplatePlan,
)
from qup.model.seed import SeedForm
from qup.qemu import argv, disk
from qup.qemu.argv import Layout, Memory
from qup.qemu.qmp import MonitorClosed, Qmp

GOLDEN = Path(__file__).parent.parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
MIB = 1024 * 1024
UUID = "11111111-2222-4333-8444-555555555555"

TINY = Plan(
    identity=Identity("0123456789ab", UUID, "web"),
    box=BoxSpec("tiny", "tiny", "x86_64", "1", "key", cmdline="console=ttyS0 quiet", disk=False),
    box_digest=None,
    program="qemu-system-x86_64",
    machine_type="pc-q35-7.2",
    accelerator=AcceleratorPlan("tcg", {"accel": "tcg"}, "max"),
    cpu="max",
    cpus=2,
    memory_mib=512,
    disks=(
        Disk("disk", "qup-disk", "qcow2", 64 * MIB),
        Disk("seed", "qup-seed", "raw", None, read_only=True, media="cdrom"),
    ),
    nics=(Nic("user", "52:54:00:aa:bb:cc", NicPlan({"type": "user", "hostname": "web"})),),
    seed=SeedPlan("i-1", "web", "qup"),
    boot_timeout=300.0,
)
BOOTABLE = (replace(TINY.disks[0], boot=1), TINY.disks[1])
IMAGE = replace(
    TINY,
    disks=BOOTABLE,
    box=BoxSpec("./debian.qcow2", "image", "x86_64", "1", "key", kernel=False),
    accelerator=AcceleratorPlan("kvm", {"accel": "kvm", "kernel-irqchip": "on"}, "host"),
    cpu="host,-svm",
    nics=(
        *TINY.nics,
        Nic("tap", "52:54:00:aa:bb:cd", NicPlan({"type": "tap", "ifname": "a,b", "script": "no"})),
    ),
    extra=(
        ExtraArguments(("-device", "usb-tablet,id=x"), "qemu.args"),
        ExtraArguments(("-fw_cfg", "name=opt/x,string=a,,b"), "plugin foo"),
    ),
)
ARM = replace(
    TINY,
    box=BoxSpec("arm", "image", "aarch64", "1", "key", cmdline="console=ttyAMA0"),
    program="qemu-system-aarch64",
    machine_type="virt-7.2",
)
ISO = replace(
    TINY,
    box=BoxSpec("b2d", "boot2docker", "x86_64", "1", "key", kernel=False, iso=True, disk=False),
    disks=(
        Disk("iso", "qup-iso", "raw", read_only=True, media="cdrom", boot=1),
        replace(TINY.disks[0], cache="none", io="native"),
        TINY.disks[1],
    ),
)
UEFI = replace(
    TINY,
    firmware=Firmware("UEFI firmware", "raw"),
    disks=(
        *TINY.disks,
        Disk("disk-data", "data", "qcow2", 64 * MIB, cache="directsync", io="io_uring"),
        Disk("disk-mine", "mine", "raw", read_only=True, cache="writethrough", image="mine.img"),
    ),
)
IDE = replace(ISO, disks=tuple(replace(disk, bus="ide") for disk in ISO.disks))
VNC = replace(TINY, display=DisplayPlan("vnc", "vnc,share=ignore", private=True))
ARM_WINDOW = replace(ARM, display=DisplayPlan("gtk", "gtk,full-screen=on"))
NOGRAPHIC = replace(TINY, nographic=True)
VIRTIOFS = replace(
    TINY,
    folders=(
        FolderPlan(
            "folder0", ".", "/srv/app", "virtiofs", tag="folder0-12345678",
            share=Share("virtiofs", device={"driver": "vhost-user-fs-pci"}, vhost=True),
        ),
    ),
)  # fmt: skip
PATHS = Layout(
    program=Path("/usr/bin/qemu-system-x86_64"),
    pidfile=Path("/p/.qup/machines/web/qemu.pid"),
    serial_log=Path("/p/.qup/machines/web/logs/serial.log"),
    box=Path("/cache/boxes/abc"),
    files={
        "disk": Path("/p/.qup/machines/web/disk.qcow2"),
        "seed": Path("/p/.qup/machines/web/seed.iso"),
        "iso": Path("/cache/boxes/abc/boot.iso"),
        "disk-data": Path("/p/.qup/machines/web/disks/data.qcow2"),
        "disk-mine": Path("/p/mine.img"),
        "firmware": Path("/usr/share/firmware/code.fd"),
        "vars": Path("/p/.qup/machines/web/vars.qcow2"),
    },
    sockets={
        "control": Path("/run/q/qmp"),
        "events": Path("/run/q/ev"),
        "console": Path("/run/q/c"),
        "identity": Path("/run/q/i"),
        "vnc": Path("/run/q,1/vnc"),
    },
)
TEMPLATE = replace(
    TINY,
    nics=(replace(TINY.nics[0], plan=replace(TINY.nics[0].plan, guest_address="10.0.2.15")),),
    template=TemplatePlan("k"),
)
GOLDEN_MACHINE = replace(
    TEMPLATE,
    nics=(*TEMPLATE.nics, Nic("private", "52:54:00:aa:bb:cd", NicPlan({"type": NOWHERE}))),
)
RESTORED = replace(PATHS, memory=Memory("/proc/self/fd/9,", share=False), incoming=True)
AWKWARD = Layout(
    program=Path("/opt/my qemu/qemu"),
    pidfile=Path("/it's, a=b/qemu.pid"),
    serial_log=Path("/it's, a=b/serial,log"),
    box=Path("/it's, a=b/bo,x"),
    files={
        "disk": Path("/it's, a=b/d\"i,s\\k"),
        "seed": Path("/it's, a=b/nbd:unix:sé€d"),
    },
    sockets={"control": 5, "events": 6, "console": Path("/run/a,b")},
    sandbox=False,
)


@pytest.mark.parametrize(
    ("name", "plan", "layout"),
    [
        ("tiny", TINY, PATHS),
        ("image", IMAGE, PATHS),
        ("arm", ARM, PATHS),
        ("awkward", TINY, AWKWARD),
        ("iso", ISO, PATHS),
        ("sata", IDE, PATHS),
        ("uefi", UEFI, PATHS),
        ("virtiofs", VIRTIOFS, replace(PATHS, sockets={**PATHS.sockets, "folder0": 9})),
        (
            "template",
            GOLDEN_MACHINE,
            replace(PATHS, memory=Memory("/t/ram", share=True), unpluggable=True),
        ),
        ("restored", TEMPLATE, RESTORED),
        ("ide", replace(IDE, machine_type="pc-i440fx-7.2"), PATHS),
        ("vnc", VNC, PATHS),
        ("arm-window", ARM_WINDOW, PATHS),
        ("nographic", NOGRAPHIC, PATHS),
    ],
)
def test_golden(name: str, plan: Plan, layout: Layout) -> None:
    lines = [
        json.dumps([item.origin, *item.words], ensure_ascii=False)
        for item in argv.build(plan, layout)
    ]
    text = "\n".join(lines) + "\n"
    path = GOLDEN / f"argv-{name}.txt"
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_program_comes_first_and_every_argument_has_an_origin() -> None:
    first, *rest = argv.build(IMAGE, PATHS)
    assert first.words == ("/usr/bin/qemu-system-x86_64",)
    assert all(item.origin and item.words[0].startswith("-") for item in rest)
    assert [item.origin for item in rest[-2:]] == ["qemu.args", "plugin foo"]


def test_a_window_is_the_only_hole_in_the_sandbox() -> None:
    for plan, spawn in ((TINY, "deny"), (VNC, "deny"), (ARM_WINDOW, "allow")):
        words = argv.words(argv.build(plan, PATHS))
        assert f"spawn={spawn}" in words[words.index("-sandbox") + 1]


def test_a_display_moves_no_other_device() -> None:
    without, shown = (argv.words(argv.build(plan, PATHS)) for plan in (TINY, VNC))
    devices = [shown[at + 1] for at, word in enumerate(shown) if word == "-device"]
    before = [without[at + 1] for at, word in enumerate(without) if word == "-device"]
    assert devices == [*before, "VGA", "qemu-xhci", "usb-tablet"]


def test_box_with_a_kernel_boots_from_nothing_else() -> None:
    words = argv.words(argv.build(TINY, PATHS))
    assert "-kernel" in words
    assert not any("bootindex" in word for word in words)
    words = argv.words(argv.build(IMAGE, PATHS))
    assert "-kernel" not in words
    assert [word for word in words if "bootindex" in word] == [
        "virtio-blk-pci,drive=disk,serial=qup-disk,bootindex=1"
    ]


def with_disk(path: Path) -> Layout:
    return replace(PATHS, files={**PATHS.files, "disk": path})


def test_what_the_firmware_hands_on_comes_from_files() -> None:
    """No secret is on the command line, and no path is taken apart."""
    form = SeedForm(fw_cfg=("opt/com.coreos/config",), oem_strings=("tmpfiles.extra",))
    words = argv.words(
        argv.build(replace(TINY, seed_form=form), replace(PATHS, seed_share=Path("/a,b")))
    )
    said = {words[index]: words[index + 1] for index in range(1, len(words) - 1)}
    assert said["-fw_cfg"] == "name=opt/com.coreos/config,file=/a,,b/opt/com.coreos/config"
    assert said["-smbios"] == "type=11,path=/a,,b/tmpfiles.extra"


def test_path_that_is_not_utf8_is_refused() -> None:
    layout = with_disk(Path(os.fsdecode(b"/p/\xff/disk")))
    with pytest.raises(HostError, match="not UTF-8"):
        argv.build(TINY, layout)


def split_option(text: str) -> list[str]:
    """Split an option string as QEMU's get_opt_value() does (util/keyval.c)."""
    parts, current, index = [], "", 0
    while index < len(text):
        if text[index] == "," and text[index + 1 : index + 2] != ",":
            parts.append(current)
            current = ""
        else:
            index += text[index] == ","
            current += text[index]
        index += 1
    return [*parts, current]


@given(st.text(min_size=1), st.dictionaries(st.sampled_from("abcd"), st.text()))
def test_no_value_escapes_its_option(first: str, properties: dict[str, str]) -> None:
    text = argv.option_string(first, properties)
    assert split_option(text) == [first, *(f"{key}={value}" for key, value in properties.items())]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_no_path_escapes_its_json(name: str) -> None:
    layout = with_disk(Path("/p") / name)
    nodes = [word for word in argv.words(argv.build(TINY, layout)) if word.startswith("{")]
    assert json.loads(nodes[0])["file"]["filename"] == os.fspath(layout.files["disk"])


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "dash"])
def test_pasted_command_means_the_same(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    show = tmp_path / "my show"
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    show.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    show.chmod(0o755)
    nasty = ExtraArguments(("-x", "$(touch /tmp/no) `id` \n\\ 'a' \"b\" !! *"), "qemu.args")
    arguments = argv.build(replace(TINY, extra=(nasty,)), replace(AWKWARD, program=show))
    command = argv.shell_command(arguments)
    pasted = subprocess.run([shell], input=command, text=True, capture_output=True, check=True)
    assert json.loads(pasted.stdout) == argv.words(arguments)[1:]


# --- the real one -------------------------------------------------------------------------

FOLDERS = [
    "plain",
    "with space",
    "a,b,,c",
    "it's",
    'q"u',
    "a=b",
    "ü€",
    "$HOME`id`",
    "%s",
    "new\nline",
    "-rf",
    "nbd:x",
]


@contextlib.contextmanager
def running(words: list[str], fds: list[int], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def prepare(folder: Path) -> Layout:
    program = shutil.which("qemu-system-x86_64")
    if program is None or shutil.which("qemu-img") is None:
        pytest.skip("no qemu-system-x86_64 or qemu-img")
    folder.mkdir()
    disk.create_blank(folder / "base.qcow2", 32 * MIB)
    disk.create_overlay(folder / "disk,1.qcow2", folder / "base.qcow2", "qcow2", 64 * MIB)
    (folder / "seed.iso").write_bytes(b"\0" * MIB)
    return Layout(
        program=Path(program),
        pidfile=folder / "qemu.pid",
        serial_log=folder / "serial.log",
        box=folder,
        files={"disk": folder / "disk,1.qcow2", "seed": folder / "seed.iso"},
        sockets={name: folder / name for name in ("control", "events", "console")},
        sandbox=sys.platform == "linux",
    )


PLAN = replace(
    IMAGE, accelerator=TINY.accelerator, cpu="max", nics=TINY.nics, extra=(), machine_type="q35"
)


@pytest.mark.qemu
@pytest.mark.parametrize("name", FOLDERS)
def test_qemu_finds_its_files_in_any_folder(name: str, tmp_path: Path) -> None:
    layout = prepare(tmp_path / name)
    listeners = {key: socket.socket(socket.AF_UNIX) for key in layout.sockets}
    with contextlib.ExitStack() as stack:
        for key, listener in listeners.items():
            stack.enter_context(listener)
            listener.bind(str(tmp_path / key))
            listener.listen(1)
        numbers = {key: listener.fileno() for key, listener in listeners.items()}
        arguments = argv.build(PLAN, replace(layout, sockets=numbers))
        log = tmp_path / "log"
        stack.enter_context(running(argv.words(arguments), list(numbers.values()), log))
        for listener in listeners.values():
            listener.close()
        try:
            monitor = stack.enter_context(Qmp.connect(tmp_path / "control", timeout=10))
        except MonitorClosed:
            pytest.fail(log.read_text())
        events = stack.enter_context(Qmp.connect(tmp_path / "events", timeout=10))
        assert monitor.execute("query-uuid") == {"UUID": UUID}
        assert monitor.execute("query-name") == {"name": "web"}
        assert monitor.execute("query-status")["status"] == "prelaunch"
        blocks = {item["inserted"]["node-name"]: item for item in monitor.execute("query-block")}
        assert blocks["disk"]["inserted"]["file"] == os.fspath(layout.files["disk"])
        assert blocks["disk"]["inserted"]["backing_file_depth"] == 1
        assert blocks["seed"]["inserted"]["ro"] is True
        assert monitor.hmp("hostfwd_add net0 tcp:127.0.0.1:0-:22") == ""
        monitor.execute("cont")
        event = events.wait(time.monotonic() + 5)
        assert event is not None
        assert event.name == "RESUME"
        assert layout.serial_log.exists()
        assert layout.pidfile.exists()
        monitor.execute("quit")
        with pytest.raises(MonitorClosed):
            while True:
                events.wait(time.monotonic() + 5)
    assert log.read_text() == "", "QEMU complains about something"


@pytest.mark.qemu
def test_pasted_command_starts_qemu(tmp_path: Path) -> None:
    layout = prepare(tmp_path / "it's, a=b")
    command = argv.shell_command(argv.build(PLAN, layout))
    log = tmp_path / "log"
    with running(["sh", "-c", f"exec {command}"], [], log) as process:
        deadline = time.monotonic() + 10
        monitor = None
        while monitor is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            with contextlib.suppress(MonitorClosed):
                monitor = Qmp.connect(tmp_path / "it's, a=b" / "control", timeout=5)
        with monitor:
            assert monitor.execute("query-uuid") == {"UUID": UUID}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
