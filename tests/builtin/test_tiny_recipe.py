"""Box tiny without a network or a guest: archives, ELF, modules, packages, the seed's parser."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import lzma
import random
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qup.builtin.network_config import render_network_config
from qup.builtin.seeder_nocloud import UPDATES
from qup.builtin.tiny import contents, debs, dropbear, elf, kernel, recipe
from qup.builtin.tiny.errors import RecipeError
from qup.builtin.tiny.tree import Entry, Tree
from qup.model.network import AddressPlan
from qup.model.plan import NicSeed

GUEST = Path(str(importlib.resources.files("qup.builtin.tiny"))) / "guest"
LIBRARY = GUEST / "root/usr/lib/qup"


# --- the archive --------------------------------------------------------------------------


def read_cpio(archive: bytes) -> list[tuple[str, int, int, int, int, bytes]]:
    """Name, mode, uid, gid, time and contents of each member, by the letter of the format."""
    members, position = [], 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        name_at = position + 110
        name = archive[name_at : name_at + fields[11] - 1].decode()
        data_at = (name_at + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return members
        data = archive[data_at : data_at + fields[6]]
        members.append((name, fields[1], fields[2], fields[3], fields[5], data))
        position = (data_at + fields[6] + 3) & ~3


def make_tree(paths: list[str]) -> Tree:
    tree = Tree()
    for path in paths:
        tree.add_file(path, path.encode(), 0o755)
    return tree


def test_cpio_holds_what_the_tree_holds() -> None:
    tree = make_tree(["/box/usr/bin/busybox"])
    tree.add_link("/box/usr/bin/sh", "busybox")
    tree.add_file("/box/usr/lib/helper", b"odd", 0o4750, group=27)
    members = {name: rest for name, *rest in read_cpio(tree.to_cpio())}
    assert list(members) == sorted(members)
    assert members["box"][0] == 0o40755
    assert members["box/usr/bin/busybox"][0] == 0o100755
    assert members["box/usr/bin/busybox"][4] == b"/box/usr/bin/busybox"
    assert members["box/usr/bin/sh"][0] == 0o120777
    assert members["box/usr/bin/sh"][4] == b"busybox"
    assert members["box/usr/lib/helper"][:3] == [0o104750, 0, 27]


def test_cpio_does_not_depend_on_the_order_of_adding() -> None:
    paths = ["/b/x", "/a", "/b/a", "/c/d/e"]
    assert make_tree(paths).to_cpio() == make_tree(paths[::-1]).to_cpio()


def test_cpio_ends_at_a_page_so_that_another_can_follow() -> None:
    assert len(make_tree(["/a"]).to_cpio()) % 4096 == 0


# --- ELF ----------------------------------------------------------------------------------


def test_needed_libraries_of_a_program_of_this_computer() -> None:
    program = Path(shutil.which("bash") or "/bin/bash").read_bytes()
    if not elf.is_elf(program):
        pytest.skip("not a 64-bit little-endian computer")
    assert "libc.so.6" in elf.read_needed(program)
    assert "/ld-" in (elf.read_interpreter(program) or "")


def test_a_script_needs_nothing() -> None:
    assert elf.read_needed(b"#!/bin/sh\n") == ()
    assert elf.read_interpreter(b"#!/bin/sh\n") is None


def make_module(**info: str) -> bytes:
    """The smallest ELF with a ``.modinfo``: header, strings, section table."""
    names = b"\0.shstrtab\0.modinfo\0"
    modinfo = b"".join(f"{key}={value}".encode() + b"\0" for key, value in info.items())
    table = 64 + len(names) + len(modinfo)
    header = elf.MAGIC + bytes(10) + bytes(24)
    header += struct.pack("<Q", table) + bytes(10) + struct.pack("<HHH", 64, 3, 1)
    sections = bytes(64)
    for name, offset, size in ((1, 64, len(names)), (11, 64 + len(names), len(modinfo))):
        sections += struct.pack("<IIQQQQ", name, 1, 0, 0, offset, size) + bytes(24)
    assert len(header) == 64
    return header + names + modinfo + sections


def test_module_info() -> None:
    assert elf.read_module_info(make_module(depends="a,b", license="GPL")) == {
        "depends": ["a,b"],
        "license": ["GPL"],
    }


def test_signature_is_cut_off() -> None:
    module = make_module(depends="")
    trailer = bytes(8) + struct.pack(">I", 5)
    assert elf.strip_signature(module + b"12345" + trailer + elf.SIGNATURE_END) == module
    assert elf.strip_signature(module) == module


# --- modules ------------------------------------------------------------------------------


def test_modules_come_after_what_they_depend_on() -> None:
    available = {
        "kernel/virtio_pci.ko": make_module(depends="virtio_ring,virtio-modern,virtio"),
        "kernel/virtio.ko": make_module(depends="virtio_ring"),
        "kernel/virtio-modern.ko": make_module(depends="virtio_ring,virtio"),
        "kernel/virtio_ring.ko": make_module(depends=""),
        "kernel/unused.ko": make_module(depends=""),
    }
    modules, absent = kernel.select_modules(
        available, ["virtio_pci", "ext4"], builtin=["kernel/fs/ext4.ko"]
    )
    assert absent == []
    chosen = {module.path: module.needs for module in modules}
    order = list(chosen)
    assert "kernel/unused.ko" not in chosen
    for path, needs in chosen.items():
        # modprobe loads the list from its right end.
        loaded = [*reversed(needs), path]
        for index, name in enumerate(loaded):
            assert set(chosen[name]) <= set(loaded[:index])
        assert all(order.index(need) < order.index(path) for need in needs)


def test_modules_dep_is_what_modprobe_reads() -> None:
    modules = [
        kernel.Module("kernel/b.ko", b"", ("kernel/a.ko",)),
        kernel.Module("kernel/a.ko", b"", ()),
    ]
    assert kernel.format_modules_dep(modules) == "kernel/a.ko:\nkernel/b.ko: kernel/a.ko\n"


def test_a_missing_module_is_named() -> None:
    with pytest.raises(RecipeError, match="no module 'b', which a needs"):
        kernel.select_modules({"kernel/a.ko": make_module(depends="b")}, ["a"])


def test_an_optional_module_may_be_missing() -> None:
    available = {"kernel/a.ko": make_module(depends="b"), "kernel/c.ko": make_module()}
    modules, absent = kernel.select_modules(available, ["c"], ["a", "d"])
    assert [module.path for module in modules] == ["kernel/c.ko"]
    assert absent == ["a", "d"]


def pack_zstd(data: bytes) -> bytes:
    """By the program, from a pipe: so the result doesn't say how long it is."""
    if shutil.which("zstd") is None:
        pytest.skip("needs zstd")
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


