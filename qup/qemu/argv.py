"""From a plan to QEMU's command line. Pure: nothing is opened, started or looked up.

Every value reaches QEMU as a part of one word and is escaped in one place. Option strings
split at commas, which are doubled to be literal; block devices are described in JSON with
explicit drivers, so that no file name is ever taken for a protocol or a list of options.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qup.model.display import VNC
from qup.model.drives import DISK, FURTHER
from qup.model.folders import Server
from qup.model.network import NOWHERE, SSH_MODE, Tap
from qup.model.plan import Nic, Plan
from qup.model.seed import SeedForm
from qup.qemu.drives import describe_drives, file_node
from qup.qemu.shares import describe_device, describe_share, is_served

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""The whole of QEMU's seccomp filter (``-sandbox`` in ``qemu-system(1)``); Linux only."""

X86 = ("x86_64", "i386")

MONITORS = ("control", "events")
CONSOLE = "console"
AGENT = "agent"
IDENTITY = "identity"
MEMORY = "ram"
HUB, PLUG = "hub", "plug"
"""What QEMU calls a hub's ports: the card's, and that of what is behind it."""
AGENT_PORT = "org.qemu.guest_agent.0"
"""The name by which a guest agent finds its port (``qemu-ga(8)``)."""


@dataclass(frozen=True)
class Memory:
    """What the guest's memory is, where a state that is restored has a name for it.

    Attributes:
        path: a file of the size of the memory; None for memory without a file.
        share: what the guest writes goes into the file, or where other programs see it; if not,
            it is the guest's own.
    """

    path: str | None = None
    share: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the things that a plan speaks of are, for one launch.

    Attributes:
        program: QEMU.
        pidfile: the file that QEMU writes and locks.
        serial_log: the file that collects what the guest's console says.
        box: the folder with the box's ``kernel`` and ``initrd``.
        files: the file of each disk, by its role; and of the ``firmware`` and its ``vars``.
        sockets: for each of ``control``, ``events`` and ``console`` (and ``agent`` and
            ``identity``, if the plan has them) a path to listen at, or the number of a listening
            socket that QEMU inherits; for ``vnc`` the path that a private display listens at.
        taps: for each NIC with a tap (``net0``) the number of an open descriptor that QEMU
            inherits; QEMU opens one that isn't here by its name.
        sandbox: confine QEMU by seccomp; for Linux.
        memory: what the guest's memory is; None for QEMU's own way.
        incoming: the guest's state comes by the monitor (``migrate-incoming``).
        unpluggable: network cards are connected through hubs, so that what is behind them can
            be taken away before the guest is saved (:func:`qup.qemu.cards.unplug_networks`).
        inherit: more descriptors that QEMU gets, by the same numbers.
        seed_share: the folder with the seed, for guests that don't read it from a CD.
        folders: where QEMU finds each folder that it serves (``folder0``). For one that is served
            beside it, ``sockets`` has the connection: a path, or the number of a descriptor.
        servers: what serves each of these.
        secrets: folders of qup's own, which no guest may see.
    """

    program: Path
    pidfile: Path
    serial_log: Path
    box: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    sockets: Mapping[str, Path | int] = field(default_factory=dict)
    taps: Mapping[str, int] = field(default_factory=dict)
    sandbox: bool = True
    memory: Memory | None = None
    incoming: bool = False
    unpluggable: bool = False
    inherit: tuple[int, ...] = ()
    seed_share: Path = Path("seed")
    folders: Mapping[str, Path] = field(default_factory=dict)
    secrets: tuple[Path, ...] = ()
    servers: Mapping[str, Server] = field(default_factory=dict)


@dataclass(frozen=True)
class Argument:
    """Words of the command line that belong together, and who wants them.

    Attributes:
        words: an option and its value, for instance.
        origin: a key of the Qupfile (``memory``), ``qup: <why>``, or a plugin's name.
    """

    words: tuple[str, ...]
    origin: str


def build(plan: Plan, layout: Layout) -> tuple[Argument, ...]:
    """The command line for a plan. The program is the first argument.

    The guest is stopped at first (``-S``): forwards are added by the monitor, then it is let
    go by ``cont``.

    Raises:
        HostError: the path of a disk isn't UTF-8, which QEMU's JSON can't express.
    """
    return tuple(_arguments(plan, layout))


def words(arguments: Sequence[Argument]) -> list[str]:
    """The plain command line."""
    return [word for argument in arguments for word in argument.words]


def shell_command(arguments: Sequence[Argument]) -> str:
    """The command line as something to paste into any shell: one argument a line.

    Inherited descriptors don't survive that: the layout's sockets must be paths.
    """
    return " \\\n  ".join(shlex.join(argument.words) for argument in arguments)


def escape(value: str) -> str:
    """Make a value literal inside an option string (``qemu(1)``: "commas are doubled")."""
    return value.replace(",", ",,")


def option_string(first: str, properties: Mapping[str, str]) -> str:
    """``first,key=value,...``: how most of QEMU's options are written.

    Args:
        first: the value of the option's implied key, such as a device's driver; may be empty.
        properties: the rest.
    """
    pairs = [f"{key}={escape(value)}" for key, value in properties.items()]
    return ",".join([escape(first), *pairs] if first else pairs)


def _arguments(plan: Plan, layout: Layout) -> Iterator[Argument]:
    yield Argument((os.fspath(layout.program),), "qemu.program")
    yield from _identity(plan)
    yield from _processor(plan, layout)
    yield from _confinement(plan, layout)
    yield from _channels(plan, layout)
    if plan.guest_agent:
        yield from _agent(layout)
    yield from _boot(plan, layout)
    yield from _firmware(plan, layout)
    yield from _disks(plan, layout)
    if plan.seed_form.share is not None:
        yield from _seed_share(plan.seed_form.share, layout)
    yield from _seed_files(plan.seed_form, layout)
    yield from _network(plan, layout)
    yield Argument(("-device", "virtio-rng-pci"), "qup: rng")
    if plan.box.arch in X86:
        yield Argument(("-device", "pvpanic-pci"), "qup: a kernel's panic is told")
        yield Argument(("-action", "panic=pause"), "qup: a kernel's panic can be looked at")
    yield from _graphics(plan)
    yield from _folders(plan, layout)
    if layout.incoming:
        yield Argument(("-incoming", "defer"), "qup: restored")
    yield Argument(("-S",), "qup: forwards are added before the guest runs")
    for extra in plan.extra:
        yield Argument(extra.words, extra.origin)


def _identity(plan: Plan) -> Iterator[Argument]:
    name = option_string("", {"guest": plan.identity.name})
    yield Argument(("-name", name), "qup: identity")
    yield Argument(("-uuid", plan.identity.uuid), "qup: identity")


def _processor(plan: Plan, layout: Layout) -> Iterator[Argument]:
    properties = dict(plan.accelerator.properties)
    accelerator = option_string(properties.pop("accel"), properties)
    yield Argument(("-machine", _machine(plan, layout)), "qemu.machine")
    yield Argument(("-accel", accelerator), "qemu.accelerator")
    yield Argument(("-cpu", plan.cpu), "qemu.cpu")
    yield Argument(("-smp", str(plan.cpus)), "cpus")
    yield Argument(("-m", f"{plan.memory_mib}M"), "memory")
    if memory := _choose_memory(plan, layout):
        origin = "folders" if plan.shares_memory else "qup: template"
        yield Argument(("-object", _memory(plan, memory)), origin)


def _choose_memory(plan: Plan, layout: Layout) -> Memory | None:
    return Memory(share=True) if plan.shares_memory else layout.memory


def _memory(plan: Plan, memory: Memory) -> str:
    properties = {"id": MEMORY, "size": f"{plan.memory_mib}M"}
    share = "on" if memory.share else "off"
    if memory.path is None and memory.share:
        return option_string("memory-backend-memfd", {**properties, "share": share})
    if memory.path is None:
        return option_string("memory-backend-ram", properties)
    properties["mem-path"] = memory.path
    return option_string("memory-backend-file", {**properties, "share": share})


def _machine(plan: Plan, layout: Layout) -> str:
    """With ``graphics=off`` a PC's firmware, and what it starts, speak on the serial port."""
    properties = {"memory-backend": MEMORY} if _choose_memory(plan, layout) else {}
    if plan.nographic and plan.box.arch in X86:
        properties["graphics"] = "off"
    return option_string(plan.machine_type, properties)


