"""A verb on several machines at once: a few processes that work through them, in order.

Processes and not threads, because Ctrl-C has to interrupt the work on each machine wherever it
is, so that what was begun there is undone there. They are forked before anything is shown, and
take one machine after another; what they tell travels back to this process, which alone writes
to the terminal. When it is gone, the kernel interrupts the workers (on Linux; elsewhere they
notice by their broken pipe), and they undo their work.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from qup.errors import Interrupted, MachineError, QupError
from qup.process import describe_exit, end_with_parent
from qup.runner.context import Context

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Act = Callable[[str], object]

LEAST_JOBS = 4
"""Machines worked on at once, even on a computer with fewer processors: they mostly wait."""


class WorkerBug(Exception):
    """A bug of ours in a worker; its text is the traceback from there."""


def default_jobs() -> int:
    """How many machines are worked on at once unless the user says otherwise."""
    return max(LEAST_JOBS, os.cpu_count() or 1)


def work_through(
    ctx: Context,
    names: Sequence[str],
    act: Act,
    *,
    jobs: int,
    after: Mapping[str, Sequence[str]] | None = None,
) -> list[QupError]:
    """Do something to each machine; the failure of one doesn't keep the others from it.

    Args:
        ctx: the surroundings that ``act`` uses; the workers' events reach its listener.
        names: the machines.
        act: what to do; raises QupError when it fails. It runs in a copy of this process:
            what it changes in memory stays there.
        jobs: how many at once, at most.
        after: for a machine, those that have to be done before. Others than ``names`` don't
            count. When one of them fails, the machine is left alone.

    Returns:
        What failed; causes go before what was left alone because of them.

    Raises:
        Interrupted: Ctrl-C; all work that was under way has been undone.
    """
    order = _Order(names, after or {})
    if len(names) == 1 or jobs == 1:
        _work_alone(order, act)
    else:
        with _hire(ctx, act, min(jobs, len(names))) as workers:
            _Foreman(ctx, order, workers).run()
    return order.errors


def invert(after: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The order for taking things down: who comes after whom, the other way around."""
    turned: dict[str, list[str]] = {}
    for name, earlier in after.items():
        for other in earlier:
            turned.setdefault(other, []).append(name)
    return turned


class _Order:
    """Which machine may be worked on, and what has come of the others."""

    def __init__(self, names: Sequence[str], after: Mapping[str, Sequence[str]]) -> None:
        wanted = set(names)
        self.waiting = {name: wanted.intersection(after.get(name, ())) for name in names}
        self.failed: list[QupError] = []
        self.left: list[QupError] = []

    @property
    def errors(self) -> list[QupError]:
        return [*self.failed, *self.left]

    def take(self) -> str | None:
        """The first machine that waits for nobody, or None at the moment."""
        name = next((name for name, others in self.waiting.items() if not others), None)
        if name is not None:
            del self.waiting[name]
        return name

    def end(self, name: str, error: QupError | None) -> None:
        """A machine is done, well or not."""
        if error is None:
            for others in self.waiting.values():
                others.discard(name)
            return
        error.machine = error.machine or name
        self.failed.append(error)
        self._leave(name)

    def _leave(self, culprit: str) -> None:
        """Give up on all that come after a machine that failed."""
        culprits = [culprit]
        while culprits:
            culprit = culprits.pop()
            for name in [name for name, others in self.waiting.items() if culprit in others]:
                del self.waiting[name]
                culprits.append(name)
                text = f"machine {name} was left alone: it comes after {culprit}, which failed"
                self.left.append(MachineError(text, machine=name))


def _work_alone(order: _Order, act: Act) -> None:
    while (name := order.take()) is not None:
        try:
            act(name)
        except Interrupted:
            raise
        except QupError as exc:
            order.end(name, exc)
        else:
            order.end(name, None)


# --- this process --------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process, the pipe to it, and the machine it works on."""

    pid: int
    pipe: Connection
    machine: str | None = None


