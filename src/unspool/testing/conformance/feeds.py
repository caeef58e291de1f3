"""Feeds: due tasks in order, each ticket once, and when to check again."""

from ... import codec
from ...backends.change import RunNow
from ...message import Ack, Message, Release, Retry, State
from ..exchange import content_of, sealed
from .harness import TICK, BackendTests, Queue

__all__ = ["FeedTests"]


class FeedTests(BackendTests):
    """``Feed``."""

    def test_priorities(self, queue: Queue) -> None:
        """Smaller numbers run first, and tasks without one after all numbers."""
        for label, priority in [("none", None), ("ten", 10), ("two", 2), ("zero", 0), ("most", 999_999_999)]:
            queue.send(label, priority=priority)
        assert queue.order(5) == ["zero", "two", "ten", "most", "none"]

    def test_first_in_first_out(self, queue: Queue) -> None:
        """Of two tasks with the same priority, the one sent first runs first."""
        labels = [f"task {number}" for number in range(30)]
        for label in labels:
            queue.send(label, priority=3)
        assert queue.order(30) == labels

    def test_batches_keep_their_order(self, queue: Queue) -> None:
        """Tasks that are sent in one batch run in the order of the batch."""
        labels = [f"task {number}" for number in range(30)]
        queue.backend.send([sealed(codec.encode(Message(label))) for label in labels])
        queue.clock.advance(TICK)
        assert queue.order(30) == labels

    def test_deferred_ones_run_in_the_order_of_their_due_times(self, queue: Queue) -> None:
        """The due time decides the order, not the time of sending."""
        start = queue.clock()
        for label, seconds in [("third", 30.0), ("first", 10.0), ("second", 20.0)]:
            queue.send(label, due=start + seconds)
        queue.clock.advance(25)
        queue.send("fourth")
        queue.clock.advance(10)
        assert queue.order(4) == ["first", "second", "fourth", "third"]

    def test_a_later_task_of_higher_priority_overtakes(self, queue: Queue) -> None:
        """An urgent task overtakes all tasks that have not been handed out yet."""
        queue.send("first")
        queue.send("second")
        assert queue.order(1) == ["first"]
        queue.send("urgent", priority=1)
        assert queue.order(2) == ["urgent", "second"]

    def test_never_early(self, queue: Queue) -> None:
        """A deferred task is not handed out before its time, and is handed out then."""
        queue.send("later", due=queue.clock() + 100)
        assert queue.gives_nothing()
        queue.clock.advance(90)
        assert queue.gives_nothing()
        queue.clock.advance(10)
        assert queue.order(1) == ["later"]

    def test_next_due(self, queue: Queue) -> None:
        """``next_due`` is not after the first due time, so a caller that sleeps until then is not late."""
        due = queue.clock() + 100
        queue.send("later", due=due)
        following = queue.look().next_due
        assert following is not None
        assert following <= due

    def test_hands_out_once(self, queue: Queue) -> None:
        """A ticket is handed out once, and no more tickets than requested are."""
        for number in range(5):
            queue.send(f"task {number}")
        first = queue.take(2)
        rest = queue.take(3)
        assert len({ticket.ref for ticket in first + rest}) == 5
        assert queue.gives_nothing()

    def test_gives_back(self, queue: Queue) -> None:
        """Tickets that were taken and not started are handed out again, in their former order."""
        for number in range(4):
            queue.send(f"task {number}")
        queue.feed.release(queue.take(2))
        assert queue.order(4) == ["task 0", "task 1", "task 2", "task 3"]

    def test_head(self, queue: Queue) -> None:
        """The head is the ticket that ``take`` returns. ``refresh`` takes none."""
        assert queue.look().head is None
        queue.send("low", priority=9)
        queue.send("high", priority=1)
        head = queue.look().head
        assert head is not None
        assert head == queue.look().head
        assert [head] == queue.take()

    def test_state_after_take(self, queue: Queue) -> None:
        """``after_take`` agrees with the next ``refresh``, except that it does not know the next head."""
        queue.send("first")
        queue.send("second")
        state = queue.look()
        assert queue.feed.take(1) == [state.head]
        after, fresh = state.after_take(1), queue.look()
        assert (after.ready, after.idle) == (fresh.ready, fresh.idle) == (1, False)
        assert after.head is None

    def test_tickets_sort_in_the_order_of_running(self, queue: Queue) -> None:
        """Tickets sort in the order of execution, so a supervisor of several queues can choose between them."""
        for label, priority in [("none", None), ("five", 5), ("zero", 0), ("five again", 5)]:
            queue.send(label, priority=priority)
        tickets = queue.take(4)
        assert tickets == sorted(tickets)

    def test_ready_and_idle(self, queue: Queue) -> None:
        """A feed is idle if no task is ready or handed out and its search is complete. Deferred tasks do not count."""
        queue.send("later", due=queue.clock() + 100)
        state = queue.look()
        assert (state.idle, state.ready) == (True, 0)
        queue.send("one")
        queue.send("two")
        state = queue.look()
        assert (state.idle, state.ready) == (False, 2)
        claims = [queue.begin(), queue.begin()]
        state = queue.look()
        assert (state.idle, state.ready) == (False, 0)
        for claim in claims:
            queue.end(claim, Ack())
        assert queue.look().idle

    def test_done_for_good(self, queue: Queue) -> None:
        """A task that ended is not handed out again."""
        queue.send("task")
        queue.end(queue.begin(), Ack())
        assert queue.gives_nothing()

    def test_done_until(self, queue: Queue) -> None:
        """A task that runs again is handed out at its time and not before."""
        queue.send("task")
        until = queue.end(queue.begin(), Retry(queue.clock() + 50))
        assert until is not None
        queue.clock.advance(40)
        assert queue.gives_nothing()
        queue.clock.advance(10)
        assert queue.order(1) == ["task"]

    def test_released_is_given_again(self, queue: Queue) -> None:
        """A task that was put back is handed out again at once."""
        queue.send("task")
        queue.end(queue.begin(), Release())
        assert queue.order(1) == ["task"]

    def test_recheck_finds_what_a_dead_worker_held(self, queue: Queue) -> None:
        """After a worker's death, its running task and its other tickets are handed out again."""
        queue.send("running")
        queue.send("handed out")
        running, _ = queue.take(2)
        queue.crash(running.ref)
        assert sorted(queue.order(2)) == ["handed out", "running"]

    def test_a_new_feed_sees_all(self, queue: Queue) -> None:
        """A new feed finds the existing tasks in order, except those that are running."""
        queue.send("low", priority=9)
        queue.send("high", priority=1)
        queue.send("later", due=queue.clock() + 50)
        assert queue.order(1) == ["high"]
        queue.feed.close()
        queue.feed = queue.backend.feed()
        assert queue.order(1) == ["low"]
        queue.clock.advance(50)
        assert queue.order(1) == ["later"]

    def test_paused(self, queue: Queue) -> None:
        """While the queue is paused, no task is handed out. All are handed out afterwards."""
        queue.send("task")
        assert not queue.look().paused
        queue.backend.switch(paused=True)
        state = queue.look()
        assert (state.paused, state.head, state.idle) == (True, None, True)
        assert queue.feed.take(1) == []
        queue.backend.switch(paused=False)
        assert queue.order(1) == ["task"]
        assert not queue.look().paused

    def test_retried_by_hand_is_given(self, queue: Queue) -> None:
        """A task that a user makes ready is handed out, whether it was deferred or a dead letter."""
        waiting = queue.send("waiting", due=queue.clock() + 1000)
        queue.look()
        queue.backend.change(waiting, RunNow())
        claim = queue.begin()
        assert codec.task_label(content_of(claim).vars) == "waiting"
        assert queue.labels(State.RUNNING) == ["waiting"]

    def test_is_there(self, queue: Queue) -> None:
        """A queue that exists is available."""
        assert queue.look().available
