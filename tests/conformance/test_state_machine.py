"""The spool directory does what memory does, whatever is asked of the two.

Hypothesis makes up commands; both backends obey, and after each all that can be seen of them is compared. Tasks are
told apart by labels, since the ids differ. No two are due at the same time, for then either order would be right.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unspool import inspection
from unspool.backends.base import UNNUMBERED, Backend, Feed
from unspool.backends.change import Change, Remove, RunNow
from unspool.backends.memory import MemoryBackend
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.feed import SpoolFeed
from unspool.backends.spool.lookahead import Lookahead
from unspool.backends.spool.switches import SpoolSwitches
from unspool.errors import TaskBusy
from unspool.message import (
    Ack,
    Bury,
    Claim,
    Content,
    Disposition,
    Entry,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from unspool.retry import MAX_CRASHES
from unspool.testing import FakeClock
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

PRIORITIES = st.one_of(st.none(), st.integers(0, 3))
CHOICES = st.integers(0, 1000)
STATES = st.sampled_from(State)
ENDS = st.one_of(
    st.sampled_from([Ack(), Release(), Bury("why"), Bury("torn", corrupt=True), Bury("odd", begun=False), None]),
    st.builds(Retry, st.integers(1, 20)),  # seconds from then
)


@dataclass
class Task:
    """One task in both backends."""

    label: str
    spool_id: str
    memory_id: str
    fresh: bool = True
    """Neither begun nor retried by hand yet: then the feed's order is exact, also after a restart."""
    held: tuple[Claim, Claim] | None = None


