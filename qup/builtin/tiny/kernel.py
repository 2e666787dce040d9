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
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from qup.builtin.tiny import elf
from qup.builtin.tiny.errors import RecipeError

BOOT_MAGIC = b"HdrS"
"""At 0x202 of a bzImage (Linux, Documentation/x86/boot.rst)."""

LZ4_LEGACY_MAGIC = 0x184C2102
LZ4_BLOCK = 8 << 20
"""The size of an unpacked block in LZ4's legacy format, which is what Linux uses."""


def extract_kernel(image: bytes) -> bytes:
    """The kernel that QEMU should boot: unpacked if it can be entered directly, else as it is."""
    payload = read_payload(image)
    unpacked = unpack_payload(payload) if payload else None
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


def unpack_payload(payload: bytes) -> bytes | None:
    """Undo gzip, xz or LZ4; None for a format that this computer cannot undo.

    Linux appends the unpacked size (four bytes) to every format but gzip, which has it.
    """
    try:
        if payload[:2] == b"\x1f\x8b":
            return gzip.decompress(payload)
        if payload[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(payload)
        if payload[:4] == struct.pack("<I", LZ4_LEGACY_MAGIC):
            return _unpack_lz4(payload[:-4])
    except (OSError, lzma.LZMAError, EOFError, ValueError):
        return None
    return None


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


def select_modules(
    available: Mapping[str, bytes], wanted: Iterable[str], builtin: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The wanted modules and everything they depend on, each after what it depends on.

    A module says itself what it depends on (``depends=`` in its ``.modinfo``); Debian's
    package has no ``modules.dep``, as that is made when it is installed.

    Args:
        available: the modules of the package: path to contents.
        wanted: names; one that is built into the kernel is silently left out.
        builtin: paths of ``modules.builtin``.

    Returns:
        Path to the paths it depends on, as ``modules.dep`` has them: to be loaded from the right.

    Raises:
        RecipeError: a wanted module, or one it needs, is in neither list.
    """
    paths = {module_name(path): path for path in available}
    inside = {module_name(path) for path in builtin}
    chosen: dict[str, tuple[str, ...]] = {}

    def choose(name: str, asker: str) -> str | None:
        if name in inside:
            return None
        if name not in paths:
            raise RecipeError(
                f"the kernel package has no module {name!r}, which {asker} needs",
                "tell qup's developers which kernel package it was (see the lines above)",
            )
        path = paths[name]
        if path not in chosen:
            needs = read_depends(available[path])
            direct = [found for need in needs if (found := choose(need, name)) is not None]
            closure = {*direct, *(below for found in direct for below in chosen[found])}
            # `chosen` has everything after what it depends on; modprobe loads from the right.
            chosen[path] = tuple(found for found in reversed(chosen) if found in closure)
        return path

    for name in wanted:
        choose(name, "tiny")
    return chosen


def read_depends(module: bytes) -> tuple[str, ...]:
    """The names of the modules that must be loaded before this one."""
    (depends, *_) = elf.read_module_info(module).get("depends", [""])
    return tuple(name.replace("-", "_") for name in depends.split(",") if name)


def format_modules_dep(modules: Mapping[str, tuple[str, ...]]) -> str:
    """``modules.dep`` as ``man 5 modules.dep`` describes it."""
    lines = (f"{path}: {' '.join(needs)}".rstrip() for path, needs in sorted(modules.items()))
    return "".join(f"{line}\n" for line in lines)
