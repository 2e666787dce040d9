"""The table of commands."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command is: a function or a ``typer.Typer`` in a module of :mod:`qup.cli`."""

    module: str
    attribute: str
    hidden: bool = False
    takes_words: bool = False


PANELS = {
    "Start and stop": {
        "up": Entry("up", "up"),
        "down": Entry("stop", "down"),
        "start": Entry("up", "up", hidden=True),
        "stop": Entry("stop", "down", hidden=True),
        "halt": Entry("stop", "down", hidden=True),
        "kill": Entry("stop", "kill"),
        "reload": Entry("up", "reload"),
        "restart": Entry("up", "reload", hidden=True),
        "destroy": Entry("stop", "destroy"),
        "rm": Entry("stop", "destroy", hidden=True),
        "run": Entry("run", "run"),
        "provision": Entry("up", "provision"),
        "upgrade": Entry("upgrade", "upgrade"),
    },
    "Back to an earlier state": {
        "reset": Entry("up", "reset"),
        "snapshot": Entry("snapshot", "app"),
        "suspend": Entry("suspend", "suspend"),
        "resume": Entry("suspend", "resume"),
    },
    "Work in a machine": {
        "ssh": Entry("ssh", "ssh", takes_words=True),
        "cp": Entry("copy", "cp"),
        "scp": Entry("copy", "cp", hidden=True),
        "sync": Entry("sync", "sync"),
        "port": Entry("port", "app"),
        "console": Entry("console", "console"),
        "view": Entry("screen", "view"),
        "screenshot": Entry("screen", "screenshot"),
    },
    "Look": {
        "status": Entry("look", "status"),
        "list": Entry("look", "list_machines"),
        "ls": Entry("look", "list_machines", hidden=True),
        "logs": Entry("logs", "logs"),
        "inspect": Entry("look", "inspect"),
        "ip": Entry("look", "ip"),
        "ssh-config": Entry("ssh", "ssh_config"),
        "url": Entry("engine", "url"),
        "active": Entry("engine", "active"),
        "config": Entry("engine", "config"),
    },
    "The project": {
        "init": Entry("config", "init"),
        "validate": Entry("config", "validate"),
        "plan": Entry("config", "plan"),
        "trust": Entry("config", "trust"),
        "schema": Entry("config", "schema"),
    },
    "This computer": {
        "doctor": Entry("doctor", "doctor"),
        "box": Entry("box", "app"),
        "template": Entry("templates", "app"),
        "plugins": Entry("plugins", "app"),
    },
}
"""All commands by the headings under which ``qup --help`` lists them, in its order."""

COMMANDS = {name: entry for commands in PANELS.values() for name, entry in commands.items()}
"""All commands."""

HEADINGS = {name: heading for heading, commands in PANELS.items() for name in commands}
"""The heading of each."""

PLUGINS_HEADING = "From plugins"
"""Where the commands of plugins stand, after our own."""