PACKERS = [
    pytest.param("", lambda data: data, id="plain"),
    pytest.param(".gz", gzip.compress, id="gzip"),
    pytest.param(".xz", lambda data: lzma.compress(data, check=lzma.CHECK_CRC32), id="xz"),
    pytest.param(".zst", pack_zstd, id="zstd"),
]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_packed_modules_are_unpacked(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    data = make_module(depends="", filler="x" * 3_000_000)
    user = make_module(depends="a")
    available = {f"kernel/a.ko{suffix}": pack(data), f"kernel/b.ko{suffix}": pack(user)}
    modules, _ = kernel.select_modules(available, ["b"])
    assert modules == [
        kernel.Module("kernel/a.ko", data, ()),
        kernel.Module("kernel/b.ko", user, ("kernel/a.ko",)),
    ]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS[1:])
@pytest.mark.parametrize("keep", [5, -5])
def test_a_module_that_breaks_off(suffix: str, pack: Callable[[bytes], bytes], keep: int) -> None:
    available = {f"kernel/a.ko{suffix}": pack(make_module(depends=""))[:keep]}
    with pytest.raises(RecipeError, match=f"kernel/a.ko{suffix} cannot be unpacked") as caught:
        kernel.select_modules(available, ["a"])
    assert "libzstd1" in caught.value.hint


def test_zstd_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(name)

    packed = pack_zstd(b"kernel")
    assert kernel.unpack(packed) == b"kernel"
    monkeypatch.setattr(kernel.ctypes, "CDLL", refuse)
    assert kernel.unpack(packed) is None


# --- the kernel ---------------------------------------------------------------------------


def make_image(payload: bytes) -> bytes:
    image = bytearray(1024)
    image[0x1F1] = 1
    image[0x202:0x206] = kernel.BOOT_MAGIC
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload + b"rest"


def test_payload_is_found_and_unpacked() -> None:
    packed = lzma.compress(b"kernel") + struct.pack("<I", 6)
    payload = kernel.read_payload(make_image(packed))
    assert payload == packed
    assert kernel.unpack(packed) == b"kernel"


@pytest.mark.parametrize("payload", [b"", b"BZh9", b"\x1f\x8bnot gzip", b"\xfd7zXZ\0broken"])
def test_a_kernel_that_cannot_be_unpacked_is_used_as_it_is(payload: bytes) -> None:
    image = make_image(payload)
    assert kernel.extract_kernel(image) == image


