"""The world without guests; see :mod:`tests.fakes.world`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Sandbox
from tests.fakes.world import World, worlds


@pytest.fixture
def make_world(sandbox: Sandbox) -> Iterator[Callable[..., World]]:
    yield from worlds(sandbox.root)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
