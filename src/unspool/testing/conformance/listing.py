"""Listings of tasks."""

import re

import pytest

from ... import inspection
from ...backends.change import Remove, RunNow
from ...lookup import find_ended, find_task
from ...message import Ack, Bury, Record, Refusal, RefusalKind, Retry, State
from ...task_id import short_id
from ..exchange import claim_one
from .harness import BackendTests, Queue

__all__ = ["ListingTests"]


def one_of_each(queue: Queue) -> dict[State, str]:
    """Return tasks in all states, by their ids when they were sent."""
    ids = {}
    for state, bury in [(State.DEAD, Bury("gave up")), (State.CORRUPT, Bury("torn", corrupt=True))]:
        ids[state] = queue.send(str(state))
        queue.end(queue.begin(), bury)
    ids[State.RUNNING] = queue.send("running")
    queue.begin()
    ids[State.READY] = queue.send("ready")
    ids[State.DEFERRED] = queue.send("deferred", due=queue.clock() + 1000)
    return ids


class ListingTests(BackendTests):
    """``Backend.page`` for tasks, and ``Backend.counts``."""

    def test_states(self, queue: Queue) -> None:
        """Each task is found in its state, under the id that it was sent with."""
        ids = one_of_each(queue)
        assert {state: queue.state(id) for state, id in ids.items()} == {state: state for state in State}

    def test_counts_agree_with_entries(self, queue: Queue) -> None:
        """Counts and listings agree."""
        one_of_each(queue)
        queue.send("one more", priority=1)
        entries = list(inspection.tasks(queue.backend))
        counts = {state: sum(entry.state is state for entry in entries) for state in State}
        assert counts == queue.backend.counts().tasks
        assert counts == dict.fromkeys(State, 1) | {State.READY: 2}

    def test_the_oldest_ready_task(self, queue: Queue) -> None:
        """The oldest ready task is the one that was due first, whatever its priority."""
        assert queue.backend.counts().oldest is None
        queue.send("dead")
        queue.end(queue.begin(), Bury("gave up"))
        queue.send("running")
        claim = queue.begin()
        first = queue.send("first", priority=9)
        queue.send("second", priority=0)
        queue.send("deferred", due=queue.clock() + 1000)
        entry = inspection.find(queue.backend, first)
        assert entry is not None
        assert queue.backend.counts().oldest == pytest.approx(entry.due, abs=0.001)
        queue.clock.advance(10)
        queue.end(claim, Retry(queue.clock() + 5))
        queue.backend.change(first, Remove())
        queue.clock.advance(6)
        entry = next(one for one in inspection.tasks(queue.backend) if one.task == "second")
        assert queue.backend.counts().oldest == pytest.approx(entry.due, abs=0.001)

    def test_counts_by_label(self, queue: Queue) -> None:
        """Tasks are also counted by label, in whatever state."""
        assert queue.backend.counts("label").tasks == {}
        one_of_each(queue)
        queue.send("ready", priority=1)
        expected = dict.fromkeys(map(str, State), 1) | {"ready": 2}
        assert queue.backend.counts("label").tasks == expected

    def test_entries_of_chosen_states(self, queue: Queue) -> None:
        """A listing shows the requested states and no others."""
        one_of_each(queue)
        for state in State:
            assert queue.labels(state) == [str(state)]
        assert queue.labels(State.DEAD, State.READY) == ["ready", "dead"]
        assert list(inspection.tasks(queue.backend, frozenset())) == []

    def test_order(self, queue: Queue) -> None:
        """Running tasks come first, then ready ones in order of execution, then deferred ones by due time, then dead
        letters."""
        start = queue.clock()
        one_of_each(queue)
        queue.send("ready 5", priority=5)
        queue.send("ready 0", priority=0)
        queue.send("ready 5 again", priority=5)
        queue.send("deferred 9", priority=9, due=start + 500)
        queue.send("deferred 0", priority=0, due=start + 2000)
        assert queue.labels() == [
            "running",
            *("ready 0", "ready 5", "ready 5 again", "ready"),
            *("deferred 9", "deferred", "deferred 0"),
            *("dead", "corrupt"),
        ]

    def test_order_after_a_failure(self, queue: Queue) -> None:
        """A failed task is listed by its new due time."""
        queue.send("failed")
        queue.end(queue.begin(), Retry(queue.clock() + 10))
        queue.send("before")
        queue.clock.advance(20)
        queue.send("after")
        assert queue.labels(State.READY) == ["before", "failed", "after"]

    def test_limited_listing(self, queue: Queue) -> None:
        """A limited listing is the beginning of the complete one."""
        one_of_each(queue)
        whole = queue.labels()
        for limit in range(len(whole) + 2):
            assert [entry.task for entry in inspection.tasks(queue.backend, limit=limit)] == whole[:limit]

    def test_values_of_an_entry(self, queue: Queue) -> None:
        """Label, priority, due time, size, spooler and id of a task are those it was sent with."""
        due = queue.clock() + 77
        id = queue.send("label", priority=6, due=due, payload="p" * 500)
        (entry,) = inspection.tasks(queue.backend)
        assert (entry.id, entry.task, entry.priority, entry.state) == (id, "label", 6, State.DEFERRED)
        assert (entry.spooler, entry.attempts, entry.reason) == (queue.backend.name, 0, "")
        assert entry.due == pytest.approx(due, abs=0.001)
        assert entry.size > 500
        assert inspection.find(queue.backend, id) == entry

    def test_listed_ids_are_understood(self, queue: Queue) -> None:
        """The id in a listing finds its task, even if it differs from the id that the task was sent with."""
        one_of_each(queue)
        for entry in inspection.tasks(queue.backend):
            assert inspection.find(queue.backend, entry.id) == entry

    def test_short_ids(self, queue: Queue) -> None:
        """The short form of an id finds the task in each state, also after a retry, and its runs in the history."""
        ids, backend = one_of_each(queue), queue.backend
        for entry in [*inspection.tasks(backend)]:
            short = short_id(entry.id)
            assert re.fullmatch("[A-Za-z0-9_-]{1,63}", short), short
            assert find_task(short, [backend]) == (backend, entry)
        short = short_id(ids[State.DEFERRED])
        assert find_ended(short, [backend]) is None
        renewed = backend.change(ids[State.DEFERRED], RunNow())
        assert find_task(short, [backend]) == (backend, inspection.find(backend, renewed))
        backend.record([Record(renewed, "task", "processed", 1, queue.clock(), 0.5, 1234)])
        backend.change(renewed, Remove())
        assert find_task(short, [backend]) is None
        assert find_ended(short, [backend]) == (backend, [renewed])

    def test_find_a_missing_task(self, queue: Queue) -> None:
        """For a task that has ended or never existed, ``find`` and ``read`` return None."""
        id = queue.send("task")
        queue.end(queue.begin(), Ack())
        assert inspection.find(queue.backend, id) is None
        assert inspection.read(queue.backend, id) is None
        assert inspection.find(queue.backend, "no such thing") is None
        assert inspection.read(queue.backend, "no such thing") is None

    def test_read(self, queue: Queue) -> None:
        """Reading returns the envelope too, in every state, and does not disturb a run."""
        ids = one_of_each(queue)
        for state, id in ids.items():
            found = inspection.read(queue.backend, id)
            assert found is not None
            entry, envelope = found
            assert entry.state is state
            assert envelope is not None
            assert envelope.vars["msg"] == str(state).encode()
        running = inspection.find(queue.backend, ids[State.RUNNING])
        assert running is not None
        assert (running.state, running.attempts) == (State.RUNNING, 1)

    def test_reading_leaves_the_claim_alone(self, queue: Queue) -> None:
        """A claimed task stays claimed after any kind of reading."""
        id = queue.send("task")
        claim = queue.begin()
        inspection.read(queue.backend, id)
        inspection.find(queue.backend, id)
        list(inspection.tasks(queue.backend))
        queue.backend.counts()
        refusal = claim_one(queue.backend, claim.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.BUSY

    def test_read_damaged(self, queue: Queue) -> None:
        """A damaged task has an entry and no envelope."""
        id = queue.send("task", payload="x" * 100)
        self.damage(queue.backend, id)
        found = inspection.read(queue.backend, id)
        assert found is not None
        assert found[1] is None
