"""Distributions that are broken, each in a way of its own."""

from __future__ import annotations

from tests.plugins.environments import Distribution

HEAD = "from qup.api import *\n"

EXPLODES = Distribution("qup-explodes", "raise RuntimeError('boom at\\nimport')\n")
EXITS = Distribution("qup-exits", "import sys\nsys.exit(3)\n")
MISREGISTERS = Distribution(
    "qup-misregisters",
    HEAD
    + """
@hookimpl
def qup_network_modes():
    raise OSError("no modes today")
@hookimpl
def qup_event(event):
    raise RuntimeError("I don't want to hear it")
@hookimpl
def qup_checks():
    return [Check("still-works", "It", lambda host: [Finding("ok", "this one still works")])]
""",
)
AMENDS_BADLY = Distribution(
    "qup-amends-badly",
    HEAD
    + """
@hookimpl
def qup_amend_plan(config, host, plan):
    return {"nothing": 1}["something"]
""",
)
CLASHES = """
class Mode:
    name = "shared"
    summary = "a mode"
    from qup.api import Settings as options
    def problems(self, options, host):
        return []
    def plan(self, options, nic):
        return NicPlan({"type": "user"})
class Own(Mode):
    name = "OWN"
class User(Mode):
    name = "user"
@hookimpl(trylast=True)
def qup_network_modes():
    return [User(), Mode(), Own()]
"""
CLASH_A = Distribution("qup-clash-a", HEAD + CLASHES.replace("OWN", "own-a"))
CLASH_B = Distribution("qup-clash-b", HEAD + CLASHES.replace("OWN", "own-b"))
NONSENSE = Distribution(
    "qup-nonsense",
    HEAD
    + """
from types import SimpleNamespace
@hookimpl
def qup_network_modes():
    return None
@hookimpl
def qup_accelerators():
    class Odd:
        name = "auto"
        def __getattr__(self, name):
            raise RuntimeError("don't touch me")
    return [SimpleNamespace(name="Not A Name"), SimpleNamespace(name="hollow"), 42, Odd()]
@hookimpl
def qup_provisioners():
    return "shell"
@hookimpl
def qup_checks():
    return [{"name": "a-dict"}]
@hookimpl
def qup_commands():
    return [Command("up", "Taken.", lambda: None), Command("Übel", "Odd.", lambda: None)]
@hookimpl
def qup_box_sources():
    yield 1
    raise SystemExit("half-way")
""",
)
MISSPELT = Distribution(
    "qup-misspelt", HEAD + "@hookimpl\ndef qup_amend_plan(konfig, plan):\n    return None\n"
)
UNKNOWN = Distribution("qup-unknown", HEAD + "@hookimpl\ndef qup_provisoners():\n    return []\n")
WRAPS = Distribution(
    "qup-wraps", HEAD + "@hookimpl(wrapper=True)\ndef qup_checks():\n    return (yield)\n"
)
UNMARKED = Distribution("qup-unmarked", HEAD + "def qup_checks():\n    return []\n")
FAULTY = Distribution(
    "qup-faulty",
    HEAD
    + """
import sys
from qup.api import Settings
class Mode:
    summary = "a mode"
    options = Settings
    def __init__(self, name):
        self.name = name
    def problems(self, options, host):
        if self.name == "bad-problems":
            raise LookupError("where is my network?")
        return None if self.name == "no-problems" else []
    def plan(self, options, nic):
        if self.name == "bad-plan":
            sys.exit("I plan to exit")
        return NicPlan({"typ": "user"} if self.name == "odd-plan" else {"type": "user"})
class Step:
    name, summary, options = "bad-step", "a step", Settings
    def digest(self, options, project):
        return "1"
    def run(self, options, guest, project, report):
        report("about to fail")
        raise ZeroDivisionError("a step too far")
def check(host):
    raise MemoryError("I forgot")
def command():
    raise ValueError("at your command")
@hookimpl
def qup_network_modes():
    return map(Mode, ("bad-problems", "no-problems", "bad-plan", "odd-plan"))
@hookimpl
def qup_provisioners():
    return [Step()]
@hookimpl
def qup_checks():
    return [Check("bad-check", "A check", check)]
@hookimpl
def qup_commands():
    return [Command("faulty", "Fails.", command)]
""",
)

BAD_ACCELERATOR = Distribution(
    "qup-bad-accelerator",
    HEAD
    + """
class Accelerator:
    name, summary, priority = "bad-accelerator", "an accelerator", 200
    def usable(self, host, program, arch, *, prove):
        raise ArithmeticError("1 + 1 = 3")
    def plan(self, arch):
        raise AssertionError
@hookimpl
def qup_accelerators():
    return [Accelerator()]
""",
)

HARMLESS = (EXPLODES, EXITS, MISREGISTERS, CLASH_A, CLASH_B, NONSENSE, MISSPELT, UNKNOWN, WRAPS,
            UNMARKED)  # fmt: skip
"""Those that nobody needs to notice as long as nobody needs them."""