class LikeMemory(RuleBasedStateMachine):
    """Commands for any backend. A subclass provides the backend: ``spool`` and ``feed``, a worker's ``claim``, and the
    effect of a kill.
    """

    spool: Backend
    feed: Feed

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.start, self.moment = self.clock.now, 0
        self.memory = MemoryBackend(clock=self.clock)
        self.tasks: dict[str, Task] = {}
        self.sent = 0
        self.used: set[int] = set()
        self.open()

    def open(self) -> None:
        """Start a supervisor."""
        raise NotImplementedError

    def claim(self, ref: str) -> Claim | Refusal:
        """Let a worker claim a task."""
        return claim_one(self.spool, ref)

    def settle_claim(self, claim: Claim, disposition: Disposition) -> float | None:
        """Settle a claim."""
        return settle_one(self.spool, claim, disposition)

    def kill(self, claim: Claim) -> None:
        """Kill the worker of a claim, and wait until the backend has noticed."""
        raise NotImplementedError

    def look(self) -> None:
        """Let the feed process all earlier changes."""
        while self.feed.refresh().more:
            pass

    def clean(self) -> None:
        """Remove all tasks."""

    def teardown(self) -> None:
        for task in self.tasks.values():
            if task.held:
                self.die(task)
        self.feed.close()
        self.spool.close()
        self.clean()

    # --- time: whole milliseconds from the start, each due time used once

    def pass_time(self, milliseconds: int) -> None:
        self.moment += milliseconds
        self.clock.now = self.start + self.moment / 1000

    def now(self) -> None:
        """Advance to a time at which no further task is due."""
        self.pass_time(1)
        while self.moment in self.used:
            self.pass_time(1)
        self.used.add(self.moment)

    def later(self, seconds: float) -> float:
        """Return a time at which nothing else is due."""
        moment = self.moment + int(1000 * seconds)
        while moment in self.used:
            moment += 1
        self.used.add(moment)
        return self.start + moment / 1000

    # --- commands

    @initialize(priorities=st.lists(PRIORITIES, min_size=3, max_size=8))
    def send_some(self, priorities: list[int | None]) -> None:
        for priority in priorities:
            self.send(priority, None, 0)

    @rule(priority=PRIORITIES, delay=st.one_of(st.none(), st.integers(1, 30)), size=st.integers(0, 50))
    def send(self, priority: int | None, delay: int | None, size: int) -> None:
        self.now()
        self.sent += 1
        label = f"task {self.sent}"
        due = None if delay is None else self.later(delay)
        envelopes = [sealed(Content({"msg": label.encode()}, b"x" * size, priority, due))]
        self.tasks[label] = Task(label, self.spool.send(envelopes)[0], self.memory.send(envelopes)[0])

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.pass_time(1000 * seconds)

    @rule()
    def begin(self) -> None:
        self.begin_next()

    @rule(end=ENDS)
    def run(self, end: Disposition | None) -> None:
        """Begin a task and end it at once. None kills its worker."""
        task = self.begin_next()
        if task is not None:
            self.end(task, end)

    @precondition(lambda self: self.held())
    @rule(choice=CHOICES, end=ENDS)
    def end_one(self, choice: int, end: Disposition | None) -> None:
        """End a task that was begun before, perhaps while others run."""
        self.end(self.pick(self.held(), choice), end)

    @precondition(lambda self: self.tasks)
    @rule(choice=CHOICES, state=STATES)
    def retry(self, choice: int, state: State) -> None:
        task = self.pick(self.those(state), choice)
        self.now()
        task.fresh = False
        ids = self.both(task, RunNow())
        if ids is not None:
            task.spool_id, task.memory_id = ids

    @precondition(lambda self: self.tasks)
    @rule(choice=CHOICES, state=STATES)
    def remove(self, choice: int, state: State) -> None:
        task = self.pick(self.those(state), choice)
        if self.both(task, Remove()) is not None:
            del self.tasks[task.label]

    @rule()
    def pause(self) -> None:
        """Check that no task begins while the queue is paused."""
        self.spool.switch(paused=True)
        assert self.next_claim() is None
        self.spool.switch(paused=False)

    @rule()
    def restart(self) -> None:
        """Kill the supervisor and its workers, and start others."""
        for task in self.held():
            self.die(task)
        self.feed.close()
        self.spool.close()
        self.open()

    # --- what must be the same, always

    @invariant()
    def same(self) -> None:
        counts = self.spool.counts().tasks
        assert counts == self.memory.counts().tasks
        assert sum(counts.values()) == len(self.tasks)
        for state in (State.READY, State.DEFERRED):
            assert self.labels(self.spool, state) == self.labels(self.memory, state), state
        for state in (State.RUNNING, State.DEAD, State.CORRUPT):  # whose order says nothing
            assert sorted(self.labels(self.spool, state)) == sorted(self.labels(self.memory, state)), state
        for task in self.tasks.values():
            here, there = inspection.find(self.spool, task.spool_id), inspection.find(self.memory, task.memory_id)
            assert here is not None
            assert there is not None
            assert self.seen(here) == self.seen(there)
            if there.state is State.DEFERRED:
                assert abs(here.due - there.due) < 0.0005

    # --- parts

    def next_claim(self) -> Claim | None:
        while True:
            self.look()
            tickets = self.feed.take(1)
            if not tickets:
                return None
            claim = self.claim(tickets[0].ref)
            if isinstance(claim, Claim):
                return claim
            assert isinstance(claim, Refusal)
            assert claim.kind in (RefusalKind.GONE, RefusalKind.BUSY, RefusalKind.EARLY)
            if claim.kind is RefusalKind.BUSY:
                self.feed.recheck([tickets[0].ref])
            else:
                self.feed.done(tickets[0].ref, claim.until)

    def begin_next(self) -> Task | None:
        """Claim the next task of the feed, and the same task in memory."""
        claim = self.next_claim()
        ready = list(inspection.tasks(self.memory, frozenset({State.READY})))
        if claim is None:
            assert not ready
            return None
        task = self.tasks[content_of(claim).vars["msg"].decode()]
        self.check_order(task, ready)
        twin = claim_one(self.memory, task.memory_id)
        assert isinstance(twin, Claim), f"memory says {twin}"
        assert (claim.attempts, claim.crashes) == (twin.attempts, twin.crashes)
        assert claim.id == task.spool_id
        if claim.crashes < MAX_CRASHES:  # else it is set aside, for which a directory does not read it whole
            assert content_of(claim).body == content_of(twin).body
        task.held, task.fresh = (claim, twin), False
        return task

    def end(self, task: Task, end: Disposition | None) -> None:
        if end is None:
            self.die(task)
            self.feed.recheck()
            self.look()
        elif isinstance(end, Retry):
            self.settle(task, Retry(self.later(end.at)))
        else:
            self.settle(task, end)

    def check_order(self, task: Task, ready: list[Entry]) -> None:
        """Check that the task has the first priority that is ready, and was due first among the new ones there."""
        by_label = {entry.task: entry for entry in ready}
        assert task.label in by_label, f"{task.label} was begun; memory has {ready}"
        ranks = {entry.task: UNNUMBERED if entry.priority is None else entry.priority for entry in ready}
        assert ranks[task.label] == min(ranks.values())
        if task.fresh:
            fresh = [one for one in by_label if self.tasks[one].fresh and ranks[one] == ranks[task.label]]
            assert task.label == min(fresh, key=lambda one: by_label[one].due)

    def settle(self, task: Task, disposition: Disposition) -> None:
        assert task.held
        here, there = task.held
        until = self.settle_claim(here, disposition)
        self.feed.done(here.ref, until)
        expected = settle_one(self.memory, there, disposition)
        assert (until is None) == (expected is None)
        task.held = None
        if isinstance(disposition, Ack):
            del self.tasks[task.label]

    def die(self, task: Task) -> None:
        assert task.held
        here, there = task.held
        self.kill(here)
        self.memory.crash(there)
        task.held = None

    def both(self, task: Task, change: Change) -> tuple[str, str] | None:
        """Do the same to the task in both backends, and return their answers; None if both say that it is running."""
        answers = []
        for backend, id in ((self.spool, task.spool_id), (self.memory, task.memory_id)):
            try:
                answers.append(backend.change(id, change))
            except TaskBusy:
                answers.append(TaskBusy)
        assert (answers[0] is TaskBusy) == (answers[1] is TaskBusy) == (task.held is not None)
        return None if task.held else (answers[0], answers[1])

    def held(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.held]

    def those(self, state: State) -> list[Task]:
        """Return the tasks in this state; all tasks if there are none."""
        labels = self.labels(self.memory, state) or list(self.tasks)
        return [self.tasks[label] for label in labels]

    @staticmethod
    def pick(tasks: list[Task], choice: int) -> Task:
        return tasks[choice % len(tasks)]

    @staticmethod
    def labels(backend: Backend, state: State) -> list[str]:
        return [entry.task for entry in inspection.tasks(backend, frozenset({state}))]

    @staticmethod
    def seen(entry: Entry) -> tuple[object, ...]:
        return entry.state, entry.task, entry.priority, entry.attempts, entry.size, entry.reason