def test_something_else_is_used_as_it_is() -> None:
    assert kernel.extract_kernel(b"ARM64" * 200) == b"ARM64" * 200


# --- packages -----------------------------------------------------------------------------

DEPENDS = """\
linux-image-cloud-amd64
  Depends: linux-image-6.1.0-56-cloud-amd64
dropbear-bin
  Depends: libc6
 |Depends: libone
  Depends: <virtual>
    libother
  Depends: zlib1g
e2fsprogs
  PreDepends: libext2fs2
  Depends: logsave
libext2fs2
  Depends: libc6:any
libc6
  Depends: libgcc-s1
"""


def test_depends_are_read() -> None:
    depends = debs.parse_depends(DEPENDS)
    assert depends["dropbear-bin"] == ("libc6", "libone", "zlib1g")
    assert depends["libext2fs2"] == ("libc6",)


def test_packages_are_libraries_below_our_roots() -> None:
    depends = debs.parse_depends(DEPENDS)
    images, names = recipe.choose_packages(depends, "linux-image-cloud-amd64")
    assert images == ["linux-image-6.1.0-56-cloud-amd64"]
    assert {"libc6", "libgcc-s1", "libext2fs2", "zlib1g", *recipe.ROOTS} <= set(names)
    assert "logsave" not in names


UBUNTU = """\
linux-image-virtual
  Depends: linux-image-6.8.0-31-generic
linux-image-6.8.0-31-generic
  Depends: kmod
  Depends: linux-base
  Depends: linux-modules-6.8.0-31-generic
linux-image-generic
  Depends: linux-image-6.8.0-31-generic
  Depends: linux-modules-extra-6.8.0-31-generic
  Depends: linux-firmware
linux-modules-extra-6.8.0-31-generic
  Depends: linux-image-6.8.0-31-generic
 |Depends: wireless-regdb
  Depends: crda
"""


@pytest.mark.parametrize("metapackage", ["linux-image-virtual", "linux-image-generic"])
def test_modules_in_a_package_of_their_own(metapackage: str) -> None:
    images, _ = recipe.choose_packages(debs.parse_depends(UBUNTU), metapackage)
    assert images == ["linux-image-6.8.0-31-generic", "linux-modules-6.8.0-31-generic"]


POLICY = """\
linux-image-cloud-amd64:
  Installed: (none)
  Candidate: (none)
  Version table:
     6.1.192-2 -1
        500 http://archive/debian bookworm/main amd64 Packages
linux-image-virtual:
  Installed: (none)
  Candidate: 6.8.0-31.31
  Version table:
     6.8.0-31.31 500
"""


def test_a_package_that_is_pinned_away_is_not_offered() -> None:
    assert debs.parse_policy(POLICY) == {"linux-image-virtual"}


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["amd64", "cloud-amd64", "generic"], "cloud-amd64"),
        (["generic", "virtual"], "virtual"),
        (["generic", "amd64"], "amd64"),
        (["generic"], "generic"),
    ],
)
def test_the_best_kernel_that_there_is(offered: list[str], chosen: str) -> None:
    names = {f"linux-image-{name}" for name in offered} | set(recipe.ROOTS)
    assert recipe.choose_kernel(names, recipe.ARCHES["amd64"]) == f"linux-image-{chosen}"


def test_missing_packages_are_named() -> None:
    with pytest.raises(RecipeError, match="no dropbear-bin, no linux-image-cloud-amd64 or ") as no:
        recipe.choose_kernel(set(recipe.ROOTS) - {"dropbear-bin"}, recipe.ARCHES["amd64"])
    assert "universe" in no.value.hint


class FakeApt:
    """An apt whose lists of the computer are ``old`` ones and whose own are ``fresh``."""

    def __init__(
        self, *, native: bool = True, old: bool, fresh: bool = True, error: str = ""
    ) -> None:
        self.native, self.useful, self.fresh, self.fetched = native, old, fresh, 0
        self.error = RecipeError(error, "") if error else None

    def serves(self) -> bool:
        return self.native

    def fetch_lists(self) -> RecipeError | None:
        self.fetched += 1
        self.useful = self.fresh
        return self.error

    def offered(self, names: list[str]) -> set[str]:
        return set(names)

    def dependencies(self, roots: list[str]) -> dict[str, tuple[str, ...]]:
        return debs.parse_depends(DEPENDS)

    def download(self, names: list[str]) -> list[debs.Deb]:
        if not self.useful:
            raise RecipeError("apt-get failed: 404 Not Found", "")
        return [debs.Deb(debs.Package(name, "1"), Path(name)) for name in names]


