"""What the fake QEMU does once it runs; see :mod:`tests.fakes.fake_qemu`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path

SCENARIO = json.loads(os.environ.get("FAKE_QEMU") or "{}")
GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""},
        "capabilities": ["oob"],
    }
}


class Machine:
    """What a QEMU knows: options, run state, forwards."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.status = "prelaunch"
        self.forwards: dict[tuple[str, int], tuple[socket.socket, int]] = {}
        self.listeners: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.consoles: list[socket.socket] = []
        self.serial_log = Path("/dev/null")
        self.lock = threading.Lock()

    def option(self, name: str) -> str:
        return self.words[self.words.index(name) + 1]

    def descriptors(self) -> dict[str, int]:
        chardevs = [self.words[at + 1] for at, word in enumerate(self.words) if word == "-chardev"]
        found = {}
        for text in chardevs:
            match = re.match(r"socket,id=(\w+),fd=(\d+),", text)
            if match:
                found[match[1]] = int(match[2])
        return found

    def write_pidfile(self) -> None:
        self.pidfile = Path(self.option("-pidfile"))
        handle = os.open(self.pidfile, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())

    # --- the monitor ---

    def serve(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            with contextlib.suppress(OSError):
                self.greet(client)
                self.talk(client)

    def greet(self, client: socket.socket) -> None:
        match SCENARIO.get("start"):
            case "hang":
                time.sleep(3600)
            case "garbage":
                client.sendall(b"SSH-2.0-dropbear\r\n" * 3)
                time.sleep(3600)
            case "long":
                client.sendall(b"x" * (1024 * 1024 + 10))
                time.sleep(3600)
            case "close":
                client.close()
            case _:
                client.sendall(json.dumps(GREETING).encode() + b"\r\n")

    def talk(self, client: socket.socket) -> None:
        self.clients.append(client)
        with client.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                reply = {"return": self.answer(request), "id": request.get("id")}
                client.sendall(json.dumps(reply).encode() + b"\r\n")
                if request["execute"] == "quit" and SCENARIO.get("quit") != "ignore":
                    self.end()
                if request["execute"] == "system_powerdown":
                    self.press()
        self.clients.remove(client)

    def answer(self, request: dict[str, object]) -> object:
        arguments = request.get("arguments") or {}
        assert isinstance(arguments, dict)
        match request["execute"]:
            case "query-status":
                return {"status": self.status, "running": self.status == "running"}
            case "query-chardev":
                name = "unix:..." if self.consoles else "disconnected:unix:..."
                return [{"label": "console", "filename": name}]
            case "query-uuid":
                return {"UUID": self.option("-uuid")}
            case "cont":
                self.status = SCENARIO.get("status", "running")
                threading.Thread(target=self.run_guest, daemon=True).start()
                if "die_after" in SCENARIO:
                    threading.Timer(SCENARIO["die_after"], os.kill, (os.getpid(), 9)).start()
                return {}
            case "stop":
                self.status = "paused"
                return {}
            case "human-monitor-command":
                return self.human(str(arguments["command-line"]))
            case _:
                return {}

    def press(self) -> None:
        if SCENARIO.get("powerdown") != "ignore" and self.status == "running":
            self.end()

    def run_guest(self) -> None:
        text = SCENARIO.get("prints", "").encode()
        with self.serial_log.open("ab") as log:
            log.write(text)
        for console in self.consoles:
            console.sendall(text)
        if "powers_off" in SCENARIO:
            time.sleep(SCENARIO["powers_off"])
            event = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}
            for client in self.clients:
                with contextlib.suppress(OSError):
                    client.sendall(json.dumps(event).encode() + b"\r\n")
            self.end()

    def keep(self, listener: socket.socket) -> None:
        """Serve the console, one client after another; what they type is dropped."""
        while True:
            client, _ = listener.accept()
            self.consoles.append(client)
            with contextlib.suppress(OSError):
                while client.recv(4096):
                    pass
            self.consoles.remove(client)

    def end(self) -> None:
        self.pidfile.unlink(missing_ok=True)
        os._exit(0)

    # --- forwards ---

    def human(self, command: str) -> str:
        verb, _, rest = command.partition(" ")
        if verb == "info":
            lines = [
                f"  {'TCP[HOST_FORWARD]':18} 12 127.0.0.1 {port} 10.0.2.15 {guest} 0 0"
                for (_, port), (_, guest) in self.forwards.items()
            ]
            return "Hub 0 (net0):\r\n" + "\r\n".join(lines) + "\r\n"
        match = re.match(r"net0 tcp:([0-9.]+):(\d+)(?:-[0-9.]*:(\d+))?$", rest)
        assert match, command
        address, port = match[1], int(match[2])
        if verb == "hostfwd_remove":
            known = self.forwards.pop((address, port), None)
            if known:
                known[0].close()
            return f"host forwarding rule for {rest} {'removed' if known else 'not found'}\r\n"
        return self.forward(address, port, int(match[3]), rest)

    def forward(self, address: str, port: int, guest: int, rule: str) -> str:
        if port and "refuse" in SCENARIO:
            return str(SCENARIO["refuse"])
        listener = socket.socket()
        try:
            listener.bind((address, port))
        except OSError:
            return f"Could not set up host forwarding rule '{rule}'\r\n"
        listener.listen(16)
        self.forwards[address, listener.getsockname()[1]] = (listener, guest)
        if guest == 22 and SCENARIO.get("banner", True):
            threading.Thread(target=self.sshd, args=(listener,), daemon=True).start()
        return ""

    def sshd(self, listener: socket.socket) -> None:
        kept = []
        while True:
            client, _ = listener.accept()
            kept.append(client)
            with contextlib.suppress(OSError):
                client.sendall(b"SSH-2.0-fake\r\n")


def run(words: list[str]) -> None:
    """Be a QEMU that was started with these words."""
    if SCENARIO.get("start") == "die":
        sys.stderr.write(SCENARIO.get("stderr", ""))
        sys.exit(SCENARIO.get("code", 1))
    if SCENARIO.get("sigterm") == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    machine = Machine(words)
    machine.write_pidfile()
    for name, handle in machine.descriptors().items():
        listener = socket.socket(fileno=handle)
        machine.listeners.append(listener)
        serve = machine.keep if name == "console" else machine.serve
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    machine.serial_log = Path(re.search(r"logfile=([^,]+)", " ".join(words))[1])  # type: ignore[index]
    machine.serial_log.touch()
    while True:
        time.sleep(3600)
