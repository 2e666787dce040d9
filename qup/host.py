"""Facts about this computer and its QEMU programs.

What a QEMU program says about itself is remembered by its path, size and time of change; what
the accelerator probe found, until the next boot as well. The memory is one small file in the
cache that can be deleted or damaged at any time.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qup import paths
from qup.errors import HostError
from qup.files import write_atomic
from qup.process import run
from qup.qemu.firmware import FirmwareFiles, descriptor_folders, find_firmware
from qup.qemu.probe import run_probe

if TYPE_CHECKING:
    from qup.api import Verdict

SCHEMA = 1
QUESTION_TIMEOUT = 5.0
"""Seconds that a QEMU may take to say its version; 0.02 is usual."""
ANSWER_LIMIT = 20_000
"""Characters of what a program prints that are remembered."""

FAILURE_LIFETIME = 3600.0
"""Seconds that a failed probe is believed: a module may be loaded anew, a busy host calm down."""

_VERSION = re.compile(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", re.ASCII)
_MACHINE = re.compile(r"(?P<name>\S+) +(?P<text>.+)")
_ALIAS = re.compile(r"\(alias of (?P<target>[^\s)]+)\)")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386", "i586": "i386"}
_RESOLVERS = Path("/etc/resolv.conf")
"""Its form is in ``resolv.conf(5)``; QEMU's user network reads the same file."""

_PACKAGES = {
    "x86_64": "qemu-system-x86",
    "i386": "qemu-system-x86",
    "aarch64": "qemu-system-arm",
    "arm": "qemu-system-arm",
}

_FIRMWARE = {
    "x86_64": "ovmf",
    "i386": "ovmf-ia32",
    "aarch64": "qemu-efi-aarch64",
    "arm": "qemu-efi-arm",
    "riscv64": "qemu-efi-riscv64",
}

Facts = dict[str, Any]