class SpoolLikeMemory(LikeMemory):
    """A spool directory."""

    window = 50_000

    def __init__(self) -> None:
        self.place = tempfile.mkdtemp(prefix="unspool-machine-")
        super().__init__()

    def open(self) -> None:
        self.backend = SpoolBackend(f"{self.place}/mail", durable=False, clock=self.clock)
        self.spool = self.backend
        directory = Directory(self.backend.name)
        self.feed = SpoolFeed(
            directory, SpoolSwitches(directory, 300.0), self.clock, self.backend.wakefile, Lookahead(self.window)
        )

    def kill(self, claim: Claim) -> None:
        """Close the descriptors of a claim, which is all that the kernel does when it kills a process."""
        self.backend._claims._held.discard(claim.token.file)  # noqa: SLF001  the backend lives on
        os.close(claim.token.file)

    def clean(self) -> None:
        shutil.rmtree(self.place)


class WithNarrowWindow(SpoolLikeMemory):
    """A feed that cannot hold all tasks, as with a million of them."""

    window = 2


SpoolLikeMemory.TestCase.settings = WithNarrowWindow.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.timeout(600)  # a failure takes minutes to be made small
class TestSpoolLikeMemory(SpoolLikeMemory.TestCase):
    """No sequence of commands distinguishes the two."""


@pytest.mark.timeout(600)
class TestWithNarrowWindow(WithNarrowWindow.TestCase):
    """The same holds if the feed has to drop tickets and find them again."""
