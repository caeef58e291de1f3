"""Changes of single tasks."""

import pytest

from ... import inspection
from ...backends.change import Change, Remove, Reprioritise, RunNow
from ...errors import OptionRefused, TaskBusy
from ...message import Ack, Bury, Retry, State
from .harness import BackendTests, Queue
from .listing import one_of_each

__all__ = ["ChangeTests"]

IDLE = [State.READY, State.DEFERRED, State.DEAD, State.CORRUPT]
CHANGES: list[Change] = [RunNow(), Remove(), Reprioritise(3)]


class ChangeTests(BackendTests):
    """``Backend.change``."""

    @pytest.mark.parametrize("state", IDLE)
    def test_retry_makes_ready(self, queue: Queue, state: State) -> None:
        """A waiting task or a dead letter becomes ready now, under the id that is returned, without a reason."""
        id = queue.backend.change(one_of_each(queue)[state], RunNow())
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.reason) == (State.READY, 0, "")
        assert entry.due <= queue.clock()
        assert str(state) in queue.labels(State.READY)
        assert queue.backend.counts().tasks[State.READY] == (1 if state is State.READY else 2)

    def test_retry_by_the_listed_id(self, queue: Queue) -> None:
        """The id that a listing shows for a dead letter can be retried too."""
        one_of_each(queue)
        (entry,) = inspection.tasks(queue.backend, frozenset({State.DEAD}))
        assert queue.state(queue.backend.change(entry.id, RunNow())) is State.READY
        assert queue.labels(State.DEAD) == []

    def test_retry_counts_afresh(self, queue: Queue) -> None:
        """Earlier attempts and crashes no longer count."""
        id = queue.send("task")
        queue.crash(queue.take()[0].ref)
        queue.end(queue.begin(), Retry(queue.clock() + 100))
        queue.backend.change(id, RunNow())
        queue.clock.advance(100)
        claim = queue.begin()
        assert (claim.attempts, claim.crashes) == (1, 0)

    def test_a_retried_task_runs(self, queue: Queue) -> None:
        """After a retry, a dead letter is handed out and can be processed."""
        id = queue.send("task")
        queue.end(queue.begin(), Bury("gave up"))
        id = queue.backend.change(id, RunNow())
        queue.end(queue.begin(), Ack())
        assert queue.state(id) is None

    @pytest.mark.parametrize("state", IDLE)
    def test_remove(self, queue: Queue, state: State) -> None:
        """A task that is not running is deleted in any state. The others stay."""
        ids = one_of_each(queue)
        queue.backend.change(ids[state], Remove())
        assert queue.state(ids[state]) is None
        assert queue.backend.counts().tasks == dict.fromkeys(State, 1) | {state: 0}

    def test_changes_while_listing(self, queue: Queue) -> None:
        """Tasks may be removed or retried while a listing is read. Each is seen once."""
        one_of_each(queue)
        for number in range(5):
            queue.send(f"ready {number}")
        seen = []
        for entry in inspection.tasks(queue.backend, frozenset(State) - {State.RUNNING}):
            seen.append(entry.task)
            if entry.state is State.READY:
                queue.backend.change(entry.id, Remove())
            else:
                queue.backend.change(entry.id, RunNow())
        assert len(seen) == len(set(seen)) == 9
        assert sorted(queue.labels(State.READY)) == ["corrupt", "dead", "deferred"]

    def test_running_ones_are_left_alone(self, queue: Queue) -> None:
        """A running task cannot be changed, and continues."""
        id = queue.send("task")
        claim = queue.begin()
        for change in CHANGES:
            with pytest.raises(TaskBusy):
                queue.backend.change(id, change)
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
        assert inspection.find(queue.backend, id) is None
        assert inspection.find_pieces(queue.backend, id) == []
        assert inspection.read(queue.backend, id) is None
        assert id == "" or inspection.runs(queue.backend, id) == []
        for change in CHANGES:
            with pytest.raises(LookupError):
                queue.backend.change(id, change)
        assert queue.labels() == ["task"]

    def test_nothing_to_retry_or_remove(self, queue: Queue) -> None:
        """A task that does not exist raises LookupError."""
        id = queue.send("task")
        queue.end(queue.begin(), Ack())
        for missing in (id, "no such thing"):
            for change in CHANGES:
                with pytest.raises(LookupError):
                    queue.backend.change(missing, change)

    @pytest.mark.parametrize("state", IDLE)
    @pytest.mark.parametrize("priority", [0, 9, None])
    def test_another_priority(self, queue: Queue, state: State, priority: int | None) -> None:
        """A task in any state but running gets another priority, under the id that is returned. The rest stays."""
        before = inspection.find(queue.backend, one_of_each(queue)[state])
        assert before is not None
        middle = queue.backend.change(before.id, Reprioritise(5))
        id = queue.backend.change(middle, Reprioritise(priority))
        after = inspection.find(queue.backend, id)
        assert after is not None
        assert after._replace(id=before.id) == before._replace(priority=priority)
        assert queue.backend.counts().tasks == dict.fromkeys(State, 1)
        assert [entry.id for entry in inspection.tasks(queue.backend, frozenset({state}))] == [id]

    def test_the_order_after_another_priority(self, queue: Queue) -> None:
        """Tasks start in the order of their new priorities."""
        for label in ("first", "second", "third"):
            queue.send(label, priority=5)
        last, early = [entry.id for entry in inspection.tasks(queue.backend)][::2]
        queue.backend.change(last, Reprioritise(None))
        queue.backend.change(early, Reprioritise(1))
        assert queue.labels() == ["third", "second", "first"]
        assert queue.order(3) == ["third", "second", "first"]

    def test_another_priority_keeps_the_attempts(self, queue: Queue) -> None:
        """Attempts and crashes count as before, whether the last run has failed or crashed."""
        id = queue.send("task")
        queue.end(queue.begin(), Retry(queue.clock() + 10))
        id = queue.backend.change(id, Reprioritise(1))
        queue.clock.advance(10)
        queue.crash(queue.take()[0].ref)
        id = queue.backend.change(id, Reprioritise(2))
        claim = queue.begin()
        assert (claim.id, claim.attempts, claim.crashes) == (id, 3, 1)
        assert claim.envelope.priority == 2

    @pytest.mark.parametrize("priority", [-1, 10**9, True, "1", 1.5])
    def test_what_is_no_priority(self, priority: object) -> None:
        """No other value can be given as a priority."""
        with pytest.raises(OptionRefused, match="priority"):
            Reprioritise(priority)  # type: ignore[arg-type]