@pytest.mark.parametrize(
    ("apt", "fetches"),
    [
        (FakeApt(old=True), 0),
        (FakeApt(old=False), 1),
        (FakeApt(old=True, native=False), 1),
        (FakeApt(old=False, error="one of ten sources is down"), 1),
    ],
    ids=["good", "too old", "another architecture", "a source is down"],
)
def test_package_lists(apt: FakeApt, fetches: int) -> None:
    said: list[str] = []
    images, fetched = recipe.fetch_packages(apt, recipe.ARCHES["amd64"], said.append)  # type: ignore[arg-type]
    assert set(images) < set(fetched)
    assert apt.fetched == fetches
    assert any("404" in line for line in said) == (fetches == 1 and apt.native)


@pytest.mark.parametrize(("error", "expected"), [("", "404"), ("no network", "no network")])
def test_fresh_lists_that_do_not_serve_either(error: str, expected: str) -> None:
    apt = FakeApt(old=False, fresh=False, error=error)
    with pytest.raises(RecipeError, match=expected):
        recipe.fetch_packages(apt, recipe.ARCHES["amd64"], print)  # type: ignore[arg-type]


def test_a_metapackage_that_leads_nowhere() -> None:
    with pytest.raises(RecipeError, match="names no kernel"):
        recipe.choose_packages({}, "linux-image-cloud-amd64")


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")


def make_deb(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    root = folder / name
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "DEBIAN").mkdir()
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    (root / "DEBIAN/control").write_text(control)
    deb = folder / f"{name}_1_all.deb"
    argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", root, deb]
    subprocess.run(argv, check=True, capture_output=True)
    return deb


@needs_dpkg
@pytest.mark.parametrize("prefix", ["lib", "usr/lib"])
def test_a_kernel_in_two_packages(tmp_path: Path, prefix: str) -> None:
    modules = f"{prefix}/modules/6.8.0"
    kinds = f"{modules}/kernel"
    names = [name for name in contents.REQUIRED_MODULES if name != "ext4"]
    files = {f"{kinds}/fs/{name}.ko.xz": lzma.compress(make_module()) for name in names}
    files[f"{modules}/modules.builtin"] = b"kernel/fs/ext4.ko\n"
    files[f"{kinds}/net/bridge.ko.xz"] = lzma.compress(make_module(depends="stp"))
    files[f"{kinds}/sound/soundcore.ko.xz"] = b"not even read"
    boot: dict[str, Entry] = {}
    for deb in (
        make_deb(tmp_path, "linux-image-6.8.0", {"boot/vmlinuz-6.8.0": b"kernel"}),
        make_deb(tmp_path, "linux-modules-6.8.0", files),
    ):
        boot |= debs.read_deb(deb, contents.is_kernel_file)
    assert not any("sound" in path for path in boot)
    assert recipe._find_release(boot) == "6.8.0"
    tree = Tree()
    absent = contents.add_modules(tree, boot, "6.8.0")
    assert absent == list(contents.MODULES)
    have = {path.rpartition("/")[2] for path, _ in tree.items() if path.endswith(".ko")}
    assert have == {f"{name}.ko" for name in names}
    dep = tree["/box/lib/modules/6.8.0/modules.dep"].data.decode()
    assert "kernel/fs/overlay.ko:\n" in dep


@needs_dpkg
@pytest.mark.parametrize("size", [0, 100, -1000])
def test_a_damaged_package(tmp_path: Path, size: int) -> None:
    deb = make_deb(tmp_path, "some", {"usr/bin/some": random.Random(1).randbytes(100_000)})
    deb.write_bytes(deb.read_bytes()[:size])
    with pytest.raises(RecipeError, match="cannot read some_1_all.deb"):
        debs.read_deb(deb, lambda path: True)


@pytest.mark.parametrize("free", [0, 10**12])
def test_little_room_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    with debs.open_apt("amd64", tmp_path, print) as apt:
        assert (apt._work.parent == tmp_path) == (free == 0)
        assert apt._work.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_package_from_its_file_name() -> None:
    package = debs.parse_file_name("busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb")
    assert (package.name, package.version) == ("busybox-static", "1:1.35.0-4+deb12u1+b1")


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="s390x") as caught:
        recipe.build(tmp_path, arch="s390x", report=print)
    assert "amd64" in caught.value.hint


def test_missing_tool_says_what_to_install() -> None:
    with pytest.raises(RecipeError, match="no-such-tool") as caught:
        debs.find_tool("no-such-tool", "some-package")
    assert "some-package" in caught.value.hint


