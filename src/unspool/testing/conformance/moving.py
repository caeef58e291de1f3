"""Transfers between queues: each task stays in exactly one of them, even if the transferring process is killed."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ... import codec, inspection
from ...backends.base import Backend
from ...backends.change import Remove, Reprioritise, RunNow
from ...backends.depot import Depot, Movable, Parcel
from ...backends.memory import MemoryBackend
from ...errors import TaskBusy
from ...message import Ack, Bury, Claim, Message, Refusal, RefusalKind, Retry, State
from ..clock import FakeClock
from ..exchange import claim_one, sealed
from .harness import BackendTests, Queue

__all__ = ["MovingTests"]

_STEPS = ["leave", "accept", "left", "confirm", "gone"]
_MINUTE = 60.0


def depot_of(backend: Backend) -> Depot:
    """Return the backend's depot."""
    if not isinstance(backend, Movable):
        pytest.skip("this backend's tasks cannot be transferred")
    return backend.depot


def begins_nothing(queue: Queue) -> bool:
    """Return whether no task can start. A feed may hand out a task that has left, but its claim is refused."""
    while True:
        queue.look()
        tickets = queue.feed.take(10)
        if not tickets:
            return True
        for ticket in tickets:
            refusal = claim_one(queue.backend, ticket.ref)
            if not isinstance(refusal, Refusal):
                return False
            queue.refused(ticket, refusal)


def carry(source: Depot, destination: Depot, ids: Sequence[str], upto: str = "gone") -> None:
    """Transfer tasks up to the named step. Without ids, continue the transfers that another process has begun."""
    parcels = source.leave(ids) if ids else source.departures()
    steps = _STEPS[1 : _STEPS.index(upto) + 1]
    known = [parcel for parcel in parcels if parcel.destination]
    fresh = [parcel for parcel in parcels if not parcel.destination]
    if "accept" in steps:
        destination.accept(fresh)
    if "left" in steps:
        known += source.left(fresh, "there")
    if "confirm" in steps:
        destination.confirm(known)
    if "gone" in steps:
        source.gone(known)


