"""Listings of tasks, and changes of single tasks."""

import re

import pytest

from ...errors import TaskBusy
from ...lookup import find_ended, find_task
from ...message import Ack, Bury, Record, Refusal, RefusalKind, Retry, State
from ..exchange import claim_one
from .harness import Ground, Queue

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


class ListingTests(Ground):
    """``Backend.entries``, ``counts``, ``find``, ``read``, ``retry`` and ``remove``."""

    def test_states(self, queue: Queue) -> None:
        """Each task is found in its state, under the id that it was sent with."""
        ids = one_of_each(queue)
        assert {state: queue.state(id) for state, id in ids.items()} == {state: state for state in State}

    def test_counts_agree_with_entries(self, queue: Queue) -> None:
        """Counts and listings agree."""
        one_of_each(queue)
        queue.send("one more", priority=1)
        entries = list(queue.backend.entries())
        counts = {state: sum(entry.state is state for entry in entries) for state in State}
        assert counts == queue.backend.counts()
        assert counts == dict.fromkeys(State, 1) | {State.READY: 2}

    def test_the_oldest_ready_task(self, queue: Queue) -> None:
        """The oldest ready task is the one that was due first, whatever its priority."""
        assert queue.backend.summary().oldest is None
        queue.send("dead")
        queue.end(queue.begin(), Bury("gave up"))
        queue.send("running")
        claim = queue.begin()
        first = queue.send("first", priority=9)
        queue.send("second", priority=0)
        queue.send("deferred", due=queue.clock() + 1000)
        entry = queue.backend.find(first)
        assert entry is not None
        summary = queue.backend.summary()
        assert summary.counts == queue.backend.counts()
        assert summary.oldest == pytest.approx(entry.due, abs=0.001)
        queue.clock.advance(10)
        queue.end(claim, Retry(queue.clock() + 5))
        queue.backend.remove(first)
        queue.clock.advance(6)
        entry = next(one for one in queue.backend.entries() if one.task == "second")
        assert queue.backend.summary().oldest == pytest.approx(entry.due, abs=0.001)

    def test_entries_of_chosen_states(self, queue: Queue) -> None:
        """A listing shows the requested states and no others."""
        one_of_each(queue)
        for state in State:
            assert queue.labels(state) == [str(state)]
        assert queue.labels(State.DEAD, State.READY) == ["ready", "dead"]
        assert list(queue.backend.entries(frozenset())) == []

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
            assert [entry.task for entry in queue.backend.entries(limit=limit)] == whole[:limit]

    def test_what_an_entry_tells(self, queue: Queue) -> None:
        """Label, priority, due time, size, spooler and id of a task are those it was sent with."""
        due = queue.clock() + 77
        id = queue.send("label", priority=6, due=due, payload="p" * 500)
        (entry,) = queue.backend.entries()
        assert (entry.id, entry.task, entry.priority, entry.state) == (id, "label", 6, State.DEFERRED)
        assert (entry.spooler, entry.attempts, entry.reason) == (queue.backend.name, 0, "")
        assert entry.due == pytest.approx(due, abs=0.001)
        assert entry.size > 500
        assert queue.backend.find(id) == entry

    def test_listed_ids_are_understood(self, queue: Queue) -> None:
        """The id in a listing finds its task, even if it differs from the id that the task was sent with."""
        one_of_each(queue)
        for entry in queue.backend.entries():
            assert queue.backend.find(entry.id) == entry

    def test_short_ids(self, queue: Queue) -> None:
        """The short form of an id finds the task in each state, after a retry, and among the runs that ended."""
        ids, backend = one_of_each(queue), queue.backend
        for entry in [*backend.entries()]:
            short = backend.short(entry.id)
            assert re.fullmatch("[A-Za-z0-9_-]{1,63}", short), short
            assert find_task(short, [backend]) == (backend, entry)
        short = backend.short(ids[State.DEFERRED])
        assert find_ended(short, [backend]) is None
        renewed = backend.retry(ids[State.DEFERRED])
        assert find_task(short, [backend]) == (backend, backend.find(renewed))
        backend.record([Record(renewed, "task", "processed", 1, queue.clock(), 0.5, 1234)])
        backend.remove(renewed)
        assert find_task(short, [backend]) is None
        assert find_ended(short, [backend]) == (backend, [renewed])

    def test_find_what_is_not_there(self, queue: Queue) -> None:
        """Tasks that have ended and tasks that never existed are None."""
        id = queue.send("task")
        queue.end(queue.begin(), Ack())
        assert queue.backend.find(id) is None
        assert queue.backend.read(id) is None
        assert queue.backend.find("no such thing") is None
        assert queue.backend.read("no such thing") is None

    def test_read(self, queue: Queue) -> None:
        """Reading returns the envelope too, in every state, and does not disturb a run."""
        ids = one_of_each(queue)
        for state, id in ids.items():
            found = queue.backend.read(id)
            assert found is not None
            entry, envelope = found
            assert entry.state is state
            assert envelope is not None
            assert envelope.vars["msg"] == str(state).encode()
        running = queue.backend.find(ids[State.RUNNING])
        assert running is not None
        assert (running.state, running.attempts) == (State.RUNNING, 1)

    def test_reading_leaves_the_claim_alone(self, queue: Queue) -> None:
        """A claimed task stays claimed after any kind of reading."""
        id = queue.send("task")
        claim = queue.begin()
        queue.backend.read(id)
        queue.backend.find(id)
        list(queue.backend.entries())
        queue.backend.counts()
        refusal = claim_one(queue.backend, claim.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.BUSY

    def test_read_damaged(self, queue: Queue) -> None:
        """A damaged task has an entry and no envelope."""
        id = queue.send("task", payload="x" * 100)
        self.damage(queue.backend, id)
        found = queue.backend.read(id)
        assert found is not None
        assert found[1] is None

    @pytest.mark.parametrize("state", [State.READY, State.DEFERRED, State.DEAD, State.CORRUPT])
    def test_retry_makes_ready(self, queue: Queue, state: State) -> None:
        """A waiting task or a dead letter becomes ready now, under the id that is returned, without a reason."""
        id = queue.backend.retry(one_of_each(queue)[state])
        entry = queue.backend.find(id)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.reason) == (State.READY, 0, "")
        assert entry.due <= queue.clock()
        assert str(state) in queue.labels(State.READY)
        assert queue.backend.counts()[State.READY] == (1 if state is State.READY else 2)

    def test_retry_by_the_listed_id(self, queue: Queue) -> None:
        """The id that a listing shows for a dead letter can be retried too."""
        one_of_each(queue)
        (entry,) = queue.backend.entries(frozenset({State.DEAD}))
        assert queue.state(queue.backend.retry(entry.id)) is State.READY
        assert queue.labels(State.DEAD) == []

    def test_retry_counts_afresh(self, queue: Queue) -> None:
        """Earlier attempts and crashes no longer count."""
        id = queue.send("task")
        queue.crash(queue.take()[0].ref)
        queue.end(queue.begin(), Retry(queue.clock() + 100))
        queue.backend.retry(id)
        queue.clock.advance(100)
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (1, 0)

    def test_a_retried_task_runs(self, queue: Queue) -> None:
        """After a retry, a dead letter is handed out and can be processed."""
        id = queue.send("task")
        queue.end(queue.begin(), Bury("gave up"))
        id = queue.backend.retry(id)
        queue.end(queue.begin(), Ack())
        assert queue.state(id) is None

    @pytest.mark.parametrize("state", [State.READY, State.DEFERRED, State.DEAD, State.CORRUPT])
    def test_remove(self, queue: Queue, state: State) -> None:
        """A task that is not running is deleted in any state. The others stay."""
        ids = one_of_each(queue)
        queue.backend.remove(ids[state])
        assert queue.state(ids[state]) is None
        assert queue.backend.counts() == dict.fromkeys(State, 1) | {state: 0}

    def test_changes_while_listing(self, queue: Queue) -> None:
        """Tasks may be removed or retried while a listing is read. Each is seen once."""
        one_of_each(queue)
        for number in range(5):
            queue.send(f"ready {number}")
        seen = []
        for entry in queue.backend.entries(frozenset(State) - {State.RUNNING}):
            seen.append(entry.task)
            if entry.state is State.READY:
                queue.backend.remove(entry.id)
            else:
                queue.backend.retry(entry.id)
        assert len(seen) == len(set(seen)) == 9
        assert sorted(queue.labels(State.READY)) == ["corrupt", "dead", "deferred"]

    def test_running_ones_are_left_alone(self, queue: Queue) -> None:
        """A running task can be neither retried nor removed, and continues."""
        id = queue.send("task")
        claim = queue.begin()
        with pytest.raises(TaskBusy):
            queue.backend.retry(id)
        with pytest.raises(TaskBusy):
            queue.backend.remove(id)
        assert queue.state(id) is State.RUNNING
        assert queue.end(claim, Ack()) is None

    @pytest.mark.parametrize(
        "id",
        ["", "a\0b", "{name}/a\0b", "{name}\0/{ref}", "\ud83d", "{name}/\udcff", "{name}/", "{name}", "..", "x" * 5000],
    )
    def test_an_id_that_no_task_has(self, queue: Queue, id: str) -> None:
        """No text as an id finds, changes or waits for a task, or raises another error."""
        ref = queue.send("task").removeprefix(f"{queue.backend.name}/")
        id = id.format(name=queue.backend.name, ref=ref)
        assert queue.backend.find(id) is None
        assert queue.backend.read(id) is None
        assert queue.backend.history(id=id) == []
        with pytest.raises(LookupError):
            queue.backend.retry(id)
        with pytest.raises(LookupError):
            queue.backend.remove(id)
        assert queue.labels() == ["task"]

    def test_nothing_to_retry_or_remove(self, queue: Queue) -> None:
        """A task that does not exist raises LookupError."""
        id = queue.send("task")
        queue.end(queue.begin(), Ack())
        for missing in (id, "no such thing"):
            with pytest.raises(LookupError):
                queue.backend.retry(missing)
            with pytest.raises(LookupError):
                queue.backend.remove(missing)