def _confinement(plan: Plan, layout: Layout) -> Iterator[Argument]:
    yield Argument(("-nodefaults",), "qup: no devices but those named here")
    yield Argument(("-no-user-config",), "qup: no settings but those named here")
    yield _display(plan, layout)
    if layout.sandbox:
        yield Argument(("-sandbox", _sandbox(plan)), "qup: sandbox")
    yield Argument(("-msg", "timestamp=off"), "qup: messages")
    yield Argument(("-pidfile", os.fspath(layout.pidfile)), "qup: liveness")


def _sandbox(plan: Plan) -> str:
    """The whole filter, unless a window's toolkit needs what starting programs needs: gtk and
    SDL do at their start, and QEMU would be killed for it.
    """
    if plan.display is None or plan.display.type == VNC:
        return SANDBOX
    return SANDBOX.replace("spawn=deny", "spawn=allow")


def _display(plan: Plan, layout: Layout) -> Argument:
    if plan.display is None:
        return Argument(("-display", "none"), "qup: no window")
    value = plan.display.value
    if plan.display.private:
        options = value.removeprefix(VNC)
        value = f"{VNC}=unix:{escape(str(layout.sockets[VNC]))}{options}"
    return Argument(("-display", value), "qemu.display")


def _graphics(plan: Plan) -> Iterator[Argument]:
    """A card, and a pointer that is where the viewer's is.

    They follow all other devices, whose places on the bus, and so the names of network cards
    in the guest, are the same with a display and without.
    """
    if plan.display is None:
        return
    devices = ["VGA"] if plan.box.arch in X86 else ["virtio-gpu-pci"]
    devices += ["qemu-xhci", "usb-tablet"]
    # A PC has a keyboard, and one by USB would take the keys from guests that don't drive it.
    devices += [] if plan.box.arch in X86 else ["usb-kbd"]
    for device in devices:
        yield Argument(("-device", device), "qemu.display")


