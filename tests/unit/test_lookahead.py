"""The bounded lookahead: the order of a queue of any length, compared with a sorted list."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unspool.backends.base import Ticket
from unspool.backends.spool.lookahead import Lookahead

Operation = tuple[str, Any]
operations = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.tuples(st.integers(0, 3), st.integers(0, 40))),
        st.tuples(st.just("arrive many"), st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 12))),
        st.tuples(st.just("arrive unseen"), st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 12))),
        st.tuples(st.just("take"), st.integers(1, 8)),
        st.tuples(st.just("give back"), st.integers(1, 4)),
        st.tuples(st.just("settle"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(1, 15)),
    ),
    max_size=40,
)


def ticket(number: int, due: float = 0.0, rank: int = 0) -> Ticket:
    """Return a ticket with a unique ref."""
    return Ticket(rank, due, f"task{number:05}")


class Queue:
    """A directory as the owner of a lookahead sees it: a list of all waiting tasks, and scans of it."""

    def __init__(self, limit: int, selective: bool) -> None:
        self.window = Lookahead(limit)
        self.selective = selective
        self.limit = limit
        self.now = 0.0
        self.waiting: set[Ticket] = set()
        self.out: list[Ticket] = []
        self.made = 0
        self.most_out = 0

    def arrive(self, rank: int, due: float) -> None:
        """Report a new task by an event."""
        self.made += 1
        new = ticket(self.made, due, rank)
        self.waiting.add(new)
        self.window.add(new, self.now)

    def look(self) -> None:
        """Scan if the lookahead requests it, as a feed does before it hands out tickets."""
        self.window.promote(self.now)
        if self.window.lacking:
            self.rescan()
            assert not self.window.lacking, "one scan is enough"

    def rescan(self) -> None:
        """Scan as a feed does: the names are in order only at the end."""
        self.window.open_horizon()
        self.scan()
        self.window.lift_barrier()

    def scan(self) -> None:
        """Add all waiting tasks, or as many as there is room for."""
        unknown = [waiting for waiting in self.waiting if waiting.ref not in self.window]
        if not self.selective:
            for waiting in unknown:
                self.window.add(waiting, self.now)
            return
        room = self.window.room
        ready = sorted(waiting for waiting in unknown if waiting.due <= self.now)
        deferred = sorted((waiting for waiting in unknown if waiting.due > self.now), key=lambda one: one.due)
        for found, narrow in ((ready, self.window.narrow), (deferred, self.window.narrow_deferred)):
            for waiting in found[:room]:
                self.window.add(waiting, self.now)
            if len(found) > room:
                narrow(found[room - 1])

    def take(self, limit: int) -> None:
        """Take due tickets from the lookahead, and check that the sorted list begins with them."""
        taken: list[Ticket] = []
        while len(taken) < limit:
            self.look()
            one = self.window.take(1)
            if not one:
                break
            taken += one
            self.waiting.difference_update(one)
            self.out += one
        due = sorted(waiting for waiting in self.waiting | set(taken) if waiting.due <= self.now)
        assert taken == due[:limit]

    def apply(self, operation: Operation) -> None:
        """Make one step, and check what holds after each."""
        match operation:
            case "arrive", (rank, due):
                self.arrive(rank, due)
            case "arrive many", (rank, due, count):
                for _ in range(count):
                    self.arrive(rank, due)
            case "arrive unseen", (rank, due, count):  # events were lost, so there is a scan
                self.waiting.update(ticket(self.made + number, due, rank) for number in range(1, count + 1))
                self.made += count
                self.rescan()
            case "take", limit:
                self.take(limit)
            case "give back", count:
                back, self.out = self.out[:count], self.out[count:]
                self.waiting.update(back)
                self.window.release(back)
            case "settle", count:
                ended, self.out = self.out[:count], self.out[count:]
                for one in ended:
                    self.window.done(one.ref)
            case "pass", seconds:
                self.now += seconds
        assert self.window.out == len(self.out)
        assert sorted(self.window.handed_out()) == sorted(one.ref for one in self.out)
        assert self.window.size - self.window.ready <= 2 * self.limit
        self.most_out = max(self.most_out, len(self.out))
        assert self.window.ready <= 2 * self.limit + self.most_out


@settings(max_examples=200, deadline=None)
@given(operations, st.integers(1, 5), st.booleans())
def test_order_over_the_whole_queue(steps: list[Operation], limit: int, selective: bool) -> None:
    """Whatever arrives, is taken, returned or becomes due, however small the lookahead is, and whether scans return all
    or the earliest: it hands out what a sorted list of all waiting tasks begins with, and at the end nothing is left.
    """
    queue = Queue(limit, selective)
    for step in steps:
        queue.apply(step)
    queue.apply(("pass", 100))
    queue.take(len(queue.waiting) + 1)
    assert not queue.waiting


def test_bounds() -> None:
    """Of a million tasks, at most twice the limit is held of either kind, and nothing is remembered of the rest."""
    window = Lookahead(100)
    for number in range(20_000):
        window.add(ticket(number), 0.0)
        window.add(ticket(100_000 + number, due=10.0 + number), 0.0)
        assert window.ready <= 200
        assert window.size - window.ready <= 200
    refs = [ticket(number).ref for number in (*range(20_000), *range(100_000, 120_000))]
    assert sum(ref in window for ref in refs) == window.size


def test_nothing_beyond_the_horizon() -> None:
    """After a cut, a later ticket is not added, because others that were dropped come before it. An earlier one is."""
    window = Lookahead(2)
    for number in range(10, 15):
        window.add(ticket(number), 0.0)
    assert window.ready == 2
    window.add(ticket(99), 0.0)
    assert ticket(99).ref not in window
    window.add(ticket(1), 0.0)
    assert window.take(5) == [ticket(1), ticket(10), ticket(11)]
    assert window.lacking
    window.open_horizon()
    assert not window.lacking
    window.add(ticket(99), 0.0)
    assert window.take(5) == []  # something before it may still be found
    window.lift_barrier()
    assert window.take(5) == [ticket(99)]


def test_far_ones_do_not_hide_that_nearer_ones_were_passed_over() -> None:
    """If a scan finds more deferred tickets than there is room for, known ones that are later than these count as
    unknown, so the next scan comes in time.
    """
    queue = Queue(6, selective=True)
    for _ in range(4):
        queue.arrive(0, 100.0)
    queue.apply(("arrive unseen", (0, 10, 10)))
    queue.apply(("pass", 15))
    queue.take(20)
    assert len(queue.out) == 10


def test_lacking_before_it_is_empty() -> None:
    """A scan is requested while a third of the limit is left, so that workers do not wait for it."""
    window = Lookahead(10)
    for number in range(21):
        window.add(ticket(number), 0.0)
    assert not window.lacking
    window.take(6)
    assert not window.lacking
    window.take(1)
    assert window.lacking


def test_not_lacking_when_nothing_was_dropped() -> None:
    """An empty lookahead that knows all of an empty queue requests nothing."""
    window = Lookahead(10)
    assert not window.lacking
    window.add(ticket(1), 0.0)
    window.take(1)
    assert not window.lacking


def test_a_known_ticket_is_not_taken_twice() -> None:
    """Neither while it waits nor while it is handed out. After it has ended, it may come again."""
    window = Lookahead()
    for _ in range(2):
        window.add(ticket(1), 0.0)
    assert window.take(5) == [ticket(1)]
    window.add(ticket(1), 0.0)
    assert window.take(5) == []
    window.done(ticket(1).ref)
    window.add(ticket(1), 0.0)
    assert window.take(5) == [ticket(1)]


def test_deferred_until_due() -> None:
    """It is not handed out before its time, and then in order with the others."""
    window = Lookahead()
    window.add(ticket(1, due=10.0), 0.0)
    window.add(ticket(2, due=5.0), 0.0)
    assert (window.ready, window.next_due()) == (0, 5.0)
    window.promote(4.9)
    assert window.take(5) == []
    window.promote(10.0)
    assert window.next_due() is None
    assert window.peek() == ticket(2, due=5.0)
    assert window.take(5) == [ticket(2, due=5.0), ticket(1, due=10.0)]


def test_put_off() -> None:
    """A ticket that has ended may be checked again at a later time, which is then its due time."""
    window = Lookahead()
    window.add(ticket(1), 0.0)
    (taken,) = window.take(1)
    window.defer(taken, 7.0)
    assert window.next_due() is None  # it is still handed out
    window.done(taken.ref)
    window.defer(taken, 7.0)
    assert window.next_due() == 7.0
    window.promote(7.0)
    assert window.take(1) == [ticket(1, due=7.0)]


def test_give_back_only_what_is_out() -> None:
    """A ticket that has ended meanwhile does not come back."""
    window = Lookahead()
    for number in range(3):
        window.add(ticket(number), 0.0)
    taken = window.take(3)
    window.done(taken[0].ref)
    window.release(taken)
    window.release(taken)
    assert window.take(5) == taken[1:]


@pytest.mark.parametrize("due", [3.0, 20.0])
def test_a_deferred_ticket_may_change_its_time(due: float) -> None:
    """After it was dropped and added again, it is there once with the new time. A ready ticket and one that was handed
    out stay.
    """
    window = Lookahead()
    window.add(ticket(1, due=10.0), 0.0)
    window.add(ticket(2), 0.0)
    window.forget_deferred(ticket(1).ref)
    window.forget_deferred(ticket(2).ref)
    window.add(ticket(1, due=due), 0.0)
    assert (window.next_due(), window.ready) == (due, 1)
    assert window.take(1) == [ticket(2)]
    window.forget_deferred(ticket(2).ref)
    assert window.out == 1


def test_a_forgotten_ticket_comes_at_its_new_time_and_once() -> None:
    """A ticket that is added again with an earlier or later time no longer comes at the former one."""
    window = Lookahead()
    for ref, before, after in [("earlier", 20.0, 10.0), ("later", 20.0, 30.0), ("same", 20.0, 20.0)]:
        window.add(Ticket(0, before, ref), 0.0)
        window.forget_deferred(ref)
        assert ref not in window
        window.add(Ticket(0, after, ref), 0.0)
    window.add(Ticket(0, 5.0, "gone"), 0.0)
    window.forget_deferred("gone")
    for now, ref in [(10.0, "earlier"), (20.0, "same"), (30.0, "later")]:
        assert window.next_due() == now
        window.promote(now)
        assert [ticket.ref for ticket in window.take(10)] == [ref]
    assert window.next_due() is None


def test_forgetting_costs_no_look_at_all_the_others() -> None:
    """Tens of thousands of touched tickets, as after a restart with many retries, are added again in little time and
    memory, and none is dropped for the former ones.
    """
    window = Lookahead(limit=20_000)
    for round in range(3):
        for number in range(20_000):
            window.forget_deferred(str(number))
            window.add(Ticket(0, 100.0 + round, str(number)), 0.0)
    assert not window.forgetful
    window.promote(102.0)
    assert window.ready == 20_000