def test_failing_tool_gives_its_last_word(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo 'E: broken pipe dream' >&2; exit 1"]
    with pytest.raises(RecipeError, match="sh failed: broken pipe dream"):
        debs.run_tool(argv, cwd=tmp_path, timeout=10)


# --- contents -----------------------------------------------------------------------------


def test_applets_are_read_from_the_binary() -> None:
    binary = b"\x7fELF junk\0[\0[[\0acpid\0zcat\0\0more\0"
    assert contents.read_applets(binary) == ("[", "[[", "acpid", "zcat")


def test_a_busybox_without_applets() -> None:
    with pytest.raises(RecipeError, match="no list of applets"):
        contents.read_applets(b"nothing")


def test_library_behind_a_chain_of_links() -> None:
    machine = recipe.ARCHES["amd64"]
    base = f"/usr/lib/{machine.libraries}"
    library = elf.MAGIC + bytes(58)
    files = {
        f"{base}/libz.so.1": Entry(0o120777, b"libz.so.1.2"),
        f"{base}/libz.so.1.2": Entry(0o100644, library),
    }
    assert contents._find_library(files, "libz.so.1", machine) == f"{base}/libz.so.1.2"
    with pytest.raises(RecipeError, match=r"libc\.so\.6"):
        contents._find_library(files, "libc.so.6", machine)


def test_guest_files_are_in_the_tree_and_know_the_version() -> None:
    tree = Tree()
    digest = contents.add_guest(tree, [debs.Package("busybox-static", "1")], "9.9")
    other = contents.add_guest(Tree(), [debs.Package("busybox-static", "2")], "9.9")
    assert digest != other
    assert f"VERSION_ID=9.9-{digest}".encode() in tree["/box/etc/os-release"].data
    assert tree["/init"].mode == tree["/box/usr/bin/sudo"].mode == 0o100755
    assert tree["/box/etc/passwd"].mode == 0o100644
    assert tree["/box/sbin"].data == b"usr/bin"
    everything = b"".join(entry.data for _, entry in tree.items())
    assert b"@VERSION@" not in everything


@pytest.mark.parametrize("version", ["2022.82-4", "2022.83-1+deb12u3", "2025.86-1"])
def test_affected_dropbears(version: str) -> None:
    assert dropbear.is_affected(version)


@pytest.mark.parametrize("version", ["2020.81-3", "2025.87-1", "2025.88-2", "odd"])
def test_sound_dropbears(version: str) -> None:
    assert not dropbear.is_affected(version)


SESSCHECKCLOSE = bytes.fromhex(
    "488b4720 837830ff 7416 c7475801000000 b801000000 e9c6bafeff 0f1f440000"
    "8b4008 85c0 0f94c0 0fb6c0 e9b1bafeff"
)


def test_dropbear_is_mended_where_the_function_is_known() -> None:
    program = b"before" + SESSCHECKCLOSE + b"after"
    mended = dropbear.mend_sessions(program)
    assert mended is not None
    assert len(mended) == len(program)
    changed = [i for i, (old, new) in enumerate(zip(program, mended, strict=True)) if old != new]
    assert program[changed[0] : changed[-1] + 1] == b"\x0f\x94\xc0"


@pytest.mark.parametrize("program", [b"nothing", SESSCHECKCLOSE * 2])
def test_dropbear_is_left_alone_elsewhere(program: bytes) -> None:
    assert dropbear.mend_sessions(program) is None


# --- the guest's scripts ------------------------------------------------------------------

AWKS = [
    pytest.param(argv, id=argv[-1] if len(argv) == 1 else argv[0])
    for argv in (["mawk"], ["gawk"], ["busybox", "awk"])
    if shutil.which(argv[0])
]
SCRIPTS = [path for path in GUEST.rglob("*") if path.is_file() and b"#!" in path.read_bytes()[:2]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse(script: Path) -> None:
    shell = ["busybox", "sh"] if shutil.which("busybox") else ["sh"]
    subprocess.run([*shell, "-n", str(script)], check=True)


class Plan:
    """What plan.awk makes of a seed."""

    def __init__(self, awk: list[str], directory: Path, **documents: str) -> None:
        files = []
        for name, text in documents.items():
            path = directory / name.replace("_", "-")
            path.write_bytes(text.encode())
            files.append(str(path))
        late = directory / "late"
        programs = [word for name in ("yaml", "plan") for word in ("-f", f"{LIBRARY}/{name}.awk")]
        done = subprocess.run(
            [*awk, "-v", f"late={late}", *programs, *(files or ["/dev/null"])],
            capture_output=True,
            check=True,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            timeout=30,
        )
        assert not done.stderr, done.stderr
        self.early = self._split(done.stdout)
        self.late = self._split(late.read_bytes())

    def _split(self, text: bytes) -> list[list[str]]:
        """Commands as a shell would see them: one per line outside of quotes."""
        return [shlex.split(line) for line in self._lines(text.decode("utf-8", "surrogateescape"))]

    @staticmethod
    def _lines(text: str) -> list[str]:
        lines, current, quoted = [], "", False
        for index, character in enumerate(text):
            if character == "'" and not (index and text[index - 1] == "\\" and not quoted):
                quoted = not quoted
            if character == "\n" and not quoted:
                lines.append(current)
                current = ""
            else:
                current += character
        return [line for line in lines if line]

    def find(self, verb: str) -> list[list[str]]:
        return [words[1:] for words in self.early + self.late if words[0] == verb]

    @property
    def warnings(self) -> list[str]:
        return [words[0] for words in self.find("warn")]


@pytest.fixture(params=AWKS)
def awk(request: pytest.FixtureRequest) -> list[str]:
    argv: list[str] = request.param
    return argv


def contents_of(awk: list[str], tmp_path: Path, value: str) -> tuple[str | None, list[str]]:
    """What a value of write_files' ``content`` becomes, and the warnings."""
    document = f"#cloud-config\nwrite_files:\n  - path: /x\n    content: {value}\n"
    plan = Plan(awk, tmp_path, user_data=document)
    files = plan.find("file")
    return (files[0][5] if files else None), plan.warnings


NASTY = 'it\'s "quoted" \\ $HOME `id` $(id) & ; | \t\n\r é € 😀 \u2028 #no: comment \x7f\x1b'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("plain # comment", "plain"),
        ("a#b", "a#b"),
        ("two words", "two words"),
        ("http://host:80/x", "http://host:80/x"),
        ("'it''s'", "it's"),
        ("'a # b'   # comment", "a # b"),
        ('""', ""),
        ("~", ""),
        (json.dumps(NASTY), NASTY),
        (json.dumps(NASTY, ensure_ascii=False), NASTY),
        (json.dumps("x" * 5000 + "\n'" * 100), "x" * 5000 + "\n'" * 100),
        (r'"\x41\/\u00e9"', "A/é"),
        ("|\n      one\n       two\n\n      three\n", "one\n two\n\nthree\n"),
        ("|-\n      one\n", "one"),
        ("|+\n      one\n\n", "one\n\n\n"),
        ("| # note\n      #!/bin/sh\n      - x: y\n", "#!/bin/sh\n- x: y\n"),
        ("|\n      'quotes' and \\n\n", "'quotes' and \\n\n"),
    ],
)
def test_scalars(awk: list[str], tmp_path: Path, value: str, expected: str) -> None:
    assert contents_of(awk, tmp_path, value) == (expected, [])


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (">\n      folded\n      text", "user-data:4: folded text"),
        ("&anchor x", "user-data:4: anchors"),
        ("*alias", "user-data:4: anchors"),
        ("!!binary x", "user-data:4: anchors"),
        ("a: b", 'user-data:4: ": " in a value must be quoted'),
        ('"no end', "user-data:4: a quoted value does not end"),
        ('"x" y', "user-data:4: something follows"),
        (r'"\q"', r"user-data:4: unknown escape \q"),
        (r'"\u12"', "user-data:4: a \\x or \\u escape is incomplete"),
        (r'"\u0000"', "user-data:4: the character NUL"),
        ("plain\n      goes on", "user-data:5: indented deeper"),
        ("@x", "user-data:4: a value cannot start with @"),
        ("|2\n      x", "user-data:4: a block scalar starts with"),
    ],
)
def test_what_is_not_understood_is_reported(
    awk: list[str], tmp_path: Path, value: str, complaint: str
) -> None:
    _, warnings = contents_of(awk, tmp_path, value)
    assert any(warning.startswith(complaint) for warning in warnings), warnings