class MovingTests(BackendTests):
    """``depot.Depot``: the backend as a source, and as a destination."""

    @pytest.fixture
    def here(self, queue: Queue) -> Depot:
        """Return the depot of the backend under test."""
        return depot_of(queue.backend)

    @pytest.fixture
    def there(self, queue: Queue, clock: FakeClock) -> MemoryBackend:
        """Return another queue."""
        return MemoryBackend("there", clock=clock)

    @pytest.fixture
    def elsewhere(self, queue: Queue, clock: FakeClock, tmp_path: Path) -> Iterator[Backend]:
        """Yield another process's view of the queue, or the same backend if no other process sees it."""
        backend = self.make_backend(clock, tmp_path) if queue.backend.capabilities.forks else queue.backend
        yield backend
        if backend is not queue.backend:
            backend.close()

    def killed(self, backend: Backend, work: Callable[[], Any]) -> None:
        """Do some work in another process and kill it. If no other process sees the backend, do the work here."""
        if not backend.capabilities.forks:
            work()
            return
        backend.close()
        pid = os.fork()
        if pid == 0:
            try:
                work()
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        self.sync(backend)

    def test_carried_away(self, queue: Queue, here: Depot, there: MemoryBackend) -> None:
        """A task that was moved is in the other queue with all its metadata, and no longer in this one."""
        due = queue.clock() + 500
        ids = [queue.send("later", priority=3, due=due, payload="p" * 200), queue.send("now")]
        carry(here, there.depot, ids)
        assert queue.labels() == []
        assert [queue.state(id) for id in ids] == [None, None]
        now, later = inspection.tasks(there)
        assert (now.task, now.state, now.priority) == ("now", State.READY, None)
        assert (later.task, later.state, later.priority) == ("later", State.DEFERRED, 3)
        assert later.due == pytest.approx(due, abs=0.01)

    def test_bytes_are_the_same(self, queue: Queue, here: Depot, there: MemoryBackend) -> None:
        """The bytes of a task are the same after a transfer, in both directions."""
        sent = sealed(codec.encode(Message("task", {"to": "ann"}, None, 4, None)))
        (id,) = there.send([sent])
        carry(there.depot, here, [id])
        (entry,) = inspection.tasks(queue.backend)
        (parcel,) = here.leave([entry.id])
        assert parcel.data == sent.data

    def test_counts_go_along(self, queue: Queue, here: Depot, there: MemoryBackend) -> None:
        """Attempts and crashes continue to count in the other queue, and back in this one."""
        queue.send("task", priority=1)
        queue.crash(queue.take()[0].ref)
        queue.end(queue.begin(), Retry(queue.clock() + 50))
        (entry,) = inspection.tasks(queue.backend)
        carry(here, there.depot, [entry.id])
        (entry,) = inspection.tasks(there)
        assert entry.attempts == 2
        carry(there.depot, here, [entry.id])
        (entry,) = inspection.tasks(queue.backend)
        assert (entry.state, entry.attempts, entry.priority) == (State.DEFERRED, 2, 1)
        queue.clock.advance(50)
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (3, 1)

    def test_a_crash_without_a_witness(self, queue: Queue, here: Depot, there: MemoryBackend) -> None:
        """A task whose worker was killed can be moved while no supervisor is alive, and the crash counts."""
        id = queue.send("task")
        ref = queue.take()[0].ref
        queue.feed.close()
        self.crash(queue.backend, ref)
        carry(here, there.depot, [id])
        (entry,) = inspection.tasks(there)
        claim = claim_one(there, entry.id)
        assert isinstance(claim, Claim)
        assert (claim.attempts, claim.crashes) == (2, 1)
        queue.feed = queue.backend.feed()

    @pytest.mark.parametrize(("corrupt", "state"), [(False, State.DEAD), (True, State.CORRUPT)])
    def test_set_aside(self, queue: Queue, here: Depot, there: MemoryBackend, corrupt: bool, state: State) -> None:
        """A dead letter keeps its reason, priority and attempts in both directions, and can be retried afterwards."""
        queue.send("task", priority=2)
        queue.end(queue.begin(), Bury("the reason", corrupt))
        (entry,) = inspection.tasks(queue.backend)
        carry(here, there.depot, [entry.id])
        assert queue.labels() == []
        (moved,) = inspection.tasks(there)
        carry(there.depot, here, [moved.id])
        assert list(inspection.tasks(there)) == []
        (entry,) = inspection.tasks(queue.backend)
        assert (entry.state, entry.reason, entry.attempts, entry.priority) == (state, "the reason", 1, 2)
        assert begins_nothing(queue)
        queue.backend.change(entry.id, RunNow())
        assert queue.begin().attempts == 1

    def test_what_runs_stays(self, queue: Queue, here: Depot) -> None:
        """A running or missing task does not leave, and continues."""
        id = queue.send("task")
        claim = queue.begin()
        assert here.leave([id, "no such thing"]) == []
        assert queue.end(claim, Ack()) is None

    def test_what_was_handed_out_leaves(self, queue: Queue, here: Depot, there: MemoryBackend) -> None:
        """A task that was handed out and not started leaves. The worker that receives it finds it gone."""
        id = queue.send("task")
        (ticket,) = queue.take()
        carry(here, there.depot, [id])
        refusal = claim_one(queue.backend, ticket.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.GONE

    def test_under_way(self, queue: Queue, here: Depot) -> None:
        """A task in transfer is listed in its former state, is not run, and cannot be changed by a user."""
        id = queue.send("task")
        assert len(here.leave([id])) == 1
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.id) == (State.READY, id)
        assert "is being moved" in entry.reason
        assert [found.id for found in inspection.tasks(queue.backend)] == [id]
        assert queue.backend.counts().tasks[State.READY] == 1
        assert begins_nothing(queue)
        for change in (RunNow(), Remove(), Reprioritise(1)):
            with pytest.raises(TaskBusy):
                queue.backend.change(id, change)
        assert here.leave([id]) == []

    def test_put_back(self, queue: Queue, here: Depot) -> None:
        """A task whose transfer is aborted is as it was before, and runs."""
        due = queue.clock() + 30
        id = queue.send("task", priority=5, due=due)
        before = inspection.find(queue.backend, id)
        here.stay(here.leave([id]))
        assert inspection.find(queue.backend, id) == before
        queue.clock.advance(30)
        assert queue.order(1) == ["task"]

    def test_put_aside(self, queue: Queue, here: Depot) -> None:
        """A task that must not leave, because it is damaged or unsigned, can become corrupt with the reason."""
        id = queue.send("task")
        here.stay(here.leave([id]), "the reason")
        (entry,) = inspection.tasks(queue.backend)
        assert (entry.state, entry.reason, entry.attempts) == (State.CORRUPT, "the reason", 0)

    def test_damage_is_carried_as_it_is(self, queue: Queue, here: Depot, there: MemoryBackend) -> None:
        """The bytes of a damaged task are returned unchanged. The caller decides what to do with it."""
        id = queue.send("task", payload="x" * 100)
        self.damage(queue.backend, id)
        queue.clock.advance(_MINUTE)
        (parcel,) = here.leave([id])
        assert parcel.data[:4] == there_bytes("task", "x" * 100)[:4]
        assert parcel.data != there_bytes("task", "x" * 100)

    def test_accepted_is_not_yet_here(self, queue: Queue, here: Depot) -> None:
        """A staged task is neither listed nor run before the commit."""
        here.accept([parcel("one")])
        assert queue.labels() == []
        assert sum(queue.backend.counts().tasks.values()) == 0
        assert begins_nothing(queue)
        here.confirm([parcel("one")])
        assert queue.order(1) == ["one"]

    def test_offered_again(self, queue: Queue, here: Depot) -> None:
        """A task is stored once, however often it is staged and committed, even after it has run."""
        here.accept([parcel("one")])
        here.accept([parcel("one"), parcel("two")])
        here.confirm([parcel("one")])
        here.confirm([parcel("one"), parcel("two")])
        assert queue.order(2) == ["one", "two"]
        assert begins_nothing(queue)
        here.confirm([parcel("one"), parcel("two")])
        assert begins_nothing(queue)
        assert len(queue.labels()) == 2

    def test_confirmed_wakes(self, queue: Queue, here: Depot) -> None:
        """A feed is notified of arriving tasks, and hands them out in order among the others."""
        queue.look()
        queue.send("other")
        here.accept([parcel("first")._replace(due=queue.clock() - 10), parcel("urgent")._replace(priority=0)])
        here.confirm([parcel("first"), parcel("urgent")._replace(priority=0)])
        assert queue.order(3) == ["urgent", "first", "other"]

    @pytest.mark.parametrize("upto", _STEPS)
    def test_killed_on_the_way_here(self, queue: Queue, here: Depot, clock: FakeClock, upto: str) -> None:
        """After a kill at any step, repeating the transfer brings each task here exactly once."""
        there = MemoryBackend("there", clock=clock)
        ids = there.send([sealed(codec.encode(Message(f"task {number}"))) for number in range(3)])
        carry(there.depot, here, ids, upto)
        carry(there.depot, here, [])
        assert list(inspection.tasks(there)) == []
        assert sorted(queue.order(3)) == ["task 0", "task 1", "task 2"]
        assert begins_nothing(queue)

    @pytest.mark.parametrize("upto", _STEPS)
    def test_killed_on_the_way_away(
        self, queue: Queue, here: Depot, elsewhere: Backend, clock: FakeClock, tmp_path: Path, upto: str
    ) -> None:
        """After a kill at any step, the next process finds all tasks in transfer, and only those."""
        there = MemoryBackend("there", clock=clock)
        ids = [queue.send(f"task {number}", priority=number) for number in range(3)]
        stays = queue.send("stays")

        def begin() -> None:
            parcels = here.leave(ids)
            if upto in _STEPS[2:]:
                parcels = here.left(parcels, "there")
            if upto == "gone":
                here.gone(parcels)

        self.killed(queue.backend, begin)
        parcels = depot_of(elsewhere).departures()
        assert sorted(one.id for one in parcels) == ([] if upto == "gone" else sorted(ids))
        assert {one.destination for one in parcels} <= {"there" if upto in _STEPS[2:] else ""}
        assert len({one.key for one in parcels}) == len(parcels)
        there.depot.accept(parcels)
        depot_of(elsewhere).gone(depot_of(elsewhere).left(parcels, "there"))
        assert [entry.id for entry in inspection.tasks(elsewhere)] == [stays]
        assert depot_of(elsewhere).departures() == []

    def test_keys_stay(self, queue: Queue, here: Depot, elsewhere: Backend) -> None:
        """A process that continues a transfer sees a task under the same key."""
        id = queue.send("task")
        keys = []

        def begin() -> None:
            here.leave([id])

        self.killed(queue.backend, begin)
        for _ in range(2):
            (parcel,) = depot_of(elsewhere).departures()
            keys.append(parcel.key)
            elsewhere.close()
            self.sync(elsewhere)
        assert keys[0] == keys[1]

    def test_one_carries(self, queue: Queue, here: Depot, elsewhere: Backend) -> None:
        """No other process takes over a task that a live process is transferring."""
        if not queue.backend.capabilities.forks:
            pytest.skip("there is no other process")
        id = queue.send("task")
        parcels = here.leave([id])
        assert depot_of(elsewhere).departures() == []
        parcels = here.left(parcels, "there")
        assert depot_of(elsewhere).departures() == []
        here.gone(parcels)
        assert depot_of(elsewhere).departures() == []


def parcel(label: str) -> Parcel:
    """Return a task of another queue, due long ago."""
    due = 1_000_000.0 + sum(label.encode())
    return Parcel(f"key-of-{label}", "elsewhere/1", State.READY, there_bytes(label), None, due)


def there_bytes(label: str, payload: Any = None) -> bytes:
    """Return the wire form of a task."""
    return sealed(codec.encode(Message(label, payload))).data
