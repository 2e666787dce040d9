"""All groups of measurements, and how often each is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.cases import measure_commands, measure_ssh, measure_start
from benchmarks.crowd import measure_crowd
from benchmarks.outcome import Outcome
from benchmarks.peers import measure_peers
from benchmarks.provisioned import measure_provisioned
from benchmarks.warm import DEBIAN, TINY, measure_warm
from benchmarks.workshop import Workshop


@dataclass(frozen=True)
class Group:
    """Measurements that belong together.

    Attributes:
        measure: makes them.
        usual: rounds.
        quick: rounds, to see that it works.
        heavy: only when it is asked for.
    """

    measure: Callable[[Workshop, int], Outcome]
    usual: int
    quick: int
    heavy: bool = False


GROUPS: Mapping[str, Group] = {
    "commands": Group(measure_commands, 21, 5),
    "ssh": Group(measure_ssh, 21, 5),
    "start": Group(measure_start, 9, 2),
    "warm": Group(partial(measure_warm, guest=TINY), 9, 2),
    "provisioned": Group(measure_provisioned, 7, 2),
    "crowd": Group(measure_crowd, 3, 1),
    "peers": Group(measure_peers, 5, 1),
    "debian": Group(partial(measure_warm, guest=DEBIAN), 3, 1, heavy=True),
}
