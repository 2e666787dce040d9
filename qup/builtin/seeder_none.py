"""The guest seeder ``none``: for guests that nobody can tell anything, such as installers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qup.api import GuestSeeder, Problem, Seed, SeedForm, SeedPlan, hookimpl


class Nobody:
    """No seed at all."""

    name = "none"
    summary = "nothing: the guest is started, and nobody logs in by ssh"

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:
        if seed.user_data is None:
            return []
        return [Problem("user data is given, but with seeder 'none' no guest gets it")]

    def form(self, seed: SeedPlan) -> SeedForm:  # noqa: ARG002  it is always the same
        return SeedForm(login=False, host_key=False)

    def files(self, seed: Seed) -> Mapping[str, str]:  # noqa: ARG002  there are none
        return {}

    def payload(self, seed: Seed) -> bytes:  # noqa: ARG002  there is none
        return b""


@hookimpl
def qup_guest_seeders() -> Iterable[GuestSeeder]:
    return [Nobody()]