@dataclass
class _Foreman:
    """Hands out the work and takes in what is told."""

    ctx: Context
    order: _Order
    workers: list[_Worker]
    interrupted: bool = field(default=False)

    def run(self) -> None:
        try:
            self._hand_out()
            while self._busy():
                self._listen()
                self._hand_out()
        except KeyboardInterrupt:
            self._interrupt()
        except WorkerBug:
            self._interrupt()
            raise
        if self.interrupted:
            raise Interrupted

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.machine is not None]

    def _hand_out(self) -> None:
        for worker in self.workers:
            if worker.machine is None and not self.interrupted:
                worker.machine = self.order.take()
                if worker.machine is not None:
                    worker.pipe.send(worker.machine)

    def _listen(self) -> None:
        from multiprocessing.connection import wait

        by_pipe = {worker.pipe: worker for worker in self._busy()}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, data = worker.pipe.recv()
            except (EOFError, OSError):
                self._bury(worker)
                continue
            if kind == "event":
                self.ctx.emit(data)
            else:
                self._end(worker, kind, data)

    def _end(self, worker: _Worker, kind: str, data: Any) -> None:
        name, worker.machine = worker.machine, None
        assert name is not None
        if kind == "bug":
            raise WorkerBug(data)
        if isinstance(data, Interrupted):
            self.interrupted = True
        else:
            self.order.end(name, data)

    def _bury(self, worker: _Worker) -> None:
        """A worker that ended in the middle of its work; nobody knows how far it came."""
        name, worker.machine = worker.machine, None
        assert name is not None
        _, status = os.waitpid(worker.pid, 0)
        how = describe_exit(os.waitstatus_to_exitcode(status))
        self.workers.remove(worker)
        error = MachineError(
            f"machine {name}: the process that worked on it ended ({how})",
            hint=f"'qup status {name}' shows what became of it; the same command again goes on",
        )
        self.order.end(name, error)
        if not self.workers:
            self.order.waiting.clear()

    def _interrupt(self) -> None:
        """Have all work undone; a second Ctrl-C doesn't wait for that."""
        self.interrupted = True
        for worker in self._busy():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)
        while self._busy():
            self._listen()


@contextmanager
def _hire(ctx: Context, act: Act, count: int) -> Iterator[list[_Worker]]:
    """Workers that are gone afterwards, whatever happens."""
    sys.stdout.flush()
    sys.stderr.flush()
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_fork(ctx, act, workers))
        yield list(workers)
    finally:
        for worker in workers:
            worker.pipe.close()  # an idle worker ends by that
            if worker.machine is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
        for worker in workers:
            with suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)


def _fork(ctx: Context, act: Act, elder: Sequence[_Worker]) -> _Worker:
    from multiprocessing import Pipe

    ours, theirs = Pipe()
    follow = end_with_parent(signal.SIGINT)
    # No signal may come to the child before it can deal with it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        pid = os.fork()
        if pid == 0:
            for worker in elder:
                worker.pipe.close()
            ours.close()
            follow()
            _work(ctx, act, theirs, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return _Worker(pid, ours)


# --- a worker ------------------------------------------------------------------------------


def _work(ctx: Context, act: Act, pipe: Connection, mask: set[Any]) -> NoReturn:
    """Take machines from the pipe until it is closed, or this process is interrupted."""
    code = 0
    try:
        os.setpgid(0, 0)  # the terminal's Ctrl-C comes from the parent, once
        ctx.relay = lambda event: pipe.send(("event", event))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while True:
            name = pipe.recv()
            kind, data = _try(act, name)
            pipe.send((kind, data))
            if isinstance(data, Interrupted):
                break
    except (EOFError, OSError, KeyboardInterrupt):
        pass
    except BaseException:
        code = 1
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _try(act: Act, name: str) -> tuple[str, Any]:
    try:
        act(name)
    except KeyboardInterrupt:
        return "end", Interrupted()
    except QupError as exc:
        return "end", exc
    except BrokenPipeError:  # the parent is gone: what was begun has been undone
        raise
    except Exception:
        return "bug", traceback.format_exc()
    return "end", None
