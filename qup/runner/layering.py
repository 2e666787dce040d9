"""The first start of a machine with provisioning steps that others can have, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qup.model.box import Box
from qup.model.plan import Plan
from qup.runner.draft import Draft, hold_making
from qup.runner.golden import NoTemplate
from qup.runner.observe import observe
from qup.runner.warm import Origin, find_template, make_room, remove_older
from qup.runner.work import Started
from qup.store import read_state
from qup.templates.template import Template

if TYPE_CHECKING:
    from qup.runner.start import Starting


def start_for_others(work: Starting, plan: Plan, box: Box, origin: Origin) -> Started:
    """Run the provisioning steps in a machine that becomes a template, and make the machine
    that is wanted from that.

    What keeps it from being a template is said, and it is the machine that is wanted.
    """
    key, base = origin.keep, origin.template
    assert key is not None
    assert base is not None
    with hold_making(work.ctx, work.name, key) as mine:
        draft = Draft(work.ctx, work.name, key, base)
        if not mine:
            return work.come_up(plan, box, None, origin)
        found = None if work.options.no_cache else find_template(work.ctx, work.name, box, key)
        if found is not None:
            work.ctx.templates.touch(found)
            return work.come_up(plan, box, None, Origin(found))
        try:
            draft.copy_memory()
        except NoTemplate as exc:
            work.ctx.tell(work.name, f"no provisioned template: {exc}")
            return work.come_up(plan, box, None, origin)
        with work.ctx.watch.around("template"):
            first = work.come_up(plan, box, None, origin, draft)
        if first.origin.template is None:
            return first
        made = _run_for_others(work, first, box, draft)
    if isinstance(made, Started):
        return made
    remove_older(work.ctx, made)
    make_room(work.ctx, keep=made.id)
    return work.come_up(work.plan(None, box.spec, box.digest), box, None, Origin(made))


def _run_for_others(work: Starting, first: Started, box: Box, draft: Draft) -> Template | Started:
    """Run the steps that a template can have behind it, and make it; or the machine that
    runs, with the reason said.
    """
    plan, watch = first.plan, work.ctx.watch
    assert plan.template is not None
    numbers = plan.template.steps
    state, _ = work.provision(plan, first.state, numbers=numbers)
    watch.lap("provision")
    now = work.plan(state, box.spec, box.digest).template
    try:
        if now is None or now.provisioned != draft.key:
            raise NoTemplate("what the steps use was changed while they ran")
        made = draft.finish(work.folder, plan, box, state)
    except NoTemplate as exc:
        work.ctx.tell(work.name, f"no provisioned template: {exc}")
        if observe(work.folder, thorough=False).alive:
            work.bring_folders(plan, state)
            return first._replace(state=state, done=numbers)
        reason = Origin(reason="the machine that was to be a template ended")
        old = read_state(work.folder)
        return work.come_up(plan, box, old, reason)._replace(done=numbers)
    watch.lap("template")
    return made
