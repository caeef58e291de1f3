"""Unique tasks: a key belongs to one task of the queue."""

from uuid import uuid4

import pytest

from ... import codec, inspection
from ...backends.base import Backend
from ...backends.change import Remove, Reprioritise, RunNow
from ...backends.depot import Movable
from ...errors import TaskBusy
from ...message import Ack, Bury, Duplicate, Envelope, Message, Release, Retry, State, Unique
from ..clock import FakeClock
from ..exchange import claim_one, sealed
from .child import child, kill
from .harness import TICK, BackendTests, Queue

__all__ = ["UniqueTests"]

KEY = "0123456789abcdef" * 2


def unique(key: str = KEY, *, due: float | None = None, priority: int | None = None, **more: float) -> Envelope:
    """Return a task with a key."""
    envelope = sealed(codec.encode(Message("unique", None, None, priority, due)))
    return envelope._replace(unique=Unique(key, bool(more.get("start")), more.get("until", float("inf"))))


class UniqueTests(BackendTests):
    """``Envelope.unique``."""

    @pytest.fixture
    def keyed(self, backend: Backend) -> Backend:
        """Return the backend under test, if it has unique tasks."""
        if not backend.capabilities.unique:
            pytest.skip("this backend has no unique tasks")
        return backend

    @pytest.fixture
    def keyed_queue(self, keyed: Backend, queue: Queue) -> Queue:
        """Return the backend under test with a feed, if it has unique tasks."""
        return queue

    def test_unique_a_duplicate_is_not_stored(self, keyed: Backend, clock: FakeClock) -> None:
        """A task whose key a waiting task has is not stored, and its id is the other's. Other keys are not affected."""
        (first,) = keyed.send([unique()])
        clock.advance(TICK)
        (second,) = keyed.send([unique()])
        (other,) = keyed.send([unique("f" * 32)])
        assert second == first != other
        assert [isinstance(id, Duplicate) for id in (first, second, other)] == [False, True, False]
        assert sum(keyed.counts().tasks.values()) == 2

    def test_unique_within_a_batch(self, keyed: Backend) -> None:
        """In one batch, the first task of a key is stored. Tasks without a key are stored in any case."""
        plain = sealed(codec.encode(Message("plain")))
        ids = keyed.send([plain, unique(), plain, unique(), plain])
        assert [isinstance(id, Duplicate) for id in ids] == [False, False, False, True, False]
        assert ids[1] == ids[3]
        assert len(set(ids)) == 4 == sum(keyed.counts().tasks.values())

    def test_unique_deferred_and_prioritised(self, keyed: Backend, clock: FakeClock) -> None:
        """A deferred task has its key, whatever the priority and due time of the duplicate."""
        (first,) = keyed.send([unique(due=clock() + 60, priority=3)])
        assert keyed.send([unique()]) == [first]
        assert keyed.send([unique(priority=1)]) == [first]

    def test_unique_until_done(self, keyed_queue: Queue) -> None:
        """A key is free once its task has left the queue, and not while it runs or waits for a retry."""
        (first,) = keyed_queue.backend.send([unique()])
        claim = keyed_queue.begin()
        assert keyed_queue.backend.send([unique()]) == [first]
        keyed_queue.end(claim, Retry(keyed_queue.clock()))
        assert keyed_queue.backend.send([unique()]) == [first]
        claim = keyed_queue.begin()
        keyed_queue.end(claim, Ack())
        (second,) = keyed_queue.backend.send([unique()])
        assert second != first
        assert keyed_queue.state(second) in (State.READY, State.DEFERRED)

    def test_unique_until_start(self, keyed_queue: Queue) -> None:
        """A key that is free at the start belongs to the next task as soon as the first one runs, and stays with it."""
        (first,) = keyed_queue.backend.send([unique(start=True)])
        assert keyed_queue.backend.send([unique(start=True)]) == [first]
        claim = keyed_queue.begin()
        keyed_queue.clock.advance(TICK)
        (second,) = keyed_queue.backend.send([unique(start=True)])
        assert second != first
        assert keyed_queue.backend.send([unique(start=True)]) == [second]
        keyed_queue.end(claim, Retry(keyed_queue.clock() + 60))
        assert keyed_queue.backend.send([unique(start=True)]) == [second]

    def test_unique_until_a_time(self, keyed: Backend, clock: FakeClock) -> None:
        """A key is free from its time on, although its task waits."""
        until = clock() + 60
        (first,) = keyed.send([unique(until=until, due=clock() + 1000)])
        clock.advance(59)
        assert keyed.send([unique(until=until)]) == [first]
        clock.advance(1.5)
        (second,) = keyed.send([unique()])
        assert second != first
        assert keyed.send([unique()]) == [second]

    def test_unique_after_removal(self, keyed: Backend) -> None:
        """A removed task has no key."""
        (first,) = keyed.send([unique()])
        keyed.change(first, Remove())
        (second,) = keyed.send([unique()])
        assert second != first

    def test_unique_after_a_change(self, keyed: Backend, clock: FakeClock) -> None:
        """A task keeps its key when it gets another priority or becomes ready, also under a new id."""
        (id,) = keyed.send([unique(due=clock() + 60)])
        id = keyed.change(id, Reprioritise(2))
        assert keyed.send([unique()]) == [id]
        id = keyed.change(id, RunNow())
        assert keyed.send([unique()]) == [id]

    def test_unique_dead(self, keyed_queue: Queue) -> None:
        """A dead letter has no key. It cannot be retried while another task has the key, and takes it again."""
        keyed_queue.backend.send([unique()])
        keyed_queue.end(keyed_queue.begin(), Bury("broken"))
        (dead,) = (entry.id for entry in inspection.tasks(keyed_queue.backend, frozenset({State.DEAD})))
        keyed_queue.clock.advance(TICK)
        (second,) = keyed_queue.backend.send([unique()])
        with pytest.raises(TaskBusy, match="kept out by") as refused:
            keyed_queue.backend.change(dead, RunNow())
        assert second in str(refused.value)
        keyed_queue.backend.change(second, Remove())
        again = keyed_queue.backend.change(dead, RunNow())
        assert keyed_queue.backend.send([unique()]) == [again]

    def test_unique_put_back(self, keyed_queue: Queue) -> None:
        """A task that is put back keeps its key."""
        (first,) = keyed_queue.backend.send([unique()])
        keyed_queue.end(keyed_queue.begin(), Release(crashed=False))
        assert keyed_queue.backend.send([unique()]) == [first]
        keyed_queue.crash(keyed_queue.take()[0].ref)
        assert keyed_queue.backend.send([unique()]) == [first]

    def test_unique_another_process(self, keyed_queue: Queue, other: Backend) -> None:
        """A key is known to all processes of the queue."""
        (first,) = keyed_queue.backend.send([unique()])
        assert other.send([unique()]) == [first]
        keyed_queue.end(keyed_queue.begin(), Ack())
        (second,) = other.send([unique()])
        assert keyed_queue.backend.send([unique()]) == [second]

    def test_unique_many_processes(self, keyed_queue: Queue, other: Backend) -> None:
        """Of several processes that send the same keys at once, one stores each task."""
        keys = [uuid4().hex for _ in range(8)]

        def send() -> None:
            other.send([unique(key) for key in keys])

        children = [child(send, wait=False) for _ in range(3)]
        pids = [one.__enter__() for one in children]
        for key in reversed(keys):
            other.send([unique(key)])
        for one in children:
            one.__exit__(None, None, None)
        other.send([unique(key) for key in keys])
        assert pids
        assert sum(keyed_queue.backend.counts().tasks.values()) == len(keys)

    def test_unique_killed_sender(self, keyed_queue: Queue, other: Backend) -> None:
        """The task of a killed sender keeps its key."""
        with child(lambda: other.send([unique()])) as pid:
            kill(pid)
        self.sync(keyed_queue.backend)
        (found,) = keyed_queue.backend.send([unique()])
        assert isinstance(found, Duplicate)
        assert not isinstance(claim_one(keyed_queue.backend, keyed_queue.take()[0].ref), Duplicate)

    def test_unique_transfer(self, keyed: Backend, clock: FakeClock) -> None:
        """A task takes its key along. If another task has the key at the destination, that task keeps it."""
        if not isinstance(keyed, Movable):
            pytest.skip("the tasks of this backend cannot be moved")
        (first,) = keyed.send([unique()])
        parcels = keyed.depot.leave([first])
        assert [one.unique for one in parcels] == [Unique(KEY)]
        keyed.depot.stay(parcels)
        assert keyed.send([unique()]) == [first]
        parcels = keyed.depot.leave([first])
        noted = [one._replace(key="a" * 32, unique=Unique("e" * 32)) for one in parcels]
        keyed.depot.accept(noted)
        keyed.depot.confirm(noted)
        (moved,) = keyed.send([unique("e" * 32)])
        assert isinstance(moved, Duplicate)
        twins = [one._replace(key="b" * 32, unique=Unique("e" * 32)) for one in parcels]
        keyed.depot.accept(twins)
        keyed.depot.confirm(twins)
        assert keyed.send([unique("e" * 32)]) == [moved]
