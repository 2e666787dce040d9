"""Which templates go to make room, and which stay."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qup.errors import ConfigError, StateError, TemplateError
from qup.model.plan import TemplatePlan
from qup.model.snapshot import Snapshot
from qup.model.state import State
from qup.paths import Project, templates_root
from qup.runner import snapshots, warm
from qup.runner.context import Context
from qup.runner.holding import UNKNOWN, find_users, hold_templates
from qup.store import create_folders, forget, remember, write_state
from qup.templates.template import DISK, RAM, STATE, Template
from tests.templates.test_key import PLAN

MIB = 1 << 20
OLD = time.time() - 7 * 24 * 3600


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    (tmp_path / "Qupfile").write_text("")
    return Context(Project(tmp_path))


def make(ctx: Context, number: int, used: float, steps: str = "") -> Template:
    """A template of 1 MiB that was used last at that time; one in which such steps have run."""
    key = f"{number:032x}"
    folder = ctx.templates.making_folder(key) / "web"
    folder.mkdir(parents=True)
    (folder / RAM).write_bytes(os.urandom(MIB))
    (folder / STATE).write_bytes(b"state")
    (folder / DISK).write_bytes(b"disk")
    visible = {"memory_mib": 256, **({"steps": [1, steps]} if steps else {})}
    template = Template(f"{number:012x}", key, visible, "tiny", "d" * 64, {}, boot_id="b")
    made = ctx.templates.publish(folder, replace(template, steps=(steps,) if steps else ()))
    ctx.templates.making_folder(key).rmdir()
    os.utime(ctx.templates.folder(made.id) / "used", (used, used))
    return made


def use(ctx: Context, template: Template, name: str) -> State:
    """Let a machine's disk be based on a template."""
    state = State("0123456789ab", "u", name, str(ctx.project.root), "", "tiny", "d" * 64, "qup")
    state = State(**{**vars(state), "template": template.id})
    write_state(create_folders(ctx.project, name), state)
    remember(state, ctx.project)
    hold_templates(ctx, ctx.project.machine(name), state)
    return state


