"""The kernel: taken out of its own decompressor, and its modules in the order they load.

A PC kernel package holds a "bzImage": a small program that unpacks the real kernel. QEMU can
enter the unpacked one directly (PVH), which spares the guest firmware, real mode and unpacking
some 50 MB in emulation: about 0.4 s less under TCG.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gzip
import lzma
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from qup.builtin.tiny import elf
from qup.builtin.tiny.errors import RecipeError

BOOT_MAGIC = b"HdrS"
"""At 0x202 of a bzImage (Linux, Documentation/x86/boot.rst)."""

ZSTD_MAGIC = 0xFD2FB528
ZSTD_CHUNK = 1 << 20

LZ4_LEGACY_MAGIC = 0x184C2102
LZ4_BLOCK = 8 << 20
"""The size of an unpacked block in LZ4's legacy format, which is what Linux uses."""


def extract_kernel(image: bytes) -> bytes:
    """The kernel that QEMU should boot: unpacked if it can be entered directly, else as it is."""
    payload = read_payload(image)
    unpacked = unpack(payload) if payload else None
    if unpacked is not None and elf.has_pvh_entry(unpacked):
        return unpacked
    return image


def read_payload(image: bytes) -> bytes | None:
    """The packed kernel inside a bzImage, or None if this is something else."""
    if image[0x202:0x206] != BOOT_MAGIC:
        return None
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        return None
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    return image[start : start + length]


def unpack(packed: bytes) -> bytes | None:
    """Undo gzip, xz, zstd or LZ4; None for what this computer cannot undo.

    In a bzImage the unpacked size (four bytes) follows every format but gzip, which has it.
    """
    try:
        if packed[:2] == b"\x1f\x8b":
            return gzip.decompress(packed)
        if packed[:6] == b"\xfd7zXZ\0":
            unpacker = lzma.LZMADecompressor()
            unpacked = unpacker.decompress(packed)
            return unpacked if unpacker.eof else None
        if packed[:4] == struct.pack("<I", ZSTD_MAGIC):
            return _unpack_zstd(packed)
        if packed[:4] == struct.pack("<I", LZ4_LEGACY_MAGIC):
            return _unpack_lz4(packed[:-4])
    except (OSError, lzma.LZMAError, EOFError, ValueError, zlib.error):
        return None
    return None


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``."""

    _fields_ = (
        ("memory", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("position", ctypes.c_size_t),
    )


def _unpack_zstd(data: bytes) -> bytes | None:
    """The first frame; it need not say how long it is."""
    try:
        library = ctypes.CDLL("libzstd.so.1")  # apt itself is linked to it
    except OSError:
        return None
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    stream = ctypes.c_void_p(library.ZSTD_createDStream())
    memory = ctypes.create_string_buffer(ZSTD_CHUNK)
    source = _Buffer(data, len(data), 0)
    unpacked = bytearray()
    try:
        while True:
            target = _Buffer(ctypes.cast(memory, ctypes.c_char_p), ZSTD_CHUNK, 0)
            left = library.ZSTD_decompressStream(stream, ctypes.byref(target), ctypes.byref(source))
            if library.ZSTD_isError(ctypes.c_size_t(left)):
                return None
            unpacked += memory.raw[: target.position]
            if left == 0:
                return bytes(unpacked)
            if source.position == source.size and target.position < target.size:
                return None  # it breaks off
    finally:
        library.ZSTD_freeDStream(stream)


def _unpack_lz4(data: bytes) -> bytes | None:
    name = ctypes.util.find_library("lz4") or "liblz4.so.1"
    try:
        library = ctypes.CDLL(name)  # apt itself is linked to it
    except OSError:
        return None
    buffer = ctypes.create_string_buffer(LZ4_BLOCK)
    unpacked = bytearray()
    position = 4
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        if size == LZ4_LEGACY_MAGIC:
            continue
        block = data[position : position + size]
        length = library.LZ4_decompress_safe(block, buffer, len(block), LZ4_BLOCK)
        if length < 0:
            return None
        unpacked += memoryview(buffer)[:length]
        position += size
    return bytes(unpacked)


def module_name(path: str) -> str:
    """The kernel's name of a module: ``…/virtio-rng.ko`` is ``virtio_rng``."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


@dataclass(frozen=True)
class Module:
    """A module as the guest has it, unpacked.

    Args:
        path: below the directory of modules.
        data: its contents.
        needs: the paths it depends on, as ``modules.dep`` has them: to be loaded from the right.
    """

    path: str
    data: bytes
    needs: tuple[str, ...]


def select_modules(
    available: Mapping[str, bytes],
    required: Iterable[str],
    optional: Iterable[str] = (),
    builtin: Iterable[str] = (),
) -> tuple[list[Module], list[str]]:
    """The wanted modules and everything they depend on, each after what it depends on.

    A module says itself what it depends on (``depends=`` in its ``.modinfo``); Debian's
    package has no ``modules.dep``, as that is made when it is installed.

    Args:
        available: the modules of the package: path to contents, which may be packed.
        required: names; one that is built into the kernel is silently left out.
        optional: names that may be missing.
        builtin: paths of ``modules.builtin``.

    Returns:
        The modules, and the optional names that are missing or need something that is.

    Raises:
        RecipeError: a required module, or one it needs, is in neither list.
    """
    paths = {module_name(path): path for path in available}
    inside = {module_name(path) for path in builtin}
    chosen: dict[str, Module] = {}

    def choose(name: str, asker: str) -> str | None:
        if name in inside:
            return None
        if name in chosen:
            return name
        if name not in paths:
            raise RecipeError(
                f"the kernel package has no module {name!r}, which {asker} needs",
                "tell qup's developers which kernel package it was (see the lines above)",
            )
        data = _unpack_module(paths[name], available[paths[name]])
        direct = [found for need in read_depends(data) if (found := choose(need, name))]
        closure = {chosen[found].path for found in direct}
        closure.update(below for found in direct for below in chosen[found].needs)
        # `chosen` has everything after what it depends on; modprobe loads from the right.
        needs = tuple(each.path for each in reversed(chosen.values()) if each.path in closure)
        chosen[name] = Module(f"{paths[name].rpartition('.ko')[0]}.ko", data, needs)
        return name

    absent = []
    for name in required:
        choose(name, "tiny")
    for name in optional:
        try:
            choose(name, "tiny")
        except RecipeError:
            absent.append(name)
    return list(chosen.values()), absent


def _unpack_module(path: str, data: bytes) -> bytes:
    unpacked = data if elf.is_elf(data) else unpack(data)
    if unpacked is None or not elf.is_elf(unpacked):
        raise RecipeError(
            f"the kernel module {path} cannot be unpacked here",
            "a module ending in .zst needs the library libzstd: apt-get install libzstd1",
        )
    return unpacked


def read_depends(module: bytes) -> tuple[str, ...]:
    """The names of the modules that must be loaded before this one."""
    (depends, *_) = elf.read_module_info(module).get("depends", [""])
    return tuple(name.replace("-", "_") for name in depends.split(",") if name)


def format_modules_dep(modules: Iterable[Module]) -> str:
    """``modules.dep`` as ``man 5 modules.dep`` describes it."""
    lines = (f"{module.path}: {' '.join(module.needs)}".rstrip() for module in modules)
    return "".join(f"{line}\n" for line in sorted(lines))
