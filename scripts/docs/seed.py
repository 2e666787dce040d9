"""The options of docker-machine's QEMU driver, what became of each, and the proof of it.

Key, options and variables come from ``SETTINGS``. What is here is what no program can know:
what is different, and which test shows it on a real guest. Tests look whether each row has a
test that exists and boots a guest, and whether no row is missing.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qup.model.settings import SETTINGS, Kind, Setting
from scripts.docs.markdown import code, table

ROOT = Path(__file__).resolve().parent.parent.parent
OPTIONS = "tests/vm/test_options.py::test_the_old_spellings_and_variables_reach_the_guest"


class Row(NamedTuple):
    """What became of one option of the driver.

    Attributes:
        option: the driver's spelling.
        was: its default there.
        difference: what is different here, and why.
        test: the test that boots a guest to prove it: ``FILE::NAME``.
    """

    option: str
    was: str
    difference: str
    test: str


ROWS = (
    Row(
        "--qemu-accelerator",
        "none",
        'The default, "auto", takes the best one that a tiny guest has proved to work, instead of'
        " KVM wherever `/dev/kvm` exists. One that is named is proved as well, and works on"
        " computers with KVM, where the driver gave QEMU two accelerators at once.",
        "tests/vm/test_faults.py::test_a_broken_kvm_is_refused_and_auto_goes_on_with_tcg",
    ),
    Row(
        "--qemu-boot2docker-url",
        "the newest boot2docker",
        'A path, a `file://`, `http://` or `https://` address, or one of a releases API; "" or'
        ' "boot2docker" is the newest. The default is box `tiny`. An answer that is no ISO, is cut'
        " off or has another digest is refused, a download that broke off is resumed, and what is"
        " in the cache serves offline.",
        "tests/vm/test_isos.py::test_boot2docker_finds_its_disk_and_its_key",
    ),
    Row(
        "--qemu-disk-size",
        "20000",
        "The size of the whole disk, not what is added to it. It can grow later, and shrinking is"
        " refused with the reason.",
        "tests/vm/test_options.py::test_a_change_is_said_applied_or_refused_with_its_reason",
    ),
    Row(
        "--qemu-memory",
        "1024",
        "Takes units, too. More than this computer has is refused before anything starts.",
        OPTIONS,
    ),
    Row(
        "--qemu-cpu-count",
        "1",
        "The CPU's model is the accelerator's best, instead of QEMU's oldest.",
        OPTIONS,
    ),
    Row(
        "--qemu-program",
        "qemu-system-x86_64",
        "In a Qupfile, a path or a name other than `qemu-system-*` needs `qup trust`.",
        OPTIONS,
    ),
    Row(
        "--qemu-display",
        "false",
        'Stands for the type "auto", unless a type is said; `--display` without a type is the same.'
        " There is a graphics card only with a display. A type that this QEMU lacks, or that can't"
        " work here, is refused before the start.",
        "tests/vm/test_display.py::test_vnc_on_a_socket_of_the_users_own",
    ),
    Row(
        "--qemu-display-type",
        "none",
        'Works by itself, without `--qemu-display`. "vnc" alone is a socket that only you can'
        " open.",
        "tests/vm/test_display.py::test_a_port_of_loopback_then_none",
    ),
    Row(
        "--qemu-nographic",
        "false",
        "Works: `qup up` stays in the foreground with the console in the terminal. The driver's"
        " QEMU refused it, as it was to go to the background as well.",
        "tests/vm/test_foreground.py::test_in_a_terminal",
    ),
    Row(
        "--qemu-virtio-drives",
        "false",
        "The default is true. The disk is found by its serial number, whichever way; with an ISO"
        " the order is that of the driver's page: `/dev/vda` and `/dev/vdb`, or `/dev/sr0` and"
        " `/dev/sda`.",
        "tests/vm/test_isos.py::test_ide_drives",
    ),
    Row(
        "--qemu-network",
        "user",
        "A mode that nobody knows is an error, and plugins bring more modes. Forwards listen on"
        " 127.0.0.1 only, each machine has MACs of its own, and ssh goes to the guest, never to"
        " this computer's own sshd.",
        "tests/vm/test_tap.py::test_machines_on_a_bridge",
    ),
    Row(
        "--qemu-network-interface",
        "tap0",
        "qup makes the tap where it may, and then it is gone with the machine. One that is missing,"
        " off, in use or somebody else's is named with the command that mends it.",
        "tests/vm/test_tap.py::test_a_tap_that_qup_makes_is_gone_with_the_machine",
    ),
    Row(
        "--qemu-network-address",
        "none",
        "The guest is told its address, and ssh goes there. Without it the address is looked for:"
        " guest agent, DHCP leases, neighbours. One of this computer's own is refused.",
        "tests/vm/test_tap.py::test_a_tap_that_is_there",
    ),
    Row(
        "--qemu-network-bridge",
        "br0",
        "QEMU stays in its sandbox: qup runs the helper and hands the tap over. What is missing, be"
        " it bridge, helper or permission, is named with the command that mends it.",
        "tests/vm/test_tap.py::test_a_bridge_through_the_helper",
    ),
    Row("--qemu-ssh-user", "docker", "The default is the box's own user.", OPTIONS),
    Row(
        "--qemu-userdata",
        "none",
        "Not for RancherOS alone: every guest that reads such a thing at its first boot gets it,"
        " and for one that doesn't it is an error. In a Qupfile, `user-data` has the text itself.",
        OPTIONS,
    ),
    Row(
        "--qemu-localports",
        "any",
        "Both ends belong to the range, ports are picked at each start and held from then on, and"
        " it fails only when none is free. Half a range is an error.",
        "tests/vm/test_user_network.py::test_two_machines_at_once_take_the_two_ports_that_are_left",
    ),
    Row(
        "--qemu-cache-mode",
        "default",
        "Does something: the driver never passed it on. What contradicts `io` is refused.",
        "tests/vm/test_drives.py::test_caches_are_what_the_qupfile_says",
    ),
    Row(
        "--qemu-io-mode",
        "threads",
        "Does something: the driver never passed it on.",
        "tests/vm/test_drives.py::test_the_kernel_knows_of_direct_files",
    ),
)


def write_seed_options() -> str:
    """A line for each option of the driver."""
    rows = [list(_cells(row)) for row in ROWS]
    headings = ["There", "Default there", "Key", "Option", "Variables", "What is different here",
                "Proved by"]  # fmt: skip
    return table(headings, rows)


def find_setting(option: str) -> Setting:
    """The setting that an option of the driver became.

    Raises:
        KeyError: there is none.
    """
    for setting in SETTINGS:
        if option in (setting.old, setting.old_switch[0]):
            return setting
    raise KeyError(option)


def _cells(row: Row) -> Iterator[str]:
    setting = find_setting(row.option)
    yield code(row.option)
    yield row.was if " " in row.was or row.was in ("none", "any") else code(row.was)
    yield code(setting.key)
    names = setting.options
    if setting.kind is Kind.SWITCH:
        names = tuple(f"{name}/--no-{name.removeprefix('--')}" for name in names)
    yield ", ".join(map(code, names))
    yield ", ".join(map(code, setting.variables))
    yield row.difference
    yield code(row.test.partition("::")[2])


@functools.cache
def find_guest_tests(file: str) -> frozenset[str]:
    """The names of a file's tests that boot a guest: those marked ``vm``."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    whole = any(
        isinstance(item, ast.Assign)
        and ast.unparse(item.targets[0]) == "pytestmark"
        and "pytest.mark.vm" in ast.unparse(item.value)
        for item in tree.body
    )
    return frozenset(
        item.name
        for item in tree.body
        if isinstance(item, ast.FunctionDef)
        and item.name.startswith("test_")
        and (whole or "pytest.mark.vm" in map(ast.unparse, item.decorator_list))
    )