def test_the_least_recently_used_go_first(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    older, old, new = (make(ctx, number, OLD + number) for number in (1, 2, 3))
    monkeypatch.setenv("QUP_TEMPLATES_QUOTA", "3M")
    warm.make_room(ctx, keep=new.id)
    assert {item.id for item in ctx.templates.templates()} == {old.id, new.id}
    assert older.id not in os.listdir(templates_root())


def test_what_is_needed_or_was_just_used_stays(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, recent, kept = make(ctx, 1, OLD), make(ctx, 2, time.time()), make(ctx, 3, OLD)
    use(ctx, needed, "web")
    users = find_users(ctx.templates, needed)
    assert [line.rpartition(": ")[2] for line in users] == ["web"]
    monkeypatch.setenv("QUP_TEMPLATES_QUOTA", "1M")
    warm.make_room(ctx, keep=kept.id)
    left = {item.id for item in ctx.templates.templates()}
    assert left == {needed.id, recent.id, kept.id}


def test_what_nobody_knows_to_be_needed_stays(ctx: Context) -> None:
    """The project was moved and the index is lost; the machine may be suspended."""
    template = make(ctx, 1, OLD)
    state = use(ctx, template, "web")
    moved = ctx.project.state.rename(ctx.project.root / "elsewhere")
    assert find_users(ctx.templates, template) == [UNKNOWN]
    forget(state.id)
    assert find_users(ctx.templates, template) == [UNKNOWN]
    shutil.rmtree(moved)
    assert find_users(ctx.templates, template) == []


def test_what_is_removed_just_before_a_machine_holds_it(ctx: Context) -> None:
    template = make(ctx, 1, OLD)
    state = use(ctx, template, "web")
    ctx.templates.remove(template)
    (ctx.project.machine("web").held / template.id).unlink()
    with pytest.raises(TemplateError, match="removed a moment ago"):
        hold_templates(ctx, ctx.project.machine("web"), state)


def test_what_only_a_snapshot_needs_stays(ctx: Context) -> None:
    before, after = make(ctx, 1, OLD), make(ctx, 2, OLD)
    folder = ctx.project.machine("web")
    state = use(ctx, before, "web")
    (snapshots.open_draft(folder) / "disk.qcow2").write_bytes(b"disk")
    made = snapshots.publish(
        folder, Snapshot("1" * 12, "one", state.id, "2026-01-01", template=before.id)
    )
    state = use(ctx, after, "web")
    forget(state.id)
    assert find_users(ctx.templates, before) == find_users(ctx.templates, after) == [UNKNOWN]
    snapshots.remove_snapshot(folder, made)
    hold_templates(ctx, folder, state)
    assert find_users(ctx.templates, before) == []
    assert find_users(ctx.templates, after) == [UNKNOWN]


def test_few_earlier_versions_of_steps_stay(ctx: Context) -> None:
    booted = make(ctx, 1, OLD)
    versions = [make(ctx, 2 + number, OLD + number, f"version {number}") for number in range(7)]
    use(ctx, versions[0], "web")
    recent = make(ctx, 20, time.time(), "of a moment ago")
    warm.remove_older(ctx, versions[-1])
    left = {item.id for item in ctx.templates.templates()}
    # The recent one is the first of the three.
    kept = [versions[0], versions[4], versions[5], versions[6], recent, booted]
    assert left == {item.id for item in kept}


def test_a_clock_that_was_set_back(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used in the future isn't kept for ever, and what failed then is tried again."""
    ahead, kept = make(ctx, 1, time.time() + 1e7), make(ctx, 2, OLD)
    monkeypatch.setenv("QUP_TEMPLATES_QUOTA", "1M")
    warm.make_room(ctx, keep=kept.id)
    assert [item.id for item in ctx.templates.templates()] == [kept.id]
    assert not ctx.templates.folder(ahead.id).exists()
    ctx.templates.refuse("f" * 32, "it was late")
    assert ctx.templates.refusal("f" * 32) == "it was late"
    os.utime(ctx.templates.root / "refused" / ("f" * 32), (time.time() + 1e7,) * 2)
    assert ctx.templates.refusal("f" * 32) is None


def test_without_a_quota_there_is_no_template(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUP_TEMPLATES_QUOTA", "0")
    plan = replace(PLAN, template=TemplatePlan("f" * 32))
    origin = warm.choose_origin(ctx, None, plan, None, state=None)  # type: ignore[arg-type]
    assert (origin.template, origin.reason) == (None, "the quota for templates is 0")


def test_the_quota(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warm.read_quota() == warm.QUOTA
    monkeypatch.setenv("QUP_TEMPLATES_QUOTA", "0")
    assert warm.read_quota() == 0
    monkeypatch.setenv("QUP_TEMPLATES_QUOTA", "much")
    with pytest.raises(ConfigError, match="QUP_TEMPLATES_QUOTA"):
        warm.read_quota()


def test_a_machine_whose_template_is_gone_is_told_of(ctx: Context) -> None:
    template = make(ctx, 1, OLD)
    use(ctx, template, "web")
    ctx.templates.remove(template)
    state = State("0123456789ab", "u", "web", "/p", "", "tiny", "d" * 64, "qup", template.id)
    with pytest.raises(StateError, match="gone") as caught:
        warm.find_base(ctx, None, state)  # type: ignore[arg-type]  the box doesn't matter
    assert "qup destroy" in str(caught.value.hint)


def test_a_prepared_state_names_no_path(ctx: Context) -> None:
    state = State("0123456789ab", "u", "web", "/p", "", "tiny", "d" * 64, "qup", "../../../etc")
    with pytest.raises(TemplateError):
        warm.find_base(ctx, None, state)  # type: ignore[arg-type]