def test_nothing_of_a_damaged_value_is_used(awk: list[str], tmp_path: Path) -> None:
    written, warnings = contents_of(awk, tmp_path, '"half')
    assert written is None
    assert len(warnings) == 2


FULL = """\
#cloud-config
# what qup writes, and what people write

"hostname": "box-a"
users:
  - default
  - name: dev
    uid: 1234
    shell: /bin/sh
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    ssh_authorized_keys:
    - "ssh-ed25519 AAAA it's"
    - ssh-rsa BBBB x@y
  - {name: guest, sudo: false, lock_passwd: true}
ssh_authorized_keys: ["ssh-ed25519 DDDD"]
ssh_deletekeys: false
ssh_keys:
  ed25519_private: |
    -----BEGIN OPENSSH PRIVATE KEY-----
    abc
    -----END OPENSSH PRIVATE KEY-----
  ed25519_public: ssh-ed25519 CCCC
packages: [vim]
write_files:
- path: /etc/one
  permissions: '0600'
  owner: dev:dev
  content: one
- {path: /etc/two, encoding: b64, content: "AAE=", append: true}
- path: relative
  content: x
bootcmd:
- echo boot
runcmd:
  - echo "a:b"
  - [echo, it's, "two words"]
  - - echo
    - nested
  - |
    cat <<EOF
    x
    EOF
"""