class LocalHost:
    """This computer, as :class:`qup.api.Host` describes it."""

    def __init__(self, cache: Path | None = None) -> None:
        """Use another file than the user's to remember what was found out."""
        self._cache_path = cache or paths.cache_root() / "host" / "facts.json"

    @property
    def system(self) -> str:
        return sys.platform

    @cached_property
    def arch(self) -> str:
        machine = os.uname().machine.lower()
        return _ARCHITECTURES.get(machine, machine)

    @cached_property
    def memory_mib(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)

    @cached_property
    def resolvers(self) -> tuple[str, ...]:
        """The DNS servers of this computer, in the order in which it asks them."""
        try:
            text = _RESOLVERS.read_text(errors="replace")
        except OSError:
            return ()
        words = (line.split() for line in text.splitlines())
        return tuple(found[1] for found in words if len(found) > 1 and found[0] == "nameserver")

    def which(self, program: str) -> Path | None:
        found = shutil.which(program)
        return Path(found).absolute() if found else None

    def ask(self, program: Path, *words: str) -> str:
        """What a program prints, remembered until it changes; empty if it fails or hangs."""
        key = json.dumps([_fingerprint(program), *words])
        known = self._read_cache()["answers"].get(key)
        if known is None:
            try:
                done = run([program, *words], check=False, timeout=QUESTION_TIMEOUT)
            except HostError:
                return ""
            if done.code != 0:
                return ""
            known = {"said": f"{done.stdout}{done.stderr}"[:ANSWER_LIMIT]}
            self._remember("answers", key, known)
        return str(known["said"])

    def qemu_version(self, program: str) -> tuple[int, int, int]:
        major, minor, micro = self._facts(program)["version"]
        return major, minor, micro

    def qemu_supports(self, program: str, accelerator: str) -> bool:
        return accelerator in self._facts(program)["accelerators"]

    def display_types(self, program: str, *, wanted: Sequence[str] = ()) -> tuple[str, ...]:
        """The types of ``-display`` that a QEMU program has; VNC is not among them.

        Windows are modules, which come and go with a package of their own while the program
        stays the same: when none of those ``wanted`` is known, the program is asked anew.
        """
        facts = self._facts(program)
        if wanted and not {*wanted} & {*facts["displays"]}:
            path = self._find(program)
            answer = run([path, "-display", "help"], timeout=QUESTION_TIMEOUT).stdout
            facts = {**facts, "displays": _parse_words(answer)}
            self._known[_fingerprint(path)] = facts
            self._remember("programs", _fingerprint(path), facts)
        return tuple(facts["displays"])

    def qemu_has_device(self, program: str, device: str) -> bool:
        """Whether a QEMU program was built with a device."""
        facts = self._facts(program)
        known = dict(facts.get("devices", {}))
        if device not in known:
            path = self._find(program)
            done = run([path, "-device", f"{device},help"], check=False, timeout=QUESTION_TIMEOUT)
            known[device] = done.code == 0
            self._known[_fingerprint(path)] = facts = {**facts, "devices": known}
            self._remember("programs", _fingerprint(path), facts)
        return bool(known[device])

    def machine_types(self, program: str) -> Mapping[str, str]:
        """The machine types of a QEMU program: every name, and the versioned one it means."""
        types: dict[str, str] = self._facts(program)["machines"]
        return types

    def machine_type(self, program: str, name: str) -> str:
        """The versioned machine type behind a name: ``q35`` is ``pc-q35-7.2``.

        Raises:
            HostError: this QEMU has none of that name.
        """
        types = self.machine_types(program)
        if name in types:
            return types[name]
        near = difflib.get_close_matches(name, types, n=1)
        raise HostError(
            f"{program} has no machine type {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"'{program} -machine help' lists them",
        )

    def emulator(self, program: str, accelerator: str) -> tuple[str, str]:
        """What a guest's state depends on besides its plan.

        Returns:
            The QEMU program as it is now (where, how large, how old, which version), and the
            processor if the guest sees the host's.
        """
        version = ".".join(map(str, self.qemu_version(program)))
        processor = "" if accelerator == "tcg" else _describe_processor()
        return f"{version} {_fingerprint(self._find(program))}", processor

    def firmware(self, program: str, machine_type: str) -> FirmwareFiles:
        """The UEFI firmware for a machine type of a QEMU program.

        Raises:
            HostError: there is none.
        """
        path = self._find(program)
        name = path.name
        arch = name.removeprefix("qemu-system-") if name.startswith("qemu-system-") else "x86_64"
        found = find_firmware(descriptor_folders(path), arch, machine_type)
        if found is not None:
            return found
        package = _FIRMWARE.get(arch)
        install = f"install {package} ('apt install {package}')" if package else "install one"
        raise HostError(
            f"there is no UEFI firmware for {arch} machines of type {machine_type} here",
            hint=f"{install}; QEMU's descriptors in /usr/share/qemu/firmware name what there is",
        )

    def prove(self, program: str, properties: Mapping[str, str], cpu: str) -> Verdict:
        """Run the probe, or remember its verdict. See :func:`qup.qemu.probe.run_probe`."""
        from qup.api import Verdict

        path = self._find(program)
        question = json.dumps([_fingerprint(path), dict(sorted(properties.items())), cpu])
        key, boot = hashlib.sha256(question.encode()).hexdigest()[:32], boot_id()
        known = self._read_cache()["verdicts"].get(key)
        if known and known["boot"] == boot and _is_fresh(known):
            return Verdict(bool(known["usable"]), str(known["reason"]), known.get("hint"))
        found = run_probe(path, properties, cpu)
        self._remember("verdicts", key, {"boot": boot, "time": time.time(), **asdict(found)})
        return Verdict(found.usable, found.reason, found.hint)

    def _find(self, program: str) -> Path:
        path = self.which(program)
        if path is not None:
            return path
        if os.path.lexists(program) and os.sep in program:
            raise HostError(f"{program} is not a program that can be started", hint=_HINT)
        arch = program.rpartition("qemu-system-")[2]
        package = _PACKAGES.get(arch, "qemu-system")
        raise HostError(
            f"the program {program!r} was not found",
            hint=f"install it: 'qup doctor --fix', or on Debian and Ubuntu 'apt install {package}'",
        )

    def _facts(self, program: str) -> Facts:
        path = self._find(program)
        key = _fingerprint(path)
        if key not in self._known:
            remembered = self._read_cache()["programs"].get(key)
            if remembered is None:
                remembered = _ask(path)
                self._remember("programs", key, remembered)
            self._known[key] = remembered
        return self._known[key]

    @cached_property
    def _known(self) -> dict[str, Facts]:
        return {}

    def _read_cache(self) -> dict[str, dict[str, Facts]]:
        empty: dict[str, dict[str, Facts]] = {"programs": {}, "verdicts": {}, "answers": {}}
        try:
            content = json.loads(self._cache_path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return empty
        return {**empty, **content} if _is_sound(content) else empty

    def _remember(self, table: str, key: str, value: Facts) -> None:
        content: dict[str, Any] = self._read_cache()
        content[table][key] = value
        boot = boot_id()
        kept = {name: known for name, known in content["verdicts"].items() if known["boot"] == boot}
        _write_quietly(self._cache_path, {**content, "schema": SCHEMA, "verdicts": kept})


_HINT = "'program' in [machine.qemu] must be a QEMU system emulator"


def boot_id() -> str:
    """A word that is another one after every boot of this computer."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{(time.time() - time.monotonic()) // 600:.0f}"


def _describe_processor() -> str:
    """The host's first processor: its model, stepping, microcode and features."""
    with contextlib.suppress(OSError):
        block = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        wanted = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")
        lines = [line for line in block.splitlines() if line.startswith(wanted)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return " ".join(os.uname())


def _is_fresh(verdict: Facts) -> bool:
    return bool(verdict["usable"]) or 0 <= time.time() - verdict["time"] < FAILURE_LIFETIME


def _fingerprint(path: Path) -> str:
    real = path.resolve()
    info = real.stat()
    return f"{real}|{info.st_size}|{info.st_mtime_ns}"


def _ask(path: Path) -> Facts:
    """Ask a program for its version, machine types and accelerators, all at once."""
    answers: dict[str, Any] = {}

    def ask(name: str, words: tuple[str, ...], read: Callable[[str], Any]) -> None:
        try:
            answers[name] = read(run([path, *words], timeout=QUESTION_TIMEOUT).stdout)
        except (HostError, ValueError) as exc:
            answers[name] = exc

    questions = (
        ("version", ("--version",), _parse_version),
        ("machines", ("-machine", "help"), _parse_machines),
        ("accelerators", ("-accel", "help"), _parse_words),
        ("displays", ("-display", "help"), _parse_words),
    )
    threads = [threading.Thread(target=ask, args=question, daemon=True) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, _, _ in questions:
        if isinstance(problem := answers[name], Exception):
            raise _refusal(path, problem) from problem
    return answers


def _refusal(path: Path, problem: Exception) -> HostError:
    if isinstance(problem, HostError):
        return HostError(problem.message, hint=problem.hint or _HINT, details=problem.details)
    return HostError(f"{path} is not QEMU: {problem}", hint=_HINT)


def _parse_version(text: str) -> list[int]:
    match = _VERSION.search(text[:10_000])
    if match is None:
        raise ValueError("it does not say QEMU's version")
    return [int(number or 0) for number in match.groups()]


def _parse_machines(text: str) -> dict[str, str]:
    types: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        if match := _MACHINE.match(line):
            alias = _ALIAS.search(match["text"])
            types[match["name"]] = alias["target"] if alias else match["name"]
    if not types:
        raise ValueError("it lists no machine types")
    return types


def _parse_words(text: str) -> list[str]:
    """The words that stand alone on a line; what explains them has several."""
    lines = [line.split() for line in text.splitlines()[1:]]
    return [words[0] for words in lines if len(words) == 1]


def _is_sound(content: Any) -> bool:
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return False
    programs, verdicts = content.get("programs"), content.get("verdicts")
    answers = content.get("answers", {})  # an older qup asked nothing
    return (
        isinstance(programs, dict)
        and isinstance(verdicts, dict)
        and isinstance(answers, dict)
        and all(isinstance(item, dict) and "said" in item for item in answers.values())
        and all(_is_facts(facts) for facts in programs.values())
        and all(
            isinstance(known, dict)
            and {"boot", "usable", "reason"} <= known.keys()
            and isinstance(known.get("time"), int | float)
            for known in verdicts.values()
        )
    )


def _is_facts(facts: Any) -> bool:
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("version"), list)
        and len(facts["version"]) == 3
        and isinstance(facts.get("machines"), dict)
        and isinstance(facts.get("accelerators"), list)
        and isinstance(facts.get("displays"), list)
    )


def _write_quietly(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file; a cache that can't be written is no reason to fail."""
    with contextlib.suppress(OSError, HostError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content, indent=1))
