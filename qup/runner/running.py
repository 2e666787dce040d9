"""A machine whose QEMU lives: what is unfinished about it is finished, what can be changed while
it runs is changed.
"""

from __future__ import annotations

from dataclasses import replace

from qup.errors import MachineError
from qup.files import trim_file
from qup.guest import ssh
from qup.model.plan import Plan
from qup.model.runstate import Way
from qup.model.state import State
from qup.paths import RuntimeFolder, SshFolder
from qup.qemu.qmp import Qmp
from qup.runner.boxes import find_own
from qup.runner.changes import tell_changes
from qup.runner.environment import share_environment
from qup.runner.forwards import Applied, apply_forwards
from qup.runner.observe import Observation
from qup.runner.open_ports import note_ports, recall_ports
from qup.runner.peers import share_names
from qup.runner.prepare import find_box
from qup.runner.ready import wait_until_ready
from qup.runner.rouse import rouse
from qup.runner.stillness import catch_up, catch_up_waiting
from qup.runner.whereabouts import check_whereabouts
from qup.runner.work import Work, report
from qup.store import remember, write_state

MONITOR_TIMEOUT = 5.0
CONSOLE_LIMIT, CONSOLE_KEPT = 64 << 20, 1 << 20
"""Bytes that a guest may print before its log is cut down, and how many are kept then."""


class Running(Work):
    """A machine that runs."""

    def provision_again(self, state: State) -> bool:
        """Run provisioning steps, and nothing else; whether there were any."""
        if not (state.launch and state.launch.ready):
            raise MachineError(
                f"machine {self.name} is not ready: ssh has not answered yet",
                hint=f"'qup up {self.name}' waits for it",
                machine=self.name,
            )
        plan, _ = self.plan_again(state)
        login = plan.seed_form.login
        share_environment(self.ctx, self.config, login=login, fresh=False)
        _, ran = self.provision(plan, state)
        self.keep_save_point(plan, ran)
        return bool(ran)

    def finish(self, seen: Observation) -> bool:
        """Finish what is unfinished about a machine that runs, and say what is different."""
        state = seen.state
        assert state is not None
        assert state.launch is not None
        if seen.way is Way.REFUSE:
            raise MachineError(
                f"machine {self.name} is {seen.status}: {seen.detail}",
                hint=f"'qup reload --force {self.name}' restarts it",
                machine=self.name,
            )
        runtime = RuntimeFolder.of(state.launch.runtime)
        state = self._follow_move(state, runtime)
        trim_file(self.folder.log("serial"), over=CONSOLE_LIMIT, keep=CONSOLE_KEPT)
        if self.options.attach:
            self.options.attach(runtime.console)
        if done := rouse(self.name, runtime, seen.way):
            self.ctx.tell(self.name, done)
        catch_up_waiting(self.ctx, self.folder, runtime)
        changed = done is not None
        plan, box = self.plan_again(state)
        state, moved = check_whereabouts(self.ctx, self.folder, plan, state)
        if moved or (plan.seed_form.login and not seen.ready):
            with Qmp.connect(runtime.events, timeout=MONITOR_TIMEOUT) as events:
                state = wait_until_ready(self.ctx, self.folder, plan, state, events)
            changed = True
        catch_up(self.ctx, self.folder, login=plan.seed_form.login)
        share_names(self.ctx, self.config, login=plan.seed_form.login)
        share_environment(self.ctx, self.config, login=plan.seed_form.login, fresh=changed)
        applied = self._apply_forwards(plan, state, runtime)
        tell_changes(self.ctx, self.config, self.folder, plan, box)
        changed = self.bring_folders(plan, state) or changed
        _, ran = self.provision(plan, state)
        self.keep_save_point(plan, ran)
        changed = bool(ran) or changed or applied.changed
        report(self.name, applied.failures)
        return changed

    def _apply_forwards(self, plan: Plan, state: State, runtime: RuntimeFolder) -> Applied:
        """Open the Qupfile's new forwards, close those that it had, and say so."""
        own = state.launch.ssh_port if state.launch else None
        with Qmp.connect(runtime.control, timeout=MONITOR_TIMEOUT) as monitor:
            applied = apply_forwards(monitor, plan, recall_ports(self.folder).kept, own=own)
            if applied.changed:
                note_ports(self.folder, monitor, own, applied.kept)
        for word, forwards in (("opened", applied.opened), ("closed", applied.closed)):
            if forwards:
                self.ctx.tell(self.name, f"{word} {', '.join(map(str, forwards))}")
        return applied

    def _follow_move(self, state: State, runtime: RuntimeFolder) -> State:
        """Note where a machine is now whose project was moved while it ran."""
        if state.project == str(self.ctx.project.home):
            return state
        state = replace(state, project=str(self.ctx.project.home))
        write_state(self.folder, state)
        remember(state, self.ctx.project)
        ssh.link_files(SshFolder(self.folder.ssh), runtime)
        return state

    def plan_again(self, state: State) -> tuple[Plan, str]:
        """The plan for now with the box that the machine has, and the box that is asked for."""
        box = find_own(self.ctx, state)
        if box is not None and state.box == self.config.settings.box:
            return self.plan(state, box.spec, state.box_digest), state.box
        spec, _ = find_box(self.ctx, self.config)
        return self.plan(state, box.spec if box else spec, state.box_digest), spec.name