def test_a_full_cloud_config(awk: list[str], tmp_path: Path) -> None:
    plan = Plan(
        awk,
        tmp_path,
        meta_data="instance-id: i-1\nlocal-hostname: other\npublic-keys:\n  - ssh-ed25519 EEEE\n",
        user_data=FULL,
    )
    assert plan.find("identity") == [["i-1", "box-a"]]
    assert plan.find("user") == [
        ["qup", "", "/bin/sh", "yes"],
        ["dev", "1234", "/bin/sh", "yes"],
        ["guest", "", "/bin/sh", "no"],
    ]
    assert plan.find("keys") == [
        ["qup", "ssh-ed25519 DDDD\nssh-ed25519 EEEE\n"],
        ["dev", "ssh-ed25519 AAAA it's\nssh-rsa BBBB x@y\n"],
        ["guest", ""],
    ]
    ((private, delete),) = plan.find("hostkey")
    assert private.splitlines()[1] == "abc"
    assert delete == "no"
    assert plan.find("file") == [
        ["/etc/one", "0600", "dev:dev", "text", "no", "one"],
        ["/etc/two", "", "", "base64", "yes", "AAE="],
    ]
    assert plan.find("boot") == [["1", "echo boot"]]
    assert plan.find("run") == [
        ["1", 'echo "a:b"'],
        ["2", r"'echo' 'it'\''s' 'two words'"],
        ["3", "'echo' 'nested'"],
        ["4", "cat <<EOF\nx\nEOF\n"],
    ]
    assert plan.warnings == [
        "ignored by tiny: write_files/2: no absolute path",
        "ignored by tiny: packages",
    ]
    verbs = [words[0] for words in plan.early]
    assert verbs.index("hostkey") < verbs.index("start_sshd") < verbs.index("network_default")


def test_a_seed_is_never_run_as_shell_code(awk: list[str], tmp_path: Path) -> None:
    evil = "'; touch owned; '"
    plan = Plan(
        awk,
        tmp_path,
        meta_data=f"instance-id: {json.dumps(evil)}\nlocal-hostname: {json.dumps(evil)}\n",
        user_data=f"#cloud-config\nusers: [{{name: {json.dumps(evil)}}}]\nhostname: x\n",
    )
    assert plan.find("identity") == [[evil, "x"]]
    assert plan.find("user") == [["qup", "", "/bin/sh", "yes"]]
    assert any("no usable name" in warning for warning in plan.warnings)


def test_only_root(awk: list[str], tmp_path: Path) -> None:
    document = '#cloud-config\nusers:\n  - name: root\nssh_authorized_keys: ["k"]\n'
    plan = Plan(awk, tmp_path, user_data=document)
    assert plan.find("user") == [["root", "", "/bin/sh", "no"]]
    assert plan.find("keys") == [["root", "k\n"]]


def test_no_seed(awk: list[str], tmp_path: Path) -> None:
    plan = Plan(awk, tmp_path)
    assert [words[0] for words in plan.early] == [
        *("identity", "hostkey", "user", "save_accounts", "keys"),
        *("start_sshd", "network_default"),
    ]
    assert plan.late == []


def test_a_script(awk: list[str], tmp_path: Path) -> None:
    plan = Plan(awk, tmp_path, meta_data="instance-id: i\n", user_data="#!/bin/sh\nfoo: [\n")
    assert plan.late == [["script"]]
    assert plan.warnings == []


def test_windows_line_ends_and_byte_order_mark(awk: list[str], tmp_path: Path) -> None:
    plan = Plan(awk, tmp_path, user_data="\ufeff#cloud-config\r\nhostname: box\r\n")
    assert plan.find("identity") == [["", "box"]]
    assert plan.warnings == []


