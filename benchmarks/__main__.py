"""``python -m benchmarks``: measure, print a table, keep it if asked to."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from benchmarks.cases import ONE
from benchmarks.groups import GROUPS
from benchmarks.measure import BenchmarkError
from benchmarks.outcome import Outcome
from benchmarks.report import RESULTS, Surroundings, as_json, complain, markdown, table
from benchmarks.workshop import Workshop

INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Run the benchmarks that were asked for; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.write and (options.only or options.quick):
        complain("--write keeps a whole run: without --only and --quick")
        return 2
    # The terminal's Ctrl-C reaches only us: what we start is in sessions of its own.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        outcomes, surroundings = _measure(options)
    except BenchmarkError as exc:
        complain(f"error: {exc}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    if options.json:
        print(json.dumps(as_json(outcomes, surroundings), indent=1))
    else:
        print(table(outcomes))
    if options.write:
        RESULTS.write_text(markdown(outcomes, surroundings), encoding="utf-8")
        complain(f"written: {RESULTS.name}")
    return 0


def _measure(options: argparse.Namespace) -> tuple[list[Outcome], Surroundings]:
    outcomes: list[Outcome] = []
    with Workshop() as workshop:
        project = workshop.project("first", ONE)
        plan = workshop.ask(project, "plan")["machines"]["default"]
        accelerator = str(plan["accelerator"]["name"])
        complain(f"getting ready (box, accelerator {accelerator}) ...")
        workshop.call(project, "up")
        workshop.call(project, "destroy", "-y")
        for name, group in GROUPS.items():
            if name not in options.only if options.only else group.heavy and not options.debian:
                continue
            rounds = options.runs or (group.quick if options.quick else group.usual)
            complain(f"measuring: {name}, {rounds} rounds ...")
            outcomes.append(group.measure(workshop, rounds))
        return outcomes, Surroundings.look(accelerator)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=_count, metavar="N", help="rounds of each group")
    parser.add_argument(
        "--only", action="append", choices=list(GROUPS), metavar="NAME",
        help=f"one group: {', '.join(GROUPS)}; can be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--debian",
        action="store_true",
        help="also what boots Debian: a box of minutes, boots of one",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON with every sample")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}, too")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  signal's form
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
