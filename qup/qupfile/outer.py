"""The environment and the command line: what goes over each machine's own tables."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from qup.model.settings import BY_KEY
from qup.qupfile.document import Document
from qup.qupfile.layers import DEFAULT_MODE, Layer, Stack, leave_out, stack_layers
from qup.qupfile.problems import Collector, Problem

if TYPE_CHECKING:
    from qup.qupfile.registry import Registry


class Outer:
    """The environment and the command line, which go over each machine's own layers.

    A network option among them is for the machines whose network mode has it. One that is for
    no machine at all is a slip on the command line; in the environment, which may be there for
    other projects, it is only worth a note.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self._unused = [{key for key in layer.labels if _is_option(key)} for layer in layers]

    def stack_on(self, document: Document, own: Sequence[Layer], registry: Registry) -> Stack:
        """A machine's stack, without the network settings that its mode doesn't have."""
        layers = [layer for layer in (*own, *self.layers) if layer.data]
        stack = stack_layers(document, layers or own[:1])
        known = _mode_options(stack, registry)
        fitting: list[Layer] = []
        for layer, unused in zip(self.layers, self._unused, strict=True):
            left, out = leave_out(layer, known) if known is not None else (layer, frozenset())
            unused.intersection_update(out)
            fitting.append(left)
        layers = [layer for layer in (*own, *fitting) if layer.data]
        return stack_layers(document, layers or own[:1])

    def judge_unused(self, problems: Collector) -> tuple[str, ...]:
        """Complain about options that no machine has a use for; returns notes on variables."""
        notes = []
        for layer, unused in zip(self.layers, self._unused, strict=True):
            for key in sorted(unused):
                label, option = layer.labels[key], key.removeprefix("network.")
                if layer.name == "environment":
                    notes.append(
                        f"{label} is ignored: no machine here has a network mode with {option!r}"
                    )
                    continue
                problems.add(
                    Problem(
                        f"{layer.name} {label}",
                        f"no machine here has a network mode with the option {option!r}",
                        "--network chooses another mode",
                        key=key,
                    )
                )
        return tuple(notes)


def _is_option(key: str) -> bool:
    return key in BY_KEY and BY_KEY[key].is_network_option


def _mode_options(stack: Stack, registry: Registry) -> Container[str] | None:
    """The options of a machine's network mode; None where nobody can say."""
    network = stack.merged.get("network", {})
    name = network.get("mode", DEFAULT_MODE) if isinstance(network, dict) else None
    mode = registry.network_modes.get(name) if isinstance(name, str) else None
    if mode is None or mode.options.model_config.get("extra") == "allow":
        return None
    return {field.alias or name for name, field in mode.options.model_fields.items()}