def _channels(plan: Plan, layout: Layout) -> Iterator[Argument]:
    for name in MONITORS:
        yield Argument(("-chardev", _socket(name, layout, {})), "qup: monitor")
        yield Argument(("-mon", f"chardev={name},mode=control"), "qup: monitor")
    log = {"logfile": os.fspath(layout.serial_log), "logappend": "on"}
    yield Argument(("-chardev", _socket(CONSOLE, layout, log)), "qup: console")
    yield Argument(("-serial", f"chardev:{CONSOLE}"), "qup: console")
    if plan.identity_port:
        origin = "qup: identity of a restored guest"
        yield Argument(("-chardev", _socket(IDENTITY, layout, {})), origin)
        yield Argument(("-serial", f"chardev:{IDENTITY}"), origin)


def _agent(layout: Layout) -> Iterator[Argument]:
    origin = "qup: guest agent"
    port = {"chardev": AGENT, "name": AGENT_PORT}
    yield Argument(("-chardev", _socket(AGENT, layout, {})), origin)
    yield Argument(("-device", "virtio-serial-pci"), origin)
    yield Argument(("-device", option_string("virtserialport", port)), origin)


def _socket(name: str, layout: Layout, more: Mapping[str, str]) -> str:
    return _connection(name, layout, {"server": "on", "wait": "off", **more})


def _connection(name: str, layout: Layout, more: Mapping[str, str]) -> str:
    place = layout.sockets[name]
    where = {"fd": str(place)} if isinstance(place, int) else {"path": os.fspath(place)}
    return option_string("socket", {"id": name, **where, **more})


def _boot(plan: Plan, layout: Layout) -> Iterator[Argument]:
    yield Argument(("-rtc", "base=utc"), "qup: clock")
    yield Argument(("-boot", "strict=on"), "qup: boot from nothing but the box")
    if plan.box.kernel:
        # The firmware starts a kernel with an EFI stub; QEMU itself one with a PVH entry.
        kernel = "kernel.efi" if plan.firmware else "kernel"
        yield Argument(("-kernel", os.fspath(layout.box / kernel)), "box")
        yield Argument(("-initrd", os.fspath(layout.box / "initrd")), "box")
        if plan.box.cmdline:
            yield Argument(("-append", plan.box.cmdline), "box")


def _firmware(plan: Plan, layout: Layout) -> Iterator[Argument]:
    """Two flash chips: the firmware, which nobody writes to, and its variables."""
    if plan.firmware is None:
        return
    nodes = (
        ("firmware", plan.firmware.format, True),
        ("vars", "qcow2", False),
    )
    for role, form, read_only in nodes:
        node = file_node(role, form, layout.files[role], read_only=read_only)
        yield Argument(("-blockdev", node), "qemu.firmware")
    yield Argument(("-machine", "pflash0=firmware,pflash1=vars"), "qemu.firmware")


