"""Ends and claims that a worker exchanges with a backend in one call."""

import time

import pytest

from tests.nats.conftest import Open, crash, queue_on, until
from tests.nats.server import Server
from unspool import address, codec, inspection
from unspool.backends.base import Feed, Ticket
from unspool.backends.nats import NatsBackend
from unspool.message import (
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    End,
    Interrupted,
    Message,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from unspool.settings import Settings
from unspool.testing.exchange import sealed


def send(backend: NatsBackend, number: int) -> list[str]:
    """Send tasks, and return their refs."""
    return [
        id.rpartition("/")[2] for id in backend.send([sealed(codec.encode(Message("task"))) for _ in range(number)])
    ]


def claims(backend: NatsBackend, refs: list[str]) -> list[Claim]:
    """Claim tasks in one exchange."""
    taken = backend.exchange([], refs).taken
    claimed = [one for one in taken if isinstance(one, Claim)]
    assert len(claimed) == len(refs), taken
    return claimed


def test_ends_and_claims(backend: NatsBackend) -> None:
    """Each end is settled, and each ref is claimed or refused. All of this is done when the call returns."""
    refs = send(backend, 6)
    first, second, third, fourth = claims(backend, refs[:4])
    at = time.time() + 1000
    ends = [End(first, Ack()), End(second, Retry(at)), End(third, Release()), End(fourth, Bury("hopeless"))]
    done = backend.exchange(ends, [refs[4], first.ref, refs[5], "no such task"])
    assert (done.ended[0], done.ended[1], done.ended[3]) == (None, at, None)
    assert done.ended[2] is not None
    assert done.ended[2] <= time.time()
    assert [one.ref if isinstance(one, Claim) else one.kind for one in done.taken] == [
        refs[4],
        RefusalKind.GONE,
        refs[5],
        RefusalKind.GONE,
    ]
    counts = {State.RUNNING: 2, State.DEFERRED: 1, State.READY: 1, State.DEAD: 1}
    assert backend.counts().tasks == dict.fromkeys(State, 0) | counts
    (again,) = claims(backend, [third.ref])
    assert (again.attempts, again.crashes) == (1, 0)


def test_marks(backend: NatsBackend, opened: Open) -> None:
    """A task whose worker dies is deferred until the time of its mark. The death of an interrupted run counts as no
    crash."""
    refs, other = send(backend, 2), opened(backend.name)
    claims(backend, refs)
    at = time.time() + 1000
    backend.mark(refs[0], DeferOnCrash(at))
    backend.mark(refs[1], Interrupted())
    for ref in refs:
        crash(backend, ref)
    deferred, again = other.exchange([], refs).taken
    assert deferred == Refusal(RefusalKind.EARLY, at)
    assert isinstance(again, Claim)
    assert (again.attempts, again.crashes) == (2, 0)


def take(feed: Feed, number: int) -> list[Ticket]:
    """Take tickets from a feed."""
    tickets = list[Ticket]()

    def taken() -> bool:
        feed.refresh()
        tickets.extend(feed.take(number - len(tickets)))
        return len(tickets) == number

    until(taken)
    return tickets


def attempts(claims: list[Claim]) -> list[tuple[int, int]]:
    """Return the attempts and crashes of claims."""
    return [(one.attempts, one.crashes) for one in claims]


def test_claims_that_are_given_back(backend: NatsBackend, opened: Open) -> None:
    """A claim that was not begun is released by its fence, and counts neither an attempt nor a crash.

    A claim with another fence is not released.
    """
    worker, other = opened(backend.name), opened(backend.name)
    send(backend, 3)
    feed = backend.feed()
    tickets = take(feed, 3)
    claimed = {one.ref: one for one in claims(worker, [ticket.ref for ticket in tickets])}
    first, second, third = (ticket._replace(token=claimed[ticket.ref].fence) for ticket in tickets)
    feed.release([first, second, third._replace(token=third.token + 1)])
    again = take(feed, 3)
    found = other.exchange([], [ticket.ref for ticket in again]).taken
    assert sorted(one.ref for one in found if isinstance(one, Claim)) == sorted([first.ref, second.ref])
    assert attempts([one for one in found if isinstance(one, Claim)]) == [(1, 0)] * 2
    assert [one.kind for one in found if isinstance(one, Refusal)] == [RefusalKind.BUSY]
    feed.close()


def test_a_worker_that_dies_with_several_claims(backend: NatsBackend, opened: Open) -> None:
    """The supervisor releases the claims that were not begun. The others were begun, and count as crashes."""
    worker, other = opened(backend.name), opened(backend.name)
    send(backend, 2)
    feed = backend.feed()
    begun, unbegun = take(feed, 2)
    first, second = claims(worker, [begun.ref, unbegun.ref])
    for ref in (first.ref, second.ref):
        crash(backend, ref)
    names = backend.cluster.names
    record = backend.cluster.call(lambda stream: stream.last(names.state, names.run(second.ref)))
    assert record
    feed.release([unbegun._replace(token=record.seq)])
    feed.recheck()
    refs = [ticket.ref for ticket in take(feed, 2)]
    assert sorted(attempts(claims(other, refs))) == [(1, 0), (2, 1)]
    feed.close()


def test_a_supervisor_that_dies_with_its_worker(backend: NatsBackend, opened: Open) -> None:
    """If worker and supervisor die, tasks that were claimed together count no crash.

    Each is claimed alone the next time, and another death counts as a crash of that task.
    """
    worker, other = opened(backend.name), opened(backend.name)
    refs = send(backend, 3)
    claims(worker, refs[:2])
    for ref in refs[:2]:
        crash(backend, ref)
    alone, *rest = other.exchange([], refs).taken
    assert isinstance(alone, Claim)
    assert (alone.attempts, alone.crashes) == (1, 0)
    assert [one.kind for one in rest if isinstance(one, Refusal)] == [RefusalKind.EARLY] * 2
    crash(backend, alone.ref)
    (again,) = claims(opened(backend.name), [alone.ref])
    assert (again.attempts, again.crashes) == (2, 1)
    assert attempts(claims(other, refs[1:2])) == [(1, 0)]
    assert attempts(claims(other, refs[2:])) == [(1, 0)]


def test_a_mark_on_one_of_several_claims(backend: NatsBackend, opened: Open) -> None:
    """A marked task was begun, so the death of its worker counts as a crash."""
    refs = send(backend, 2)
    claims(backend, refs)
    backend.mark(refs[0], DeferOnCrash(1.0))
    crash(backend, refs[0])
    assert attempts(claims(opened(backend.name), refs[:1])) == [(2, 1)]


def test_a_claim_that_was_given_back_and_is_released(backend: NatsBackend, opened: Open) -> None:
    """A worker that releases a claim which its supervisor has released already does not affect the next claim."""
    late, other = opened(backend.name), opened(backend.name)
    send(backend, 2)
    feed = backend.feed()
    tickets = take(feed, 2)
    claimed = claims(late, [ticket.ref for ticket in tickets])
    feed.release([ticket._replace(token=one.fence) for ticket, one in zip(tickets, claimed, strict=True)])
    again = claims(other, [ticket.ref for ticket in take(feed, 2)])
    crash(backend, again[0].ref)  # the next one is another process
    late.exchange([End(one, Release(), repeated=True) for one in claimed[:1]], [])
    assert backend.counts().tasks[State.READY] + backend.counts().tasks[State.RUNNING] == 2
    stored = backend.cluster.call(
        lambda stream: stream.last(backend.cluster.names.tasks, again[0].token.stored.subject)
    )
    assert stored
    assert stored.seq == again[0].token.stored.seq
    feed.close()


def test_ends_of_a_dead_worker(backend: NatsBackend, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """A supervisor settles the finished runs of a worker by their fences. Another claim of a task is not settled."""
    refs, other = send(backend, 2), opened(backend.name)
    first, second = claims(backend, refs)
    ends = [
        End(Claim(one.id, one.ref, one.envelope, 1, 0, fence=one.fence), Ack(), repeated=True)
        for one in (first, second)
    ]
    other.exchange([ends[0], ends[1]._replace(claim=ends[1].claim._replace(fence=second.fence + 1))], [])
    assert (inspection.find(backend, first.id), backend.counts().tasks[State.RUNNING]) == (None, 1)
    other.exchange(ends, [])
    assert sum(backend.counts().tasks.values()) == 0
    assert not caplog.records


def test_an_empty_exchange(backend: NatsBackend, own_server: Server) -> None:
    """An empty exchange sends no request, even if no server can be reached."""
    assert backend.exchange([], []) == ([], [])
    own_server.kill()
    unreachable = NatsBackend(address.parse(queue_on(own_server.url)), Settings())
    assert unreachable.exchange([], []) == ([], [])