@pytest.mark.parametrize("document", ["", "\n", "#cloud-config\n", "#cloud-config\n---\n# x\n"])
def test_empty_user_data(awk: list[str], tmp_path: Path, document: str) -> None:
    assert Plan(awk, tmp_path, user_data=document).warnings == []


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("Content-Type: multipart/mixed\n", 'user-data:1: neither "#cloud-config" nor "#!"'),
        ("#cloud-config\nbad line\nhostname: x\n", 'user-data:2: neither "key: value"'),
        ("#cloud-config\nhostname: x\nhostname: y\n", 'user-data:3: the key "hostname" is there'),
        ("#cloud-config\nusers:\n\t- name: x\n", "user-data:3: indented by a tab"),
        ("#cloud-config\nruncmd: [a, b\n", "user-data:2: the [ ] list does not end"),
        ("#cloud-config\nusers: [{name: x]\n", "user-data:2: the { } mapping does not end"),
        ("#cloud-config\nruncmd:\n  - a\n - b\n", "user-data:4: "),
        ("#cloud-config\nhostname: [a, b]\n", "ignored by tiny: hostname: one value"),
        ("#cloud-config\nruncmd:\n  - a: b\n", "ignored by tiny: runcmd/0: one value"),
        ("#cloud-config\na: b\n---\nc: d\n", "user-data:3: "),
    ],
)
def test_damaged_documents(awk: list[str], tmp_path: Path, document: str, complaint: str) -> None:
    plan = Plan(awk, tmp_path, user_data=document)
    assert any(complaint in warning for warning in plan.warnings), plan.warnings
    # Whatever is wrong, ssh gets what it needs.
    assert plan.find("start_sshd") == [[]]


NETWORK = """\
version: 2
ethernets:
  lan:
    match: {macaddress: "52:54:00:AA:BB:CC"}
    set-name: lan0
    addresses: [10.0.0.5/24, "fd00::5/64"]
    routes:
      - to: default
        via: 10.0.0.1
      - {to: 10.9.0.0/16, via: 10.0.0.9}
    nameservers:
      addresses: [10.0.0.3]
      search: [example]
  eth1:
    dhcp4: true
    wakeonlan: true
"""


@pytest.mark.parametrize("nested", [False, True])
def test_network(awk: list[str], tmp_path: Path, nested: bool) -> None:
    document = NETWORK
    if nested:
        document = "network:\n" + "".join(f"  {line}\n" for line in NETWORK.splitlines())
    plan = Plan(awk, tmp_path, network_config=document)
    assert plan.find("nic") == [
        ["52:54:00:aa:bb:cc", "", "lan0", "no"],
        ["", "eth1", "", "yes"],
    ]
    assert plan.find("address") == [["10.0.0.5/24"], ["fd00::5/64"]]
    assert plan.find("route") == [["default", "10.0.0.1"], ["10.9.0.0/16", "10.0.0.9"]]
    assert plan.find("nameserver") == [["10.0.0.3"]]
    assert plan.find("search") == [["example"]]
    assert [warning.rpartition("/")[2] for warning in plan.warnings] == ["wakeonlan"]
    assert plan.find("network_default") == []


def test_what_qup_writes_is_understood_without_a_word(awk: list[str], tmp_path: Path) -> None:
    fixed = AddressPlan(False, ("10.1.2.3/24",), "10.1.2.1", ("10.1.2.2",), ("example",))
    nics = (
        NicSeed("52:54:00:00:00:01", AddressPlan()),
        NicSeed("52:54:00:00:00:02", fixed),
        NicSeed("52:54:00:00:00:03", AddressPlan()),
    )
    document = render_network_config(nics) or ""
    plan = Plan(awk, tmp_path, user_data=f"#cloud-config\n{UPDATES}", network_config=document)
    assert plan.warnings == []
    assert plan.find("nic") == [
        ["52:54:00:00:00:01", "", "", "yes"],
        ["52:54:00:00:00:02", "", "", "no"],
        ["52:54:00:00:00:03", "", "", "yes"],
    ]
    assert plan.find("address") == [["10.1.2.3/24"]]
    assert plan.find("route") == [["default", "10.1.2.1"]]
    assert plan.find("nameserver") == [["10.1.2.2"]]
    assert plan.find("search") == [["example"]]


def test_network_version_1_is_reported(awk: list[str], tmp_path: Path) -> None:
    plan = Plan(awk, tmp_path, network_config="version: 1\nconfig: []\n")
    assert plan.warnings == ["network-config: only version 2 is understood: using DHCP"]
    assert plan.find("network_default") == [[]]
