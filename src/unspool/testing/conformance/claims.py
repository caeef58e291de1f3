"""Claims and the ends of runs: one claim of a task at a time, attempts, crashes and dispositions."""

import os
import signal
from collections.abc import Callable

import pytest

from ... import inspection
from ...backends.base import Ticket
from ...backends.change import Remove
from ...message import (
    NOTHING,
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    End,
    Exchanged,
    Interrupted,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
    Verdict,
)
from ..exchange import claim_one, content_of
from ..waiting import readable
from .harness import BackendTests, Queue

__all__ = ["ClaimTests"]


class ClaimTests(BackendTests):
    """``Backend.exchange`` and ``Backend.mark``."""

    def test_content_of_a_claim(self, queue: Queue) -> None:
        """A claim has the id, the envelope, and the number of attempts including this run."""
        id = queue.send("task", priority=4)
        claim = queue.begin()
        assert claim.id == id
        assert content_of(claim).vars["msg"] == b"task"
        assert claim.envelope.priority == 4
        assert (claim.attempts, claim.crashes) == (1, 0)
        assert queue.state(id) is State.RUNNING

    def test_busy(self, queue: Queue) -> None:
        """A claimed task cannot be claimed again."""
        queue.send("task")
        claim = queue.begin()
        refusal = claim_one(queue.backend, claim.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.BUSY

    @pytest.mark.parametrize("disposition", [Ack(), Bury("no good"), Bury("no good", corrupt=True)])
    def test_gone(self, queue: Queue, disposition: Ack | Bury) -> None:
        """A task that ended or became a dead letter is gone for a worker that received its ref earlier."""
        queue.send("task")
        claim = queue.begin()
        queue.end(claim, disposition)
        refusal = claim_one(queue.backend, claim.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.GONE

    def test_gone_by_hand(self, queue: Queue) -> None:
        """A task that a user removed after it was handed out is gone."""
        id = queue.send("task")
        (ticket,) = queue.take()
        queue.backend.change(id, Remove())
        refusal = claim_one(queue.backend, ticket.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.GONE

    def test_early(self, queue: Queue) -> None:
        """A claim before its time is refused with that time, and counts as no attempt."""
        id = queue.send("task")
        claim = queue.begin()
        at = queue.clock() + 30
        queue.end(claim, Retry(at))
        queue.clock.advance(29)
        refusal = claim_one(queue.backend, claim.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.EARLY
        assert refusal.until == pytest.approx(at, abs=0.001)
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert entry.attempts == 1

    def test_damaged_is_set_aside(self, queue: Queue) -> None:
        """A damaged task never runs: it becomes corrupt with a reason, and the others continue."""
        damaged = queue.send("damaged", payload="x" * 100)
        queue.send("whole")
        self.damage(queue.backend, damaged)
        (ticket,) = queue.take()
        refusal = claim_one(queue.backend, ticket.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.CORRUPT
        assert refusal.detail
        queue.refused(ticket, refusal)
        assert queue.state(damaged) is State.CORRUPT
        (entry,) = inspection.tasks(queue.backend, frozenset({State.CORRUPT}))
        assert entry.reason == refusal.detail
        assert queue.order(1) == ["whole"]

    def test_attempts_are_counted_before_the_run(self, queue: Queue) -> None:
        """The attempt is stored when a task starts, so that it survives whatever the task does to its worker."""
        id = queue.send("task")
        queue.begin()
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.RUNNING, 1)

    def test_crash(self, queue: Queue) -> None:
        """The task of a killed worker can be claimed at once. Its attempt and the crash are counted."""
        id = queue.send("task")
        for crashes in range(1, 3):
            queue.crash(queue.take()[0].ref)
            assert queue.state(id) is State.READY
            claim = queue.begin()
            assert (claim.attempts, claim.crashes) == (2 * crashes, crashes)
            queue.end(claim, Retry(queue.clock()))

    def test_ack(self, queue: Queue) -> None:
        """A finished task is deleted."""
        id = queue.send("task")
        assert queue.end(queue.begin(), Ack()) is None
        assert queue.state(id) is None
        assert sum(queue.backend.counts().tasks.values()) == 0

    def test_again(self, queue: Queue) -> None:
        """A failed task keeps its id and priority, and waits until the time of its ``Retry``."""
        id = queue.send("task", priority=7)
        at = queue.clock() + 30
        until = queue.end(queue.begin(), Retry(at))
        assert until == pytest.approx(at, abs=0.001)
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.priority, entry.attempts) == (State.DEFERRED, 7, 1)
        assert entry.due == pytest.approx(at, abs=0.001)
        queue.clock.advance(30)
        claim = queue.begin()
        assert (claim.id, claim.attempts, claim.crashes) == (id, 2, 0)

    def test_release(self, queue: Queue) -> None:
        """A task that was released is ready, and the attempt is not counted."""
        id = queue.send("task")
        queue.end(queue.begin(), Release())
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.READY, 0)
        assert queue.begin().attempts == 1

    def test_release_keeps_earlier_attempts(self, queue: Queue) -> None:
        """Only the attempt of the claim is subtracted, and it is not a crash."""
        queue.send("task")
        queue.end(queue.begin(), Retry(queue.clock()))
        queue.end(queue.begin(), Release())
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (2, 0)

    @pytest.mark.parametrize(("corrupt", "state"), [(False, State.DEAD), (True, State.CORRUPT)])
    def test_bury(self, queue: Queue, corrupt: bool, state: State) -> None:
        """A dead letter is listed with its reason and attempts, and never handed out again."""
        id = queue.send("task", priority=2)
        queue.send("other")
        assert queue.end(queue.begin(), Bury("the reason", corrupt)) is None
        (entry,) = inspection.tasks(queue.backend, frozenset({state}))
        assert (entry.task, entry.state, entry.reason) == ("task", state, "the reason")
        assert (entry.priority, entry.attempts) == (2, 1)
        assert queue.state(id) is state
        assert queue.order(1) == ["other"]
        assert queue.gives_nothing()

    def test_bury_what_never_ran(self, queue: Queue) -> None:
        """A task that becomes a dead letter without a run keeps the count of its earlier runs."""
        id = queue.send("task")
        queue.end(queue.begin(), Retry(queue.clock()))
        queue.end(queue.begin(), Bury("unreadable", corrupt=True, begun=False))
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.CORRUPT, 1)

    def test_claims_are_independent(self, queue: Queue) -> None:
        """Several claims may be held at once and settled in any order, each with its own end."""
        ids = [queue.send(f"task {number}") for number in range(4)]
        claims = [queue.begin() for _ in ids]
        queue.end(claims[2], Ack())
        queue.end(claims[0], Bury("no good"))
        queue.end(claims[3], Retry(queue.clock() + 10))
        states = [queue.state(id) for id in ids]
        assert states == [State.DEAD, State.RUNNING, None, State.DEFERRED]

    def test_an_empty_exchange(self, queue: Queue) -> None:
        """A worker may call ``exchange`` with no ends and no refs at any time, as it does before it waits."""
        assert queue.backend.exchange([], []) == Exchanged([], [])
        queue.send("task")
        claim = queue.begin()
        assert queue.backend.exchange([], []) == Exchanged([], [])
        queue.end(claim, Ack())
        assert sum(queue.backend.counts().tasks.values()) == 0

    def test_an_exchange_settles_and_claims_several(self, queue: Queue) -> None:
        """Each end and each ref has its own answer, in order, and all ends are settled when it returns."""
        now = queue.clock()
        ids = {label: queue.send(label) for label in ("done", "again", "back", "hopeless", "next")}
        tickets = queue.take(5)
        done, again, back, hopeless = queue.backend.exchange([], [ticket.ref for ticket in tickets[:4]]).taken
        assert isinstance(done, Claim)
        assert isinstance(again, Claim)
        assert isinstance(back, Claim)
        assert isinstance(hopeless, Claim)
        ends = [End(done, Ack()), End(again, Retry(now + 30)), End(back, Release()), End(hopeless, Bury("no use"))]
        ended, taken = queue.backend.exchange(ends, [tickets[4].ref, back.ref, again.ref, done.ref])
        assert [until is None for until in ended] == [True, False, False, True]
        assert ended[1] == pytest.approx(now + 30, abs=0.001)
        following, released, early, gone = taken
        assert isinstance(following, Claim)
        assert isinstance(released, Claim)
        assert [following.id, released.id] == [ids["next"], ids["back"]]
        assert released.attempts == 1
        assert isinstance(early, Refusal)
        assert isinstance(gone, Refusal)
        assert [early.kind, gone.kind] == [RefusalKind.EARLY, RefusalKind.GONE]
        states = {label: queue.state(id) for label, id in ids.items()}
        assert states == {
            "done": None,
            "again": State.DEFERRED,
            "back": State.RUNNING,
            "hopeless": State.DEAD,
            "next": State.RUNNING,
        }

    def test_a_task_that_does_not_fit_into_memory(self, queue: Queue) -> None:
        """A worker that cannot read a task into its memory releases it. This counts as an attempt and a crash."""
        queue.send("task")
        queue.end(queue.begin(), Release(crashed=True))
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (2, 1)
        queue.end(claim, Release())
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (2, 1)

    def test_an_end_is_repeated(self, queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
        """An end may be settled again if the answer to the first attempt was lost. This changes and logs nothing."""
        queue.send("task")
        queue.send("other")
        claim, other = queue.begin(), queue.begin()
        queue.end(claim, Ack())
        if queue.backend.capabilities.remote:  # a directory gives no answer that can be lost
            queue.backend.exchange([End(claim, Ack(), repeated=True)], [])
        assert queue.state(other.id) is State.RUNNING
        assert sum(queue.backend.counts().tasks.values()) == 1
        assert not caplog.records

    def test_an_end_of_a_dead_worker(self, queue: Queue) -> None:
        """If claims have fences, a supervisor settles the finished runs of a dead worker by their refs and fences.

        No attempt or crash is counted, and another claim is not affected.
        """
        if not queue.backend.capabilities.batches:
            queue.send("task")
            assert queue.begin().fence == 0
            return
        id, other = queue.send("task"), queue.send("other")
        (ticket, beside) = queue.take(2)
        reader, writer = os.pipe()
        worker = os.fork()
        if worker == 0:
            claims = queue.backend.exchange([], [ticket.ref, beside.ref]).taken
            os.write(writer, b",".join(b"%d" % claim.fence for claim in claims if isinstance(claim, Claim)))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(worker, 0)
        fence, other_fence = map(int, os.read(reader, 100).split(b","))
        self.sync(queue.backend)
        record = Record(id, "task", Verdict.PROCESSED, 1, queue.clock(), 0.1, worker)
        ends = [
            End(Claim(id, ticket.ref, NOTHING, 1, 0, fence=fence), Ack(), record, repeated=True),
            End(Claim(other, beside.ref, NOTHING, 1, 0, fence=other_fence + 1), Ack(), record, repeated=True),
        ]
        assert queue.backend.exchange(ends, []).ended == [None, None]
        assert queue.state(id) is None
        queue.feed.recheck()
        claim = queue.begin()
        assert claim.id == other

    def test_deferred_while_it_runs(self, queue: Queue) -> None:
        """After ``DeferOnCrash``, a task whose worker is killed does not start before the time of the mark."""
        id, ticket = self._kill_in_mid_task(
            queue, lambda ref: queue.backend.mark(ref, DeferOnCrash(queue.clock() + 30))
        )
        until = queue.clock() + 30
        assert queue.state(id) is State.DEFERRED
        assert queue.gives_nothing()
        refusal = claim_one(queue.backend, ticket.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.EARLY
        assert refusal.until == pytest.approx(until, abs=1)
        queue.clock.advance(31)
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (2, 1)

    def test_interrupted_while_it_runs(self, queue: Queue) -> None:
        """After ``Interrupted``, a run whose worker is killed counts as an attempt and not as a crash."""
        id, _ = self._kill_in_mid_task(queue, lambda ref: queue.backend.mark(ref, Interrupted()))
        assert queue.state(id) is State.READY
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (2, 0)

    def _kill_in_mid_task(self, queue: Queue, before: Callable[[str], None]) -> tuple[str, Ticket]:
        """Start a task in a worker, call ``before`` with its ref, and kill the worker.

        Return the id and the ticket when the task is no longer running.
        """
        if not queue.backend.capabilities.forks:
            pytest.skip("no worker of this backend can be killed")
        id = queue.send("task")
        (ticket,) = queue.take()
        reader, writer = os.pipe()
        worker = os.fork()
        if worker == 0:
            claim_one(queue.backend, ticket.ref)
            os.write(writer, b".")
            signal.pause()
        try:
            assert readable(reader, 60), "the worker has not claimed the task"
            before(ticket.ref)
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            os.close(reader)
            os.close(writer)
        queue.feed.recheck()
        queue.look_until(lambda: queue.state(id) is not State.RUNNING)
        return id, ticket