def _disks(plan: Plan, layout: Layout) -> Iterator[Argument]:
    for drive in describe_drives(plan.disks, plan.machine_type, layout.files):
        role = drive.disk.role
        further = "disks" if role.startswith(FURTHER) else f"qup: {role}"
        origin = "disk" if role == DISK else further
        yield Argument(("-blockdev", drive.node), origin)
        yield Argument(("-device", option_string(drive.driver, drive.properties)), origin)


def _seed_share(tag: str, layout: Layout) -> Iterator[Argument]:
    folder = {"id": "seed", "path": os.fspath(layout.seed_share)}
    backend = option_string("local", {**folder, "security_model": "none", "readonly": "on"})
    device = option_string("virtio-9p-pci", {"fsdev": "seed", "mount_tag": tag})
    yield Argument(("-fsdev", backend), "qup: seed")
    yield Argument(("-device", device), "qup: seed")


def _seed_files(form: SeedForm, layout: Layout) -> Iterator[Argument]:
    """What the firmware hands on: from files, as a command line can be read by others."""
    for name in form.fw_cfg:
        item = {"name": name, "file": os.fspath(layout.seed_share / name)}
        yield Argument(("-fw_cfg", option_string("", item)), "qup: seed")
    for name in form.oem_strings:
        string = {"type": "11", "path": os.fspath(layout.seed_share / name)}
        yield Argument(("-smbios", option_string("", string)), "qup: seed")


def _folders(plan: Plan, layout: Layout) -> Iterator[Argument]:
    """They come last, so that no other device has another place because of them."""
    for folder in plan.folders:
        if is_served(folder):
            backend, device = describe_share(folder, layout.folders[folder.id])
            yield Argument(("-fsdev", option_string(*backend)), "folders")
            yield Argument(("-device", option_string(*device)), "folders")
        elif folder.vhost:
            yield Argument(("-chardev", _connection(folder.id, layout, {})), "folders")
            yield Argument(("-device", option_string(*describe_device(folder))), "folders")


def netdev_name(index: int) -> str:
    """QEMU's name for what a NIC is connected to."""
    return f"net{index}"


def _tap(name: str, tap: Tap, layout: Layout) -> dict[str, str]:
    """How QEMU comes by a tap. By its name it is for pasting: qup hands over a descriptor."""
    if name in layout.taps:
        return {"fd": str(layout.taps[name])}
    return {"ifname": tap.interface, "script": "no", "downscript": "no"}


def _network(plan: Plan, layout: Layout) -> Iterator[Argument]:
    for index, nic in enumerate(plan.nics):
        name = netdev_name(index)
        backend = dict(nic.plan.netdev)
        if nic.plan.tap is not None:
            backend |= _tap(name, nic.plan.tap, layout)
        origin = _origin_of_nic(index, nic)
        if (kind := backend.pop("type")) != NOWHERE:
            netdev = option_string(kind, {"id": name, **backend})
            yield Argument(("-netdev", netdev), origin)
        behind = f"{HUB}{index}" if layout.unpluggable else name
        if layout.unpluggable:
            yield from _hub(index, None if kind == NOWHERE else name)
        # No boot ROM: a guest that never boots from the network starts sooner without.
        device = {"netdev": behind, "mac": nic.mac, "romfile": ""}
        yield Argument(("-device", option_string("virtio-net-pci", device)), origin)


def _hub(index: int, netdev: str | None) -> Iterator[Argument]:
    """A hub between a card and what it is connected to, if it is to anything."""
    ports = [{"id": f"{HUB}{index}"}]
    ports += [{"id": f"{PLUG}{index}", "netdev": netdev}] if netdev else []
    for port in ports:
        words = option_string("hubport", {**port, "hubid": str(index)})
        yield Argument(("-netdev", words), "qup: template")


def _origin_of_nic(index: int, nic: Nic) -> str:
    if nic.mode == SSH_MODE:
        return "qup: a way in for ssh"
    return f"network.mode {nic.mode}" if index == 0 else f"networks.{index - 1}.mode {nic.mode}"
